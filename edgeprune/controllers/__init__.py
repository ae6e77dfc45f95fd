"""One way to spend a budget per file."""
