"""What layers cost, and what removing one unit saves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from edgeprune.network.coupling.ledger import Atoms, Work
from edgeprune.network.coupling.ride import Trace
from edgeprune.network.coupling.solve import Bundle, Solution
from edgeprune.network.groups import Layer


def savings(trace: Trace, solution: Solution, bundle: Bundle) -> tuple[int, int]:
    """Multiply-accumulates and parameters that removing one average unit from the whole network saves."""
    units = len(bundle.classes)
    mine = np.zeros(solution.classes.count, bool)
    mine[bundle.classes] = True
    macs = 0.0
    for work in trace.ledger.work:
        kept = 1.0
        for axis in (work.inner, work.outer, work.shared):
            kept *= 1 - _share(axis, solution, mine) / units
        macs += work.macs * (1 - kept)
    left: dict[str, float] = defaultdict(lambda: 1.0)
    for axis in bundle.axes:
        own = solution.owned[axis]
        positions = int(mine[own.classes].sum())
        left[own.axis[0]] *= 1 - positions / units / trace.shapes[own.axis[0]][own.axis[1]]
    learned = (name for name in left if name in trace.parameters)
    parameters = sum(math.prod(trace.shapes[name]) * (1 - left[name]) for name in learned)
    return round(macs), round(parameters)


def _share(axis: Sequence[Atoms], solution: Solution, mine: Atoms) -> float:
    """The part of an axis that these classes own."""
    if not axis:
        return 0.0
    return float(np.mean([mine[solution.classes.of[atoms]].mean() for atoms in axis]))


def layers_of(trace: Trace, solution: Solution, groups: dict[str, Bundle]) -> tuple[Layer, ...]:
    """The layers in the order in which they first ran; a layer that runs twice costs twice."""
    home = np.full(solution.classes.count, -1, np.int64)
    names = list(groups)
    for position, bundle in enumerate(groups.values()):
        home[bundle.classes] = position
    runs: dict[tuple[str, str], list[Work]] = defaultdict(list)
    for work in trace.ledger.work:
        runs[work.layer, work.kind].append(work)
    layers = []
    for (name, kind), works in runs.items():
        first = works[0]
        inner = _parts(first.inner or first.shared, solution, home, names)
        outer = _parts(first.outer or first.shared, solution, home, names)
        parameters = math.prod(trace.shapes[first.weight]) if first.weight in trace.parameters else 0
        macs = sum(work.macs for work in works)
        layers.append(Layer(name, kind, macs, parameters, _largest(inner), _largest(outer), inner, outer))
    return tuple(layers)


def _parts(
    axis: Sequence[Atoms], solution: Solution, home: Atoms, names: list[str]
) -> tuple[tuple[str | None, int], ...]:
    """How many positions of an axis each group owns; None is what belongs to no group."""
    if not axis:
        return ()
    owners, counts = np.unique(home[solution.classes.of[axis[0]]], return_counts=True)
    return tuple(
        (names[owner] if owner >= 0 else None, int(count)) for owner, count in zip(owners, counts, strict=True)
    )


def _largest(parts: tuple[tuple[str | None, int], ...]) -> str | None:
    """The group that owns most of an axis."""
    owned = [part for part in parts if part[0] is not None]
    return max(owned, key=lambda part: part[1])[0] if owned else None
