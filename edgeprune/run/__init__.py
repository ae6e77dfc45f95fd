"""One compress run, from the stated problem to the verdict."""
