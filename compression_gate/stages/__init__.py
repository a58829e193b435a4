"""One file per word of the pipeline: read files, call the parts, write files. No stage calls another."""
