"""Records of past runs, kept in the repository's own git, and which of them a commit is held against."""
