"""What one layer takes over its numbers of channels: a surface with stairs, spanned by few measurements."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Tile:
    """How many channels an engine works on at a time, on the input and on the output side."""

    inputs: int = 1
    outputs: int = 1


@dataclass(frozen=True)
class LayerCost:
    """Milliseconds of one layer alone over (inputs, outputs).

    `over_inputs` holds (count, ms) with all outputs, `over_outputs` with all inputs, both ascending; `least_ms` is
    the layer with the fewest of both. Between the edges the surface is blended from these curves, which is exact
    for time that is a product of stairs in both counts plus a sum of them. A one-sided layer has `over_outputs` only.
    """

    over_outputs: Curve
    over_inputs: Curve = ()
    least_ms: float = 0.0
    tile: Tile = Tile()

    @property
    def whole_ms(self) -> float:
        """The uncut layer."""
        return self.over_outputs[-1][1]

    def ms(self, inputs: int, outputs: int) -> float:
        """Return the milliseconds with these channels; a count inside a tile costs the whole tile."""
        outputs_ms = _at(self.over_outputs, _filled(outputs, self.tile.outputs))
        if len(self.over_inputs) < 2:
            return outputs_ms
        inputs_ms = _at(self.over_inputs, _filled(inputs, self.tile.inputs))
        first_in, first_out = self.over_inputs[0], self.over_outputs[0]
        along_out = _part(outputs_ms, outputs, self.over_outputs)
        along_in = _part(inputs_ms, inputs, self.over_inputs)
        left = first_in[1] * along_out + self.least_ms * (1 - along_out)
        right = self.whole_ms * along_out + first_out[1] * (1 - along_out)
        return right * along_in + left * (1 - along_in)


@dataclass(frozen=True)
class LayerCosts:
    """The costs of a network's layers by name, and what one inference of any network takes at least.

    `chains` holds for layers that can be factorised the milliseconds of each layer of the chain, by kept units;
    `chain_ends` the first and the last layer of the chain of their largest rank, where their channels can be cut.
    """

    layers: Mapping[str, LayerCost]
    floor_ms: float
    chains: Mapping[str, Mapping[int, tuple[float, ...]]] = field(default_factory=dict)
    chain_ends: Mapping[str, tuple[LayerCost, LayerCost]] = field(default_factory=dict)


def costs_from_dict(data: Mapping[str, Any]) -> LayerCosts:
    """Read what `dataclasses.asdict` and JSON made of costs; raises KeyError or TypeError for anything else."""
    layers = {name: _cost_from_dict(cost) for name, cost in data["layers"].items()}
    chains = {
        name: {int(count): tuple(map(float, chain)) for count, chain in by_count.items()}
        for name, by_count in data["chains"].items()
    }
    ends = {
        name: (_cost_from_dict(first), _cost_from_dict(last))
        for name, (first, last) in data.get("chain_ends", {}).items()
    }
    return LayerCosts(layers, float(data["floor_ms"]), chains, ends)


def _cost_from_dict(data: Mapping[str, Any]) -> LayerCost:
    curves = {side: tuple((int(n), float(ms)) for n, ms in data[side]) for side in ("over_outputs", "over_inputs")}
    return LayerCost(**curves, least_ms=float(data["least_ms"]), tile=Tile(**data["tile"]))


def _filled(count: int, tile: int) -> int:
    return -(-count // tile) * tile


def _at(curve: Curve, count: int) -> float:
    """Interpolate; beyond the ends the ends hold."""
    counts = [point[0] for point in curve]
    right = bisect_left(counts, count)
    if right >= len(curve):
        return curve[-1][1]
    if curve[right][0] == count or right == 0:
        return curve[right][1]
    (low, low_ms), (high, high_ms) = curve[right - 1], curve[right]
    return low_ms + (high_ms - low_ms) * (count - low) / (high - low)


def _part(value_ms: float, count: int, curve: Curve) -> float:
    """How far a value lies between the ends of a curve, in time where that tells them apart, else in channels."""
    (low, low_ms), (high, high_ms) = curve[0], curve[-1]
    if high_ms - low_ms > 0.02 * high_ms:
        return (value_ms - low_ms) / (high_ms - low_ms)
    return (min(count, high) - low) / max(high - low, 1)
