"""The coded file: every structure that methods put into a model becomes bytes that are not there any more."""
