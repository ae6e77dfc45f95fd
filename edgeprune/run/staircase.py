"""What a profile means to a person: where a cut begins to save time, and which channels are computed for nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.bench.layer_cost import LayerCost, LayerCosts
from edgeprune.bench.stairs import NARROWEST_STAIR
from edgeprune.network.selection import allowed_counts

if TYPE_CHECKING:
    from edgeprune.network.groups import Group, Layer, Structure
    from edgeprune.run.profiling import Profile

Parts = tuple[tuple[str | None, int], ...]

# A cut that saves less than this part of what its layers take is lost in the noise of the table.
_FELT = 0.01
# A cut is worth making where a unit saves at least this part of what it saves at the best cut.
_WORTH = 0.8
_SMALLEST_KEPT_PART = 0.1


@dataclass(frozen=True)
class Stair:
    """The fewest units whose removal reaches the next lower step, and the milliseconds that this saves in all."""

    cut: int
    saved_ms: float


@dataclass(frozen=True)
class GroupStairs:
    """What its layers take with the whole group, and the cuts worth making; smaller ones save at most `before_ms`."""

    group: str
    units: int
    layers_ms: float
    stairs: tuple[Stair, ...]
    before_ms: float = 0.0

    @property
    def sentence(self) -> str:
        """Say what to cut, and what not to."""
        if not self.stairs:
            return "no cut saves time"
        cuts = [stair.cut for stair in self.stairs]
        if cuts[0] <= NARROWEST_STAIR:
            return f"every cut saves: {_list(cuts)}"
        little = "nothing" if not self.before_ms else f"{self.before_ms:.4f} ms at most"
        return f"cutting 1 to {cuts[0] - 1} gives {little}, cut {_list(cuts)}"


@dataclass(frozen=True)
class Padding:
    """One side of a layer whose channels do not fill the engine's tiles: `computed` channels take as long."""

    layer: str
    side: str
    channels: int
    computed: int

    @property
    def wasted(self) -> int:
        """The channels that are computed and belong to nobody."""
        return self.computed - self.channels


def group_stairs(structure: Structure, costs: LayerCosts) -> tuple[GroupStairs, ...]:
    """Return the stairs of every group with all others whole, most time first."""
    layers: dict[str, list[Layer]] = {}
    for layer in structure.layers:
        for name in {name for name, _ in (*layer.in_parts, *layer.out_parts) if name and layer.name in costs.layers}:
            layers.setdefault(name, []).append(layer)
    found = [_stairs(group, layers.get(group.name, ()), costs) for group in structure.groups]
    return tuple(sorted(found, key=lambda stairs: -stairs.layers_ms))


def paddings(profile: Profile) -> tuple[Padding, ...]:
    """Return the sides of the network's own layers whose channels do not fill the tiles of its engine."""
    found = []
    for name, shape in profile.shapes.items():
        tile = profile.table.tile(shape)
        sides = [("outputs", shape.outputs, tile.outputs)]
        sides += [] if shape.one_sided else [("inputs", shape.inputs, tile.inputs)]
        found += [
            Padding(name, side, n, -(-n // wide) * wide)
            for side, n, wide in sides
            if wide > NARROWEST_STAIR and n % wide
        ]
    return tuple(found)


def _stairs(group: Group, layers: Sequence[Layer], costs: LayerCosts) -> GroupStairs:
    floor = max(1, math.ceil(group.size * _SMALLEST_KEPT_PART))
    counts = [count for count in reversed(allowed_counts(group)) if count >= floor]
    times = {
        count: sum(_ms(layer, costs.layers[layer.name], {group.name: count / group.size}) for layer in layers)
        for count in counts
    }
    whole_ms = last_ms = times[group.size]
    stairs: list[Stair] = []
    for count in counts[1:]:
        if times[count] < last_ms - _FELT * whole_ms:
            last_ms = times[count]
            stairs.append(Stair(group.size - count, whole_ms - last_ms))
    most = max((stair.saved_ms / stair.cut for stair in stairs), default=0.0)
    worth = tuple(stair for stair in stairs if stair.saved_ms / stair.cut >= _WORTH * most)
    before_ms = max((stair.saved_ms for stair in stairs if stair.cut < worth[0].cut), default=0.0)
    return GroupStairs(group.name, group.size, whole_ms, worth, before_ms)


def _ms(layer: Layer, cost: LayerCost, kept_part: Mapping[str, float]) -> float:
    outputs = _channels(layer.out_parts, kept_part)
    return cost.ms(_channels(layer.in_parts, kept_part), outputs)


def _channels(parts: Parts, kept_part: Mapping[str, float]) -> int:
    return round(sum(channels * kept_part.get(name or "", 1.0) for name, channels in parts))


def _list(cuts: Sequence[int]) -> str:
    """Write a few cuts as they are, and the beginning of many."""
    if len(cuts) > 4:
        return f"{cuts[0]}, {cuts[1]}, {cuts[2]}, ... {cuts[-1]}"
    return " or ".join(filter(None, (", ".join(map(str, cuts[:-1])), str(cuts[-1]))))
