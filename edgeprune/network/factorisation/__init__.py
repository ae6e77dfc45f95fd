"""Low-rank factorisation: one layer becomes a chain of thinner ones that computes almost the same."""
