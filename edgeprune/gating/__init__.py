"""One gate, from the named results to the verdict: reading, measuring, comparing, remembering."""
