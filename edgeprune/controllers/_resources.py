"""What a network needs of each resource, as a function of how many units stay, in the terms of the integer program.

Amounts are called "macs", "bytes" (of the parameters), "ms@TARGET:KIND" for each kind of layer on each target whose
layers were measured, and "moment:N" for the activations that must be in memory at one moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.bench.layer_cost import LayerCosts, Tile
from edgeprune.controllers._program import Cost, Node
from edgeprune.controllers._ranked import Measured, Ranked
from edgeprune.controllers._sides import Side, tabulated
from edgeprune.network.layer_times import layer_milliseconds
from edgeprune.network.moments import peak_moment
from edgeprune.network.selection import allowed_counts, select_units

if TYPE_CHECKING:
    from edgeprune.contracts import Problem
    from edgeprune.controllers._demands import Demand
    from edgeprune.network.groups import Allocation, Factorisation, Group, Layer

_PEAK = "peak"
_MOMENT = "moment:"
Parts = tuple[tuple[str | None, int], ...]
MOST_OPTIONS = 16
_SMALLEST_KEPT_PART = 0.1
_PARAMETER_BYTES = 4.0


@dataclass(frozen=True)
class Row:
    """One row of the program: which amounts it adds up, and what they take whatever is chosen."""

    name: str
    scales: Mapping[str, float]
    constant: float


class Resources:
    """Evaluates an allocation, and hands the program its nodes and costs."""

    def __init__(self, problem: Problem) -> None:
        """Choose the options of every group, and tabulate what every layer needs for each of them."""
        self._problem = problem
        self._sizes = {group.name: group.size for group in problem.structure.groups}
        self._layers = problem.structure.layers
        self._ms_of = [layer_milliseconds(problem.structure, costs) for costs in _tables(problem)]
        layers = {layer.name: layer for layer in self._layers}
        self._ranked = {
            found.layer: _ranked(found, layers[found.layer], _tables(problem))
            for found in problem.structure.factorisations
            if found.group in self._sizes
        }
        self._nodes = {group.name: _group_node(group, problem) for group in problem.structure.groups}
        self._constants: dict[str, float] = defaultdict(float)
        self.costs = tuple(cost for layer in self._layers for cost in self._tabulate(layer))
        if any(limits.memory_bytes is not None for limits in (problem.limits, *problem.limits.others)):
            self.costs += tuple(self._activations())

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Groups, and sums of groups after concatenations."""
        return tuple(self._nodes.values())

    def parts(self, demand: Demand, allocation: Allocation) -> dict[str, float]:
        """Return what an allocation takes of one resource, by what it consists of, as the program counts it."""
        kept = {**self._sizes, **allocation}
        totals: dict[str, float] = defaultdict(float)
        for layer in self._layers:
            ranked = self._ranked.get(layer.name)
            sides = self._channels(layer.in_parts, kept), self._channels(layer.out_parts, kept)
            amounts: Mapping[str, float] = self._amounts(layer, *sides)
            if ranked is not None:
                amounts = ranked.amounts(kept[ranked.group], *sides, amounts)
            for name, amount in amounts.items():
                totals[name] += amount
        if demand.resource == "memory":
            moments = self._problem.moments
            totals[_PEAK] = peak_moment(moments, kept).bytes_with(kept) if moments else 0.0
        return {name: totals[name] for name in self._names(demand, totals)}

    def rows(self, demand: Demand, scales: Mapping[str, float]) -> list[Row]:
        """Return the rows of the program that limit one resource: one, or one for every moment of an inference."""
        moments = self._problem.moments if demand.resource == "memory" else ()
        if not moments:
            return [Row(demand.name, scales, sum(scale * self._constants[name] for name, scale in scales.items()))]
        rows = []
        for place, moment in enumerate(moments):
            constant = scales["bytes"] * self._constants["bytes"] + scales[_PEAK] * moment.fixed_bytes
            own = {"bytes": scales["bytes"], f"{_MOMENT}{place}": scales[_PEAK]}
            rows.append(Row(f"{demand.name}:{place}", own, constant))
        return rows

    def _names(self, demand: Demand, known: Iterable[str]) -> list[str]:
        if demand.resource == "latency" and self._ms_of[demand.target]:
            return [name for name in known if name.startswith(_ms_name(demand.target, ""))]
        return {"size": ["bytes"], "memory": ["bytes", _PEAK]}.get(demand.resource, ["macs"])

    def smallest(self) -> dict[str, int]:
        """Return the allocation with the least of everything."""
        return {node.name: node.counts[0] for node in self._nodes.values() if not node.parts}

    def _channels(self, parts: Parts, kept: Mapping[str, int]) -> float:
        """Return the channels of an axis; those of a sum are rounded up to its next option."""
        channels = sum(count * (kept[name] / self._sizes[name] if name else 1.0) for name, count in parts)
        node = self._nodes.get(_sum_name(parts))
        return min(level for level in node.counts if level >= channels - 1e-9) if node else channels

    def _amounts(self, layer: Layer, inputs: float, outputs: float) -> dict[str, float]:
        """Return what a layer needs with so many channels; a depthwise layer has one number for both sides."""
        in_part = inputs / _total(layer.in_parts) if layer.in_parts else 1.0
        out_part = outputs / _total(layer.out_parts) if layer.out_parts else 1.0
        part = out_part if layer.apart else in_part * out_part
        found = {"macs": layer.macs * part, "bytes": _PARAMETER_BYTES * layer.parameters * part}
        for target, milliseconds in enumerate(self._ms_of):
            if layer.name in milliseconds:
                found[_ms_name(target, layer.kind)] = milliseconds[layer.name](in_part, out_part)
        return found

    def _tabulate(self, layer: Layer) -> list[Cost]:
        ranked = self._ranked.get(layer.name)
        left, right = self._side(layer.in_parts, layer), self._side(layer.out_parts, layer)
        if ranked is not None:
            whole = partial(self._amounts, layer)
            return list(ranked.costs(left, right, lambda name: self._nodes[name].counts, whole))
        names = tuple(dict.fromkeys(side.node for side in (left, right) if side.node))
        if not names:
            for name, amount in self._amounts(layer, left.channels, right.channels).items():
                self._constants[name] += amount
            return []
        columns = self._nodes[names[-1]].counts
        if len(names) == 2:
            return [
                tabulated(
                    names,
                    lambda one, other: self._amounts(layer, left.channels_of(one), right.channels_of(other)),
                    self._nodes[names[0]].counts,
                    columns,
                )
            ]
        return [
            tabulated(
                names,
                lambda _, count: self._amounts(layer, left.channels_of(count), right.channels_of(count)),
                (0,),
                columns,
            )
        ]

    def _activations(self) -> Iterator[Cost]:
        for place, moment in enumerate(self._problem.moments):
            for group, size in moment.unit_bytes.items():
                counts = np.asarray(self._nodes[group].counts, float)
                yield Cost((group,), {f"{_MOMENT}{place}": size * counts})

    def _side(self, parts: Parts, layer: Layer) -> Side:
        total = _total(parts)
        owned = [(name, channels) for name, channels in parts if name is not None]
        if not owned:
            return Side(None, total, lambda _: total)
        if len(owned) > 1:
            return Side(self._sum_node(parts, layer), total, float)
        (name, channels), rest = owned[0], total - owned[0][1]
        size = self._sizes[name]
        return Side(name, total, lambda count: rest + channels * count / size)

    def _sum_node(self, parts: Parts, layer: Layer) -> str:
        name = _sum_name(parts)
        if name not in self._nodes:
            owned = {part: channels for part, channels in parts if part is not None}
            by_option = {
                part: tuple(channels * count / self._sizes[part] for count in self._nodes[part].counts)
                for part, channels in owned.items()
            }
            rest = sum(channels for part, channels in parts if part is None)
            least = rest + sum(channels[0] for channels in by_option.values())
            tiles = (tile.inputs for tile in _tiles(self._problem, layer))
            counts = _levels(least, _total(parts), max(tiles, default=1))
            self._nodes[name] = Node(name, counts, parts=by_option, rest=rest)
        return name


def _ranked(found: Factorisation, layer: Layer, tables: Sequence[LayerCosts | None]) -> Ranked:
    measured = {
        _ms_name(target, "chain"): Measured(costs.chains[found.layer], costs.chain_ends.get(found.layer))
        for target, costs in enumerate(tables)
        if costs
    }
    return Ranked(found, _total(layer.in_parts), _total(layer.out_parts), measured)


def _tables(problem: Problem) -> tuple[LayerCosts | None, ...]:
    """Return the measured layers of every target; None where there are none."""
    others = dict(enumerate(problem.other_costs))
    return (problem.costs, *(others.get(place) for place in range(len(problem.limits.others))))


def _group_node(group: Group, problem: Problem) -> Node:
    """Return a group with its options: whole stairs of the layers that touch it, and what the kept units are worth."""
    counts = _options(group, problem)
    scores = problem.scores[group.name]
    if group.constraints:
        kept = [sum(scores[unit] for unit in select_units(group, scores, count)) for count in counts]
    else:
        best_first = np.cumsum(sorted(scores, reverse=True))
        kept = [float(best_first[count - 1]) for count in counts]
    return Node(group.name, counts, tuple(kept))


def _options(group: Group, problem: Problem) -> tuple[int, ...]:
    floor = max(1, -(-group.size // int(1 / _SMALLEST_KEPT_PART)))
    tiles = _group_tiles(group, problem)
    small, large = min(tiles), max(tiles)
    halves = {large >> shift for shift in range(1, large.bit_length())}
    allowed = [count for count in allowed_counts(group) if floor <= count <= group.size]
    whole = [count for count in allowed if count % small == 0 or count in halves or count == group.size]
    liked = whole if len(whole) > 1 else allowed
    return _thinned(liked, {group.size, *(count for count in liked if count % large == 0)})


def _group_tiles(group: Group, problem: Problem) -> set[int]:
    """Return the stairs of the layers around a group, in units."""
    if not any(_tables(problem)):
        return {problem.channel_multiple if group.kind == "channel" else 1}
    found = set()
    for layer in problem.structure.layers:
        for tile in _tiles(problem, layer):
            for parts, channels_a_tile in ((layer.in_parts, tile.inputs), (layer.out_parts, tile.outputs)):
                found |= {max(1, channels_a_tile * group.size // n) for name, n in parts if name == group.name}
    return {tile for tile in found if tile <= group.size} or {1}


def _tiles(problem: Problem, layer: Layer) -> list[Tile]:
    """Return the stairs of a layer on every target whose layers were measured."""
    tables = [costs.layers for costs in _tables(problem) if costs]
    return [costs[layer.name].tile if layer.name in costs else Tile() for costs in tables]


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


def _levels(least: float, total: int, tile: int) -> tuple[int, ...]:
    """Return the channels that a sum is rounded up to: whole stairs, at most so many of them."""
    step = max(tile, -(-total // MOST_OPTIONS))
    step = -(-step // tile) * tile
    first = max(int(-(-least // step)) * step, step)
    return tuple(sorted({*range(first, total, step), total}))


def _ms_name(target: int, kind: str) -> str:
    return f"ms@{target}:{kind}"


def _sum_name(parts: Parts) -> str:
    return "+".join(f"{part or '*'}:{channels}" for part, channels in parts)


def _total(parts: Parts) -> int:
    return sum(channels for _, channels in parts)
