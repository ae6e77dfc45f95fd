"""Which channels go together: labels ride the network's real operations.

Data flow: `ride` runs the network once and calls one rule an operation (`rules_*`), the rules write what they
learn into a `ledger`, and `solve` turns the ledger into groups.
"""
