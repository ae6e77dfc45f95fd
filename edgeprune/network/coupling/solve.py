"""Turns what one run taught into groups: units, the slices they own, constraints, costs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from edgeprune.network.coupling.classes import Classes, classes_of
from edgeprune.network.coupling.constraints import Rule, equal_counts, merged
from edgeprune.network.coupling.ledger import Atoms, Flags
from edgeprune.network.coupling.ride import Trace
from edgeprune.network.groups import Role

Axis = tuple[str, int]  # a parameter or buffer, and a dimension of it


@dataclass(frozen=True)
class Owned:
    """The positions along one axis of one tensor, sorted by the class that owns them."""

    axis: Axis
    role: Role
    positions: Atoms
    classes: Atoms  # the owning class of each position, ascending
    first: int  # when the axis was first written, for naming


@dataclass
class Bundle:
    """Classes that own positions of exactly the same axes: the units of one group."""

    classes: Atoms
    axes: list[int]  # positions in the list of `Owned`
    writer: str = ""
    start: int = 0
    order: int = 0


@dataclass(frozen=True)
class Solution:
    """Classes, who owns what, and the bundles in the order in which the network writes them."""

    classes: Classes
    owned: list[Owned]
    bundles: list[Bundle]
    blocked: list[Bundle]
    rules: list[Rule]


def solve(trace: Trace) -> Solution:
    """Unite, sort by owner and collect the classes with equal owners."""
    ledger = trace.ledger
    classes = classes_of(ledger)
    rules = equal_counts(ledger, classes)
    written, read = _order(trace), _marked(ledger.readers, ledger.count)
    writable = np.zeros(classes.count, bool)
    writable[classes.of[np.flatnonzero(written)]] = True
    owned = []
    for name, axes in trace.axes.items():
        for dim, atoms in axes.items():
            own = _owned((name, dim), atoms.numpy(), (classes, written, read), writable)
            if own is not None:
                owned.append(own)
    bundles = _bundles(owned, classes)
    free = [bundle for bundle in bundles if not classes.pinned[bundle.classes[0]]]
    blocked = [bundle for bundle in bundles if classes.pinned[bundle.classes[0]]]
    free = [_union([free[position] for position in some]) for some in merged([b.classes for b in free], rules)]
    for bundle in (*free, *blocked):
        _name(bundle, owned)
    free.sort(key=lambda bundle: (bundle.order, bundle.start))
    blocked.sort(key=lambda bundle: (bundle.order, bundle.start))
    return Solution(classes, owned, free, blocked, rules)


def _union(bundles: list[Bundle]) -> Bundle:
    """One group of several whose counts are bound to each other."""
    if len(bundles) == 1:
        return bundles[0]
    axes = sorted({axis for bundle in bundles for axis in bundle.axes})
    return Bundle(np.concatenate([bundle.classes for bundle in bundles]), axes)


def _marked(marks: list[Atoms], count: int) -> Flags:
    marked = np.zeros(count, bool)
    for atoms in marks:
        marked[atoms] = True
    return marked


def _order(trace: Trace) -> Atoms:
    """For each atom 1 + when it was first written, 0 where it never was."""
    order = np.zeros(trace.ledger.count, np.int64)
    for step in range(len(trace.ledger.writers) - 1, -1, -1):
        order[trace.ledger.writers[step]] = step + 1
    order[0] = 0
    return order


def _owned(axis: Axis, atoms: Atoms, facts: tuple[Classes, Atoms, Flags], writable: Flags) -> Owned | None:
    classes, written, read = facts
    of = classes.of[atoms]
    positions = np.flatnonzero(writable[of])
    if not len(positions):
        return None
    positions = positions[np.argsort(of[positions], kind="stable")]
    own = atoms[positions]
    role: Role = "reader" if read[own].any() else "writer" if written[own].any() else "carrier"
    first = int(written[own].max()) if written[own].any() else 0
    return Owned(axis, role, positions, of[positions], first)


def _bundles(owned: list[Owned], classes: Classes) -> list[Bundle]:
    """Group classes by the set of axes they own positions of; pinned ones apart."""
    rng = np.random.default_rng(0)
    keys = np.where(classes.pinned > 0, rng.integers(1, 2**63, dtype=np.uint64), np.uint64(0))
    present = []
    for own in owned:
        some = np.unique(own.classes)
        present.append(some)
        keys[some] += rng.integers(1, 2**63, dtype=np.uint64)  # a random sum is equal only for equal sets
    axes: dict[int, list[int]] = defaultdict(list)
    members: dict[int, Atoms] = {}
    for position, some in enumerate(present):
        for key in np.unique(keys[some]):
            axes[int(key)].append(position)
            if int(key) not in members:
                members[int(key)] = some[keys[some] == key]
    return [Bundle(members[key], axes[key]) for key in members]


def _name(bundle: Bundle, owned: list[Owned]) -> None:
    """Name a bundle after the tensor that first writes it, and order its units by their place in it."""
    writers = [owned[position] for position in bundle.axes if owned[position].first]
    writers.sort(key=lambda own: own.first)
    rank: dict[int, tuple[int, int]] = {}
    for own in writers:
        mine = np.isin(own.classes, bundle.classes)
        for unit, place in zip(own.classes[mine].tolist(), own.positions[mine].tolist(), strict=True):
            rank.setdefault(unit, (own.first, place))
        if len(rank) == len(bundle.classes):
            break
    bundle.classes = np.array(sorted(rank, key=lambda unit: rank[unit]), np.int64)
    bundle.writer = writers[0].axis[0].rpartition(".")[0] or writers[0].axis[0]
    bundle.order, bundle.start = rank[int(bundle.classes[0])]
