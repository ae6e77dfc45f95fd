"""How groups can shrink, one allowed count at a time, and what a whole allocation is estimated to cost in MACs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from edgeprune.bench.layer_shape import LayerShape
from edgeprune.network.groups import Allocation, Group, Layer, Scores, Structure
from edgeprune.network.selection import allowed_counts, select_units

_SMALLEST_KEPT_PART = 0.1


@dataclass(frozen=True)
class Step:
    """One group shrinks to the next smaller count; `importance` is the mean of the units that go, or that per MAC."""

    group: str
    kept: int  # units that stay after the step
    importance: float


def ordered_steps(structure: Structure, scores: Scores, channel_multiple: int, per_mac: bool) -> list[Step]:
    """Return all steps of all groups, least important first; the steps of one group never change their order.

    With `per_mac` a unit counts by its score over the multiply-accumulates that go with it, so that a costly unit
    goes before a cheap one of equal score; without, by its score alone.
    """
    steps = []
    for group in structure.groups:
        cost = max(group.macs, 1) if per_mac else 1
        units = tuple(score / cost for score in scores[group.name])
        steps += _steps_of_group(group, units, channel_multiple)
    return sorted(steps, key=lambda step: (step.importance, step.group, -step.kept))


def estimated_macs(structure: Structure, allocation: Allocation) -> float:
    """Return the multiply-accumulates of the network that an allocation leaves, from its layers' channels."""
    kept_part = {group.name: allocation.get(group.name, group.size) / group.size for group in structure.groups}
    chains = {
        found.layer: dict(found.chains)[allocation[found.group]]
        for found in structure.factorisations
        if kept_part.get(found.group, 1.0) < 1
    }
    return sum(_layer_macs(layer, kept_part, chains.get(layer.name, ())) for layer in structure.layers)


def allocated_widths(structure: Structure, allocation: Allocation) -> dict[str, tuple[int, int]]:
    """Return the inputs and outputs that an allocation leaves of each layer."""
    kept_part = {group.name: allocation.get(group.name, group.size) / group.size for group in structure.groups}
    return {
        layer.name: (_staying(layer.in_parts, kept_part), _staying(layer.out_parts, kept_part))
        for layer in structure.layers
    }


def _staying(parts: tuple[tuple[str | None, int], ...], kept_part: Mapping[str, float]) -> int:
    return round(sum(channels * kept_part.get(name or "", 1.0) for name, channels in parts))


def _steps_of_group(group: Group, scores: tuple[float, ...], channel_multiple: int) -> list[Step]:
    """Return the steps of one group, largest count first, with importances that never fall."""
    counts = _counts(group, channel_multiple if group.kind == "channel" else 1)
    kept = [set(select_units(group, scores, count)) for count in counts]
    removed = [before - after for before, after in pairwise(kept)]
    importances = [sum(scores[unit] for unit in units) / len(units) for units in removed]
    return [
        Step(group.name, count, importance)
        for count, importance in zip(counts[1:], accumulate(importances, max), strict=True)
    ]


def _counts(group: Group, multiple: int) -> list[int]:
    """Return the counts to choose from, largest first: multiples of what the target likes, and halves below it."""
    floor = max(1, math.ceil(group.size * _SMALLEST_KEPT_PART))
    allowed = [count for count in allowed_counts(group) if floor <= count <= group.size]
    halves = {multiple >> shift for shift in range(1, multiple.bit_length())}
    liked = [count for count in allowed if count % multiple == 0 or count in halves or count == group.size]
    return sorted(liked if len(liked) > 1 else allowed, reverse=True)


def _layer_macs(layer: Layer, kept_part: Mapping[str, float], chain: tuple[LayerShape, ...]) -> float:
    """Of a chain the first layer shrinks with the inputs, and the last with the outputs."""
    out_part = mean_part(layer.out_parts, kept_part)
    if chain:
        first, *middle, last = (shape.macs for shape in chain)
        return first * mean_part(layer.in_parts, kept_part) + sum(middle) + last * out_part
    if layer.apart:
        return layer.macs * out_part
    return layer.macs * mean_part(layer.in_parts, kept_part) * out_part


def mean_part(parts: tuple[tuple[str | None, int], ...], kept_part: Mapping[str, float]) -> float:
    """Return the part of the channels on one side of a layer that stays, by the part of each group's units."""
    total = sum(channels for _, channels in parts)
    staying = sum(channels * kept_part.get(name or "", 1.0) for name, channels in parts)
    return staying / total if total else 1.0
