"""The two sides of a layer as nodes of the program, and costs tabulated over their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.controllers._program import Cost


@dataclass(frozen=True)
class Side:
    """The channels on one side of a layer: what its node's count means, or a fixed number where it has no node."""

    node: str | None
    channels: int
    channels_of: Callable[[int], float]


def tabulated(
    names: tuple[str, ...],
    amounts: Callable[[int, int], Mapping[str, float]],
    rows: Sequence[int],
    columns: Sequence[int],
    gate: str = "",
) -> Cost:
    """Return what the options of two nodes cost together, or of one (whose options are the columns)."""
    found = [[amounts(row, column) for column in columns] for row in rows]
    tables = {name: np.array([[cell[name] for cell in line] for line in found]) for name in found[0][0]}
    if len(names) == 1:
        tables = {name: table[0] for name, table in tables.items()}
    return Cost(names, tables, gate)
