"""The exact choice of one number of units a group: a multiple-choice integer program, solved by HiGHS.

A layer's cost depends on the channels that it reads and on those that it writes. Each side is a *node* with a few
options: a group, or the sum of several groups after a concatenation. Two nodes that a layer joins get pair variables,
which the options of both nodes fix (a transportation polytope, so that the relaxation is tight). A sum is rounded up
to its next option, so that its cost is never too low, or lies between two of them where its stairs are too many.

What is minimised is what is lost: a proof to within 1 % of all value would allow to lose several times too much.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_GAP = 0.01  # of what is lost: how much more than a solution loses than the best one might
_GAP_TO_RELAXED = 0.03  # likewise, of a solution near that of the relaxed program
_TIME_LIMIT_S = 30.0
_CHOSEN = 1e-6


@dataclass(frozen=True)
class Node:
    """Something with options, one of which is chosen: its numbers, ascending, and what each is worth.

    `parts` is set where the numbers are channels of a sum: by node, the channels that each of its options adds; `rest`
    are the channels of the sum that belong to no node. With `between` a sum need not have one of its options: it costs
    what lies between theirs.
    """

    name: str
    counts: tuple[int, ...]
    values: tuple[float, ...] = ()
    parts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    rest: float = 0.0
    between: bool = False


@dataclass(frozen=True)
class Cost:
    """What the options of one node, or of two, cost of every resource: (options,) or (options, options) arrays.

    What is endless cannot be chosen. With a `gate` it costs only while that node has its last option; the gate has
    costs together with each of the two.
    """

    nodes: tuple[str, ...]
    amounts: Mapping[str, Floats]
    gate: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """The nodes, and the gate."""
        return (*self.nodes, self.gate) if self.gate else self.nodes

    def forbidden(self) -> Floats:
        """1 where an option, or a pair of them, cannot be chosen."""
        tables = [~np.isfinite(amounts) for amounts in self.amounts.values()]
        found: Floats = np.any(tables, axis=0).astype(float)
        return found


@dataclass(frozen=True)
class Limit:
    """The most of a resource, what it takes whatever is chosen, and its scale."""

    most: float
    fixed: float = 0.0


@dataclass(frozen=True)
class Solution:
    """The chosen count of each node that is no sum, and what is lost in thousandths of all value."""

    counts: Mapping[str, int]
    lost: float


def solve(nodes: Sequence[Node], costs: Sequence[Cost], limits: Mapping[str, Limit]) -> Solution | None:
    """Return the choice within the limits that loses least, or None where there is none.

    Most programs are solved among the options next to those of the relaxed program, whose value is the proof; where
    that is not near enough, among all options.
    """
    program = _Program(nodes, merged(costs), limits)
    relaxed = program.minimised(program.most(), np.zeros(program.width))
    if relaxed is None:
        return None
    near = program.minimised(program.near(relaxed), program.integrality())
    if near is not None and program.lost(near) <= (1 + _GAP_TO_RELAXED) * program.lost(relaxed):
        return program.solution(near)
    found = [
        program.solution(one)
        for one in (near, program.minimised(program.most(), program.integrality()))
        if one is not None
    ]
    return min(found, key=lambda one: one.lost, default=None)


def merged(costs: Sequence[Cost]) -> list[Cost]:
    """Add up the costs of layers that join the same nodes, whichever way round."""
    sums: dict[tuple[tuple[str, ...], str], dict[str, Floats]] = defaultdict(dict)
    for cost in costs:
        key = tuple(sorted(cost.nodes))
        for resource, amounts in cost.amounts.items():
            turned = amounts if key == cost.nodes else amounts.T
            sums[key, cost.gate][resource] = sums[key, cost.gate].get(resource, 0.0) + turned
    return [Cost(nodes, amounts, gate) for (nodes, gate), amounts in sums.items()]


def combined(
    costs: Sequence[Cost], resource: str, amounts_of: Callable[[int, Cost], Floats | None]
) -> tuple[Cost, ...]:
    """Return the costs with one more resource: what a function makes of each and its place, None for nothing."""
    found = []
    for place, cost in enumerate(costs):
        amounts = amounts_of(place, cost)
        found.append(cost if amounts is None else Cost(cost.nodes, {**cost.amounts, resource: amounts}, cost.gate))
    return tuple(found)


class _Program:
    """Numbers the variables: one for each option of a node, one for each pair of options of joined nodes."""

    def __init__(self, nodes: Sequence[Node], costs: Sequence[Cost], limits: Mapping[str, Limit]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._costs = costs
        self._limits = limits
        self.columns: dict[str, slice] = {}
        self.pair_columns: dict[tuple[str, ...], slice] = {}
        self.width = 0
        for node in nodes:
            self.columns[node.name] = self._take(len(node.counts))
        for cost in costs:
            if len(cost.nodes) == 2:
                left, right = (len(self._nodes[name].counts) for name in cost.nodes)
                self.pair_columns[cost.key] = self._take(left * right)

    def _take(self, count: int) -> slice:
        self.width += count
        return slice(self.width - count, self.width)

    def minimised(self, most: Floats, integrality: Floats) -> Floats | None:
        """Return the variables that lose least, each at most so large, or None where there is no choice."""
        from scipy.optimize import Bounds, milp

        with _unheard():
            found = milp(
                self._losses(),
                integrality=integrality,
                bounds=Bounds(0, most),
                constraints=[*self._choices(), *self._sums(), *self._pairs(), *self._within()],
                options={"mip_rel_gap": _GAP, "time_limit": _TIME_LIMIT_S},
            )
        variables: Floats | None = found.x
        return variables

    def lost(self, variables: Floats) -> float:
        """Return what is lost of a value of 1000."""
        return float(self._losses() @ variables)

    def solution(self, variables: Floats) -> Solution:
        """Return the options that variables choose."""
        own = [node for node in self._nodes.values() if not node.parts]
        counts = {node.name: node.counts[int(np.argmax(variables[self.columns[node.name]]))] for node in own}
        return Solution(counts, self.lost(variables))

    def _losses(self) -> Floats:
        """What each option loses of the best one of its node; all nodes at their best are worth 1000."""
        row = np.zeros(self.width)
        best = sum(max(node.values) for node in self._nodes.values() if node.values)
        for name, node in self._nodes.items():
            if node.values:
                row[self.columns[name]] = (max(node.values) - np.asarray(node.values)) * (
                    1000.0 / best if best > 0 else 1.0
                )
        return row

    def integrality(self) -> Floats:
        """Options are taken or not, but for those of sums that lie between two; pairs follow."""
        row = np.zeros(self.width)
        for name, columns in self.columns.items():
            row[columns] = 0.0 if self._nodes[name].between else 1.0
        return row

    def near(self, variables: Floats) -> Floats:
        """Return the most that each variable can be where only the chosen options, and those beside them, are left."""
        kept = {name: _with_neighbours(variables[columns] > _CHOSEN) for name, columns in self.columns.items()}
        row = self.most()
        for name, columns in self.columns.items():
            row[columns] *= kept[name]
        for names, columns in self.pair_columns.items():
            row[columns] *= np.outer(kept[names[0]], kept[names[1]]).reshape(-1)
        return row

    def most(self) -> Floats:
        """0 for what cannot be chosen, else 1."""
        row = np.ones(self.width)
        for cost in self._costs:
            row[self._place(cost)] -= cost.forbidden().reshape(-1)
        return np.maximum(row, 0.0)

    def _place(self, cost: Cost) -> slice:
        return self.pair_columns[cost.key] if len(cost.nodes) == 2 else self.columns[cost.nodes[0]]

    def _choices(self) -> list[Any]:
        """One option of each node."""
        rows = _Rows(self.width)
        for columns in self.columns.values():
            rows.add(_range(columns), np.ones(columns.stop - columns.start), 1.0, 1.0)
        return rows.constraints()

    def _sums(self) -> list[Any]:
        """The option of a sum holds at least the channels of its parts."""
        rows = _Rows(self.width)
        for name, node in self._nodes.items():
            if node.parts:
                columns = [_range(self.columns[part]) for part in node.parts]
                weights = [np.asarray(channels) for channels in node.parts.values()]
                own = self.columns[name]
                rows.add(
                    np.concatenate([*columns, _range(own)]),
                    np.concatenate([*weights, -np.asarray(node.counts, float)]),
                    -np.inf,
                    -node.rest,
                )
        return rows.constraints()

    def _pairs(self) -> list[Any]:
        """The pairs with an option add up to that option; behind a gate, to that option while the gate is open."""
        rows = _Rows(self.width)
        for names, columns in self.pair_columns.items():
            left, right = (self._options(name, *names[2:]) for name in names[:2])
            grid = _range(columns).reshape(len(left), len(right))
            for place, option in enumerate(left):
                rows.add(np.append(grid[place], option), np.append(np.ones(len(right)), -1.0), 0.0, 0.0)
            for place, option in enumerate(right):
                rows.add(np.append(grid[:, place], option), np.append(np.ones(len(left)), -1.0), 0.0, 0.0)
        return rows.constraints()

    def _options(self, name: str, gate: str = "") -> npt.NDArray[np.int64]:
        """The variables of the options of a node, or those of their pairs with the last option of a gate."""
        if not gate:
            return _range(self.columns[name])
        names = tuple(sorted((name, gate)))
        sizes = [len(self._nodes[one].counts) for one in names]
        grid = _range(self.pair_columns[names]).reshape(sizes)
        return grid[-1] if names[0] == gate else grid[:, -1]

    def _within(self) -> list[Any]:
        """All that is chosen stays within each limit; each row is scaled to a limit of 100."""
        rows = _Rows(self.width)
        for resource, limit in self._limits.items():
            room = limit.most - limit.fixed
            scale = 100.0 / abs(room) if room else 1.0
            columns, weights = [], []
            for cost in self._costs:
                if resource in cost.amounts:
                    amounts = cost.amounts[resource].reshape(-1)
                    columns.append(_range(self._place(cost)))
                    weights.append(np.where(np.isfinite(amounts), amounts, 0.0) * scale)
            if columns:
                rows.add(np.concatenate(columns), np.concatenate(weights), -np.inf, room * scale)
        return rows.constraints()


class _Rows:
    """Collects sparse rows with their lower and upper ends."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: list[tuple[npt.NDArray[np.int64], Floats, float, float]] = []

    def add(self, columns: npt.NDArray[np.int64], weights: Floats, least: float, most: float) -> None:
        self._rows.append((columns, weights, least, most))

    def constraints(self) -> list[Any]:
        """One constraint object of scipy, or none where there are no rows."""
        from scipy.optimize import LinearConstraint
        from scipy.sparse import csr_array

        if not self._rows:
            return []
        starts = np.cumsum([0, *(len(row[0]) for row in self._rows)])
        columns = np.concatenate([row[0] for row in self._rows])
        weights = np.concatenate([row[1] for row in self._rows])
        matrix = csr_array((weights, columns, starts), shape=(len(self._rows), self._width))
        return [LinearConstraint(matrix, [row[2] for row in self._rows], [row[3] for row in self._rows])]


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Keep standard output for answers: HiGHS prints a line there now and then, whatever its options say."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
        flush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _with_neighbours(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    found = chosen.copy()
    found[1:] |= chosen[:-1]
    found[:-1] |= chosen[1:]
    return found


def _range(columns: slice) -> npt.NDArray[np.int64]:
    return np.arange(columns.start, columns.stop)
