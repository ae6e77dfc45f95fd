"""Cuts of a layer that would not have paid: fewer channels, and more milliseconds on the target than all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.verdict.result import SlowerCut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeprune.bench.layer_cost import LayerCost
    from edgeprune.contracts import Problem
    from edgeprune.network.groups import Allocation, Layer

# What is slower by less lies within the noise of a layer's measurement.
_SLOWER = 1.03


def slower_cuts(problem: Problem, allocation: Allocation) -> tuple[SlowerCut, ...]:
    """Return the cuts that were measured alone on the target to be slower than the layer, without those chosen.

    Only sides that the method can cut count.
    """
    if problem.costs is None:
        return ()
    sizes = {group.name: group.size for group in problem.structure.groups}
    kept_part = {name: allocation.get(name, size) / size for name, size in sizes.items()}
    found = []
    for layer in problem.structure.layers:
        cost = problem.costs.layers.get(layer.name)
        if cost is not None:
            chosen = _channels(layer, cost, kept_part)
            cuts = _slower(layer.name, _of_free_sides(layer, cost))
            found += [cut for cut in cuts if (cut.inputs, cut.outputs) != chosen]
    return tuple(found)


def _of_free_sides(layer: Layer, cost: LayerCost) -> LayerCost:
    """Leave of a side that belongs to no group the whole alone."""
    inputs = any(name for name, _ in layer.in_parts)
    outputs = any(name for name, _ in layer.out_parts)
    return replace(
        cost,
        over_inputs=cost.over_inputs if inputs else cost.over_inputs[-1:],
        over_outputs=cost.over_outputs if outputs else cost.over_outputs[-1:],
    )


def _slower(name: str, cost: LayerCost) -> list[SlowerCut]:
    outputs, inputs = cost.over_outputs[-1][0], cost.over_inputs[-1][0] if cost.over_inputs else 0
    points = [(inputs or count, count, ms) for count, ms in cost.over_outputs[:-1]]
    points += [(count, outputs, ms) for count, ms in cost.over_inputs[:-1]]
    whole_ms = cost.whole_ms
    return [SlowerCut(name, left, right, ms, whole_ms) for left, right, ms in points if ms > _SLOWER * whole_ms]


def _channels(layer: Layer, cost: LayerCost, kept_part: Mapping[str, float]) -> tuple[int, int]:
    """Return how many inputs and outputs of a layer stay."""
    kept = [
        round(sum(channels * (kept_part.get(name, 1.0) if name else 1.0) for name, channels in parts))
        for parts in (layer.in_parts, layer.out_parts)
    ]
    return (kept[0], kept[1]) if cost.over_inputs else (kept[1], kept[1])
