"""One pruning method per file; the file name is the method's name."""
