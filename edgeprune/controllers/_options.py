"""The options of the program: how many units of a group may stay, what they are worth, how sums are rounded up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.bench.layer_cost import LayerCosts, Tile
from edgeprune.controllers._program import Node
from edgeprune.network.selection import allowed_counts, select_units

if TYPE_CHECKING:
    from edgeprune.contracts import Problem
    from edgeprune.network.groups import Group, Layer

MOST_OPTIONS = 16
_SMALLEST_KEPT_PART = 0.1
_LEAST_KEPT = 1e-4  # of a group's importance: less counts as much


def tables(problem: Problem) -> tuple[LayerCosts | None, ...]:
    """Return the measured layers of every target; None where there are none."""
    others = dict(enumerate(problem.other_costs))
    return (problem.costs, *(others.get(place) for place in range(len(problem.limits.others))))


def group_node(group: Group, problem: Problem) -> Node:
    """Return a group with its options: whole stairs of the layers that touch it, and what the kept units are worth."""
    counts = _options(group, problem)
    scores = problem.scores[group.name]
    if group.constraints:
        kept = [sum(scores[unit] for unit in select_units(group, scores, count)) for count in counts]
    else:
        best_first = np.cumsum(sorted(scores, reverse=True))
        kept = [float(best_first[count - 1]) for count in counts]
    return Node(group.name, counts, tuple(kept) if problem.scores_are_losses else _of_product(group, kept, problem))


def _of_product(group: Group, kept: Sequence[float], problem: Problem) -> tuple[float, ...]:
    """Return logarithms of kept parts, so that their sum over the groups is that of a product over all layers.

    Scores that are no losses only compare units of one group, and a sum of them would empty the groups that cost
    most. The product of what stays of each layer (as in Xiangyu Zhang, Jianhua Zou, Kaiming He, Jian Sun: "Accelerating
    Very Deep Convolutional Networks for Classification and Detection", TPAMI 2016, https://arxiv.org/abs/1505.06798,
    with the energies of responses) is small as soon as one has lost nearly everything; a group counts as often as there
    are layers that write its channels.
    """
    layers = problem.structure.layers
    writers = sum(not layer.apart and any(name == group.name for name, _ in layer.out_parts) for layer in layers)
    whole = kept[-1] if kept[-1] > 0 else 1.0
    return tuple(max(writers, 1) * math.log(max(value / whole, _LEAST_KEPT) / _LEAST_KEPT) for value in kept)


def _options(group: Group, problem: Problem) -> tuple[int, ...]:
    floor = max(1, -(-group.size // int(1 / _SMALLEST_KEPT_PART)))
    around = _group_tiles(group, problem)
    small, large = min(around), max(around)
    halves = {large >> shift for shift in range(1, large.bit_length())}
    allowed = [count for count in allowed_counts(group) if floor <= count <= group.size]
    whole = [count for count in allowed if count % small == 0 or count in halves or count == group.size]
    liked = whole if len(whole) > 1 else allowed
    return _thinned(liked, {group.size, *(count for count in liked if count % large == 0)})


def _group_tiles(group: Group, problem: Problem) -> set[int]:
    """Return the stairs of the layers around a group, in units."""
    if not any(tables(problem)):
        return {problem.channel_multiple if group.kind == "channel" else 1}
    found = set()
    for layer in problem.structure.layers:
        for tile in tiles(problem, layer):
            for parts, channels_a_tile in ((layer.in_parts, tile.inputs), (layer.out_parts, tile.outputs)):
                found |= {max(1, channels_a_tile * group.size // n) for name, n in parts if name == group.name}
    return {tile for tile in found if tile <= group.size} or {1}


def tiles(problem: Problem, layer: Layer) -> list[Tile]:
    """Return the stairs of a layer on every target whose layers were measured."""
    by_target = [costs.layers for costs in tables(problem) if costs]
    return [costs[layer.name].tile if layer.name in costs else Tile() for costs in by_target]


def _thinned(counts: Sequence[int], liked: Iterable[int]) -> tuple[int, ...]:
    """Return at most so many options: the liked ones first, then evenly spread others; the ends always."""
    if len(counts) <= MOST_OPTIONS:
        return tuple(counts)
    chosen = {counts[0], *_spread(sorted(set(liked)), MOST_OPTIONS - 1)}
    others = [count for count in counts if count not in chosen]
    return tuple(sorted(chosen | set(_spread(others, MOST_OPTIONS - len(chosen)))))


def _spread(counts: Sequence[int], most: int) -> list[int]:
    if len(counts) <= most:
        return list(counts)
    if most < 2:
        return list(counts[-most:]) if most else []
    return [counts[round(place * (len(counts) - 1) / (most - 1))] for place in range(most)]


def levels(least: float, total: int, tile: int) -> tuple[tuple[int, ...], bool]:
    """Return the numbers of channels that a sum may have as options, and whether stairs lie between them."""
    step = max(tile, -(-total // MOST_OPTIONS))
    step = -(-step // tile) * tile
    first = max(int(-(-least // step)) * step, step)
    ends = {math.ceil(least), total} if step > tile else {total}
    return tuple(sorted({*range(first, total, step), *ends})), step > tile
