"""One way to reach a board per file."""
