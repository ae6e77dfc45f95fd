"""One inference engine per file: the host half builds, the board half opens and runs."""
