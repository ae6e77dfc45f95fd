"""Which atoms are one unit: all ties at once, then the rectangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from edgeprune.network.coupling.ledger import Atoms, Ledger, Reason, long_axes


@dataclass(frozen=True)
class Classes:
    """The class of every atom, and for the classes that cannot be removed the first reason."""

    of: Atoms
    count: int
    pinned: Atoms  # of each class: 0, or 1 + the position of its first pin in the ledger

    def reason(self, ledger: Ledger, unit: int) -> Reason | None:
        """Why a class is pinned; None where it only meets fixed tensors."""
        return ledger.pins[int(self.pinned[unit]) - 1][1]


def classes_of(ledger: Ledger) -> Classes:
    """Unite what is tied, then make every rectangle vary along one axis only.

    One axis of channels that was viewed as several must stay a full rectangle. Where no operation said which
    of the axes the units lie along, it is the longest.
    """
    of, count = _united(ledger)
    open_ = [part for part in ledger.rectangles if not _settled(of, part)]
    while open_:
        for part in open_:
            for axis in _axes_to_tie(of, part):
                ledger.tie_along(part, axis)
        of, count = _united(ledger)
        open_ = [part for part in open_ if not _settled(of, part)]
    return Classes(of, count, _pinned(ledger, of, count))


def _united(ledger: Ledger) -> tuple[Atoms, int]:
    pairs = [pair for pair in ledger.ties if len(pair[0])]
    left = np.concatenate([pair[0] for pair in pairs]) if pairs else np.zeros(0, np.int64)
    right = np.concatenate([pair[1] for pair in pairs]) if pairs else np.zeros(0, np.int64)
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(ledger.count, ledger.count))
    count, of = connected_components(graph, directed=False)
    return of.astype(np.int64), int(count)


def varying_axes(values: Tensor) -> list[int]:
    """The axes along which values change, each looked at alone."""
    return [axis for axis in long_axes(values) if not torch.equal(values, values.narrow(axis, 0, 1).expand_as(values))]


def _settled(of: Atoms, part: Tensor) -> bool:
    return len(varying_axes(torch.from_numpy(of)[part])) <= 1


def _axes_to_tie(of: Atoms, part: Tensor) -> list[int]:
    axes = varying_axes(torch.from_numpy(of)[part])
    kept = max(axes, key=lambda axis: part.shape[axis])
    return [axis for axis in axes if axis != kept]


def _pinned(ledger: Ledger, of: Atoms, count: int) -> Atoms:
    pinned = np.zeros(count, np.int64)
    for position in range(len(ledger.pins) - 1, -1, -1):
        atoms, reason = ledger.pins[position]
        if reason is not None or len(atoms):
            pinned[of[atoms]] = position + 1
    pinned[of[0]] = pinned[of[0]] or 1
    return pinned
