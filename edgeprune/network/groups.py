"""Coupled channels as data: which positions of which tensors one unit owns, and what binds the units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["writer", "carrier", "reader"]

# Kept units of each group, by group name; a group that is not named stays whole.
Allocation = Mapping[str, int]
# One importance per unit, by group name; larger means keep, and values compare across groups.
Scores = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Slice:
    """The positions that the units of a group own along one dimension of one parameter or buffer.

    `index[u]` holds the positions of unit `u` along `dim` of the tensor with the qualified name `tensor`.
    A writer produces the units, a carrier follows them, a reader consumes them.
    """

    tensor: str
    dim: int
    role: Role
    index: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class EqualCounts:
    """Every block of units must keep equally many (the channel groups of a grouped convolution)."""

    blocks: tuple[tuple[int, ...], ...]
    reason: str


@dataclass(frozen=True)
class Group:
    """Units of several tensors that must be kept or removed together.

    `kind` says what one unit is: "channel" or "head". `macs` and `parameters` are what removing one unit
    from the otherwise whole network saves.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    constraints: tuple[EqualCounts, ...] = ()
    kind: str = "channel"
    macs: int = 0
    parameters: int = 0


@dataclass(frozen=True)
class Quarantine:
    """Channels that are left alone, why, where, and what the user can do about it."""

    name: str
    reason: str
    operation: str
    module: str
    location: str  # file:line, "" where unknown
    remedy: str


@dataclass(frozen=True)
class Layer:
    """A layer with multiply-accumulates, and the groups that its input and output channels belong to."""

    name: str
    kind: str  # "conv", "depthwise", "linear", "matmul", ...
    macs: int
    parameters: int
    in_group: str | None
    out_group: str | None


@dataclass(frozen=True)
class Structure:
    """All that is known of a network's coupled channels; no pointer into the network."""

    groups: tuple[Group, ...]
    quarantined: tuple[Quarantine, ...]
    layers: tuple[Layer, ...]
