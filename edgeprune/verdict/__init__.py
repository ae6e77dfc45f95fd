"""Is it good enough: budget, result, report."""
