"""One command a file: its flags, and what it does; the heavy rooms are imported as they are needed."""
