"""Equal counts: which blocks of units must keep equally many, and which cannot and are pinned for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeprune.network.coupling.classes import Classes
from edgeprune.network.coupling.ledger import Atoms, Block, Ledger, Reason

Rows = tuple[tuple[int, ...], ...]
REMEDY = "Leave the group whole, or make the blocks of the network equally long and free of fixed channels."


@dataclass(frozen=True)
class Rule:
    """Rows of classes that must keep equally many, and why."""

    rows: Rows
    reason: str


def equal_counts(ledger: Ledger, classes: Classes) -> list[Rule]:
    """The constraints that bind; blocks that no count can satisfy are pinned in `classes`."""
    rules: dict[Rows, Rule] = {}
    again = True
    while again:
        again, rules = False, {}
        for block in ledger.blocks:
            rows = _rows(block, classes)
            if rows is None:
                _pin(ledger, classes, block)
                again = True
            elif rows:
                rules.setdefault(rows, Rule(rows, block.reason))
    return list(rules.values())


def _rows(block: Block, classes: Classes) -> Rows | None:
    """The free classes of each row; () where nothing binds, None where nothing can be removed."""
    rows = [np.unique(classes.of[row], return_counts=True) for row in block.rows]
    free = [np.flatnonzero(classes.pinned[units] == 0) for units, _ in rows]
    if not any(len(some) for some in free) or _same([units for units, _ in rows]):
        return ()
    sizes = {len(row) for row in block.rows} | {-len(some) for some in free}
    counts = np.unique(np.concatenate([row[1][some] for row, some in zip(rows, free, strict=True)]))
    units = [row[0][some] for row, some in zip(rows, free, strict=True)]
    together = np.concatenate(units)
    if len(sizes) > 2 or len(counts) > 1 or len(units[0]) < 2 or len(np.unique(together)) != len(together):
        return None
    return tuple(tuple(row.tolist()) for row in units)


def _same(rows: list[Atoms]) -> bool:
    return all(np.array_equal(row, rows[0]) for row in rows)


def _pin(ledger: Ledger, classes: Classes, block: Block) -> None:
    reason = Reason(f"its blocks can never keep equally many: {block.reason}", "equal counts", "", "", REMEDY)
    atoms = np.concatenate(block.rows)
    ledger.pins.append((atoms, reason))
    units = np.unique(classes.of[atoms])
    classes.pinned[units[classes.pinned[units] == 0]] = len(ledger.pins)


def merged(bundles: list[Atoms], rules: list[Rule]) -> list[list[int]]:
    """Which bundles a rule binds to each other: lists of positions in `bundles`."""
    home = {int(unit): position for position, units in enumerate(bundles) for unit in units}
    parent = list(range(len(bundles)))

    def root(position: int) -> int:
        while parent[position] != position:
            position = parent[position]
        return position

    for rule in rules:
        touched = {root(home[unit]) for row in rule.rows for unit in row if unit in home}
        for other in touched:
            parent[other] = min(touched)
    sets: dict[int, list[int]] = {}
    for position in range(len(bundles)):
        sets.setdefault(root(position), []).append(position)
    return list(sets.values())
