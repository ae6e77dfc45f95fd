"""What layers cost, and what removing one unit saves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from edgeprune.network.coupling.ledger import Atoms, Work
from edgeprune.network.coupling.ride import Trace
from edgeprune.network.coupling.solve import Bundle, Solution
from edgeprune.network.groups import Layer

Parts = tuple[tuple[str | None, int], ...]  # how many channels each group owns; None is what belongs to no group


def savings(trace: Trace, solution: Solution) -> list[tuple[int, int]]:
    """For each bundle, the multiply-accumulates and parameters that removing one average unit saves."""
    home = np.full(solution.classes.count, -1, np.int64)
    for position, bundle in enumerate(solution.bundles):
        home[bundle.classes] = position
    units = [len(bundle.classes) for bundle in solution.bundles]
    macs, owners = np.zeros(len(units)), home[solution.classes.of]
    for work in trace.ledger.work:
        for place, kept in _kept(work, owners, units).items():
            macs[place] += work.macs * (1 - kept)
    parameters = np.zeros(len(units))
    for name, axes in _owners(solution, home).items():
        size = math.prod(trace.shapes[name]) if name in trace.parameters else 0
        for place, shares in axes.items():
            kept = math.prod(1 - count / units[place] / trace.shapes[name][dim] for dim, count in shares)
            parameters[place] += size * (1 - kept)
    return [(round(a), round(b)) for a, b in zip(macs.tolist(), parameters.tolist(), strict=True)]


def _kept(work: Work, owners: Atoms, units: list[int]) -> dict[int, float]:
    """The part of an operation that is left when one average unit of a bundle goes, for each bundle it touches."""
    kept: dict[int, float] = defaultdict(lambda: 1.0)
    for atoms in (*work.inner[:1], *work.outer[:1], *_distinct(work.shared, owners)):
        bundles, counts = np.unique(owners[atoms], return_counts=True)
        for bundle, count in zip(bundles.tolist(), counts.tolist(), strict=True):
            if bundle >= 0:
                kept[bundle] *= 1 - count / len(atoms) / units[bundle]
    return kept


def _distinct(shared: Sequence[Atoms], owners: Atoms) -> list[Atoms]:
    """Of axes that belong to the same bundles, such as the heads of both factors of a product, one each."""
    return list({np.unique(owners[atoms]).tobytes(): atoms for atoms in shared}.values())


def _owners(solution: Solution, home: Atoms) -> dict[str, dict[int, list[tuple[int, int]]]]:
    """By tensor and bundle: the dimensions that the bundle owns positions of, and how many."""
    owners: dict[str, dict[int, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    for own in solution.owned:
        bundles, counts = np.unique(home[own.classes], return_counts=True)
        for bundle, count in zip(bundles.tolist(), counts.tolist(), strict=True):
            if bundle >= 0:
                owners[own.axis[0]][bundle].append((own.axis[1], count))
    return owners


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
        inner, outer = _sides(first, lambda axis: _parts(axis, solution, home, names))
        apart = not first.inner and not first.outer
        parameters = math.prod(trace.shapes[first.weight]) if first.weight in trace.parameters else 0
        macs = sum(work.macs for work in works)
        sides = (_largest(inner), _largest(outer), inner, outer)
        layers.append(Layer(name, kind, macs, parameters, *sides, apart))
    return tuple(layers)


def _sides(work: Work, parts_of: Callable[[Sequence[Atoms]], Parts]) -> tuple[Parts, Parts]:
    """Who owns the input and the output; units that an operation treats one by one stand in where a side has none."""
    inner, outer, shared = (parts_of(axis) for axis in (work.inner, work.outer, work.shared))
    if not work.inner or not work.outer:
        return inner or shared, outer or shared
    if _largest(inner) is None:
        return shared or inner, outer
    return inner, shared or outer if _largest(outer) is None else outer


def _parts(axis: Sequence[Atoms], solution: Solution, home: Atoms, names: list[str]) -> Parts:
    """How many positions of an axis each group owns."""
    if not axis:
        return ()
    owners, counts = np.unique(home[solution.classes.of[axis[0]]], return_counts=True)
    return tuple(
        (names[owner] if owner >= 0 else None, int(count)) for owner, count in zip(owners, counts, strict=True)
    )


def _largest(parts: Parts) -> str | None:
    """The group that owns most of an axis."""
    owned = [part for part in parts if part[0] is not None]
    return max(owned, key=lambda part: part[1])[0] if owned else None
