"""What one run of a network teaches about its channels: atoms, ties, pins, marks.

An *atom* is one position along one axis of one parameter or buffer. A *part* is an integer tensor of atoms
that has as many axes as the tensor it describes, each of full size or, where the label does not change along
it, of size 1; so a part costs as much as the labelled axis and nothing for the others. Atom 0 is a position
that can never be removed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Atoms = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reason:
    """Why channels are left alone, where that was decided, and what a person can do about it."""

    text: str
    operation: str
    module: str
    location: str
    remedy: str


@dataclass(frozen=True)
class Block:
    """Rows of atoms (blocks, units of a block) that must keep equally many, and why."""

    rows: tuple[Atoms, ...]
    reason: str


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one operation and the atoms along the axes that they are proportional to."""

    layer: str
    kind: str
    macs: int
    inner: tuple[Atoms, ...]
    outer: tuple[Atoms, ...]
    shared: tuple[Atoms, ...]
    weight: str


@dataclass
class Ledger:
    """Grows while the network runs; nothing is united before `solve` does it for all ties at once."""

    count: int = 1
    ties: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    pins: list[tuple[Atoms, Reason | None]] = field(default_factory=list)
    rectangles: list[Tensor] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    writers: list[Atoms] = field(default_factory=list)
    readers: list[Atoms] = field(default_factory=list)
    heads: list[Atoms] = field(default_factory=list)
    statistics: list[tuple[Atoms, Reason]] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    macs: int = 0
    # Where ranges of atoms start and end, alternating: of tables, and of copies that follow any number.
    tables: list[int] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)

    def fresh(self, size: int) -> Tensor:
        """Make new atoms, shape (size,)."""
        start, self.count = self.count, self.count + size
        return torch.arange(start, start + size)

    def is_table(self, part: Tensor) -> bool:
        """Whether the atoms of a part belong to a buffer: numbers of the network that are not learned."""
        return bisect_right(self.tables, int(part.reshape(-1)[0])) % 2 == 1

    def is_copy(self, part: Tensor) -> bool:
        """Whether a part only says that an axis holds copies of one position, as many as are asked for."""
        return bisect_right(self.copies, int(part.reshape(-1)[0])) % 2 == 1

    def fresh_copies(self, size: int) -> Tensor:
        """Atoms of an axis of copies, shape (size,)."""
        self.copies += [self.count, self.count + size]
        return self.fresh(size)

    def tie(self, left: Tensor, right: Tensor, reason: Reason | None = None) -> None:
        """Make the atoms that meet position by position one unit; what meets atom 0 is pinned."""
        if left is right:
            return
        a, b = (flat(part) for part in torch.broadcast_tensors(left, right))
        if not (a.all() and b.all()):
            self.pins.append((a[b == 0], reason))
            self.pins.append((b[a == 0], reason))
            both = (a != 0) & (b != 0)
            a, b = a[both], b[both]
        self.ties.append((a, b))

    def tie_along(self, part: Tensor, axis: int) -> Tensor:
        """Make all atoms along an axis one unit; return the part without that axis (size 1 there)."""
        first = part.narrow(axis, 0, 1)
        self.tie(part, first)
        return first


def flat(part: Tensor) -> Atoms:
    """The atoms of a part in row-major order, shape (n,)."""
    atoms: Atoms = part.reshape(-1).numpy()
    return atoms


def long_axes(part: Tensor) -> list[int]:
    """The axes along which a part has more than one position."""
    return [axis for axis, size in enumerate(part.shape) if size > 1]


def compact(full: Tensor) -> Tensor:
    """Shrink the axes along which the labels do not change to size 1."""
    for axis in range(full.ndim):
        if full.shape[axis] > 1 and full.stride(axis) == 0:
            full = full.narrow(axis, 0, 1)
    axes = long_axes(full)
    if len(axes) < 2:
        return full
    for axis in axes:
        first = full.narrow(axis, 0, 1)
        if torch.equal(full, first.expand_as(full)):
            full = first
    return full


def expanded(part: Tensor, shape: Sequence[int]) -> Tensor:
    """A view of a part in the full shape of its tensor; constant axes cost nothing (stride 0)."""
    return part.expand(tuple(shape))
