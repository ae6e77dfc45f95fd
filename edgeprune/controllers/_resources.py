"""What a network needs of each resource, as a function of how many units stay, in the terms of the integer program.

Amounts are called "macs", "bytes" (of the parameters), "ms@TARGET:KIND" for each kind of layer on each target whose
layers were measured, "around" for what all layers write (as a part of what those of the original do), which the time
between layers follows, and "moment:N" for the activations that must be in memory at one moment.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from edgeprune.bench.layer_cost import LayerCosts
from edgeprune.controllers._correction import Cell, Outside, Seen
from edgeprune.controllers._options import group_node, levels, tables, tiles
from edgeprune.controllers._program import Cost, Node
from edgeprune.controllers._ranked import Measured, Ranked
from edgeprune.controllers._sides import Side, tabulated
from edgeprune.network.layer_times import layer_milliseconds
from edgeprune.network.moments import peak_moment

if TYPE_CHECKING:
    from edgeprune.contracts import Problem
    from edgeprune.controllers._demands import Demand
    from edgeprune.network.groups import Allocation, Factorisation, Layer

_PEAK = "peak"
_AROUND = "around"
_MOMENT = "moment:"
Parts = tuple[tuple[str | None, int], ...]
_PARAMETER_BYTES = 4.0


@dataclass(frozen=True)
class Row:
    """One row of the program: the amounts that it adds up, with the kind of each, and those that are constant."""

    name: str
    kinds: Mapping[str, str]
    constants: Mapping[str, float]


class Resources:
    """Evaluates an allocation, and hands the program its nodes and costs."""

    def __init__(self, problem: Problem) -> None:
        """Choose the options of every group, and tabulate what every layer needs for each of them."""
        self._problem = problem
        self._sizes = {group.name: group.size for group in problem.structure.groups}
        self._layers = problem.structure.layers
        self._ms_of = [layer_milliseconds(problem.structure, costs) for costs in tables(problem)]
        layers = {layer.name: layer for layer in self._layers}
        self._ranked = {
            found.layer: _ranked(found, layers[found.layer], tables(problem))
            for found in problem.structure.factorisations
            if found.group in self._sizes
        }
        self._nodes = {group.name: group_node(group, problem) for group in problem.structure.groups}
        self._constants: dict[str, float] = defaultdict(float)
        self.costs = tuple(cost for layer in self._layers for cost in self._tabulate(layer))
        self.costs += tuple(self._around())
        if any(limits.memory_bytes is not None for limits in (problem.limits, *problem.limits.others)):
            self.costs += tuple(self._activations())

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Groups, and sums of groups after concatenations."""
        return tuple(self._nodes.values())

    def alone(self, demand: Demand, allocation: Allocation) -> float:
        """Return what an allocation takes of one resource when all that is known of it apart is added up."""
        parts = Seen(self.cells(demand, allocation), self.constants(demand, allocation), 0.0, 0.0).parts()
        return sum(amount for kind, amount in parts.items() if kind != _AROUND)

    def cells(self, demand: Demand, allocation: Allocation) -> tuple[Cell, ...]:
        """Return the cells that an allocation chooses, rounded up to options, with what they take of one resource."""
        kept = {**self._sizes, **allocation}
        chosen = {node.name: self._chosen(node, kept) for node in self._nodes.values()}
        names = self._names(demand)
        found = []
        for place, cost in enumerate(self.costs):
            amounts = {name: cost.amounts[name] for name in names if name in cost.amounts}
            if not amounts or (cost.gate and len(self._nodes[cost.gate].counts) - 1 not in chosen[cost.gate]):
                continue
            for options in product(*(chosen[name] for name in cost.nodes)):
                part = math.prod(chosen[name][option] for name, option in zip(cost.nodes, options, strict=True))
                found.append(Cell(place, options, {name: float(own[options]) for name, own in amounts.items()}, part))
        return tuple(found)

    def constants(self, demand: Demand, allocation: Allocation) -> dict[str, float]:
        """Return what an allocation takes of one resource outside all cells, by kind."""
        found = {name: self._constants[name] for name in self._names(demand)}
        if demand.resource == "memory":
            kept, moments = {**self._sizes, **allocation}, self._problem.moments
            found[_PEAK] = peak_moment(moments, kept).bytes_with(kept) if moments else 0.0
        return found

    def rows(self, demand: Demand) -> list[Row]:
        """Return the rows of the program that limit one resource: one, or one for every moment of an inference."""
        names = self._names(demand)
        constants = {name: self._constants[name] for name in names}
        moments = self._problem.moments if demand.resource == "memory" else ()
        if not moments:
            return [Row(demand.name, {name: name for name in names}, constants)]
        return [
            Row(
                f"{demand.name}:{place}",
                {"bytes": "bytes", f"{_MOMENT}{place}": _PEAK},
                {**constants, _PEAK: moment.fixed_bytes},
            )
            for place, moment in enumerate(moments)
        ]

    def outside(self, demand: Demand) -> Outside | None:
        """Return what is known of the time outside all layers, None where there is none or nothing is known."""
        measured = tables(self._problem)[demand.target] if demand.resource == "latency" else None
        return Outside(measured.floor_ms, _AROUND) if measured and self._ms_of[demand.target] else None

    def _names(self, demand: Demand) -> list[str]:
        if demand.resource == "latency" and self._ms_of[demand.target]:
            kinds = {name for cost in self.costs for name in cost.amounts} | set(self._constants)
            return sorted({_AROUND, *(name for name in kinds if name.startswith(_ms_name(demand.target, "")))})
        return {"size": ["bytes"], "memory": ["bytes"]}.get(demand.resource, ["macs"])

    def _chosen(self, node: Node, kept: Mapping[str, int]) -> dict[int, float]:
        """Return the place of the first option that is not below what is kept, or the parts of the two around it."""
        if not node.parts:
            count = float(kept[node.name])
        else:
            count = node.rest + sum(
                channels[-1] * kept[part] / self._sizes[part] for part, channels in node.parts.items()
            )
        place = min(bisect_left(node.counts, count - 1e-9), len(node.counts) - 1)
        if not node.between or place == 0:
            return {place: 1.0}
        above = (count - node.counts[place - 1]) / (node.counts[place] - node.counts[place - 1])
        return {option: part for option, part in ((place - 1, 1 - above), (place, above)) if part > 0}

    def smallest(self) -> dict[str, int]:
        """Return the fewest units of every group; a layer whose fewest channels are too few for a rank stays whole."""
        fewest = {node.name: node.counts[0] for node in self._nodes.values() if not node.parts}
        ranks = {found.group for found in self._problem.structure.factorisations}
        for cost in self.costs:
            if len(cost.nodes) == 2 and cost.forbidden()[0, 0]:
                fewest |= {name: self._nodes[name].counts[-1] for name in ranks.intersection(cost.nodes)}
        return fewest

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

    def _around(self) -> Iterator[Cost]:
        """Yield what each layer writes."""
        written = {layer.name: _elements(layer) for layer in self._layers if layer.out_parts}
        whole = sum(written.values()) or 1.0
        for layer in self._layers:
            share = written.get(layer.name, 0.0) / whole
            side = self._side(layer.out_parts, layer)
            if side.node is None:
                self._constants[_AROUND] += share
            else:
                parts = [side.channels_of(count) / side.channels for count in self._nodes[side.node].counts]
                yield Cost((side.node,), {_AROUND: share * np.array(parts)})

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
            widths = (tile.inputs for tile in tiles(self._problem, layer))
            counts, between = levels(least, _total(parts), max(widths, default=1))
            self._nodes[name] = Node(name, counts, parts=by_option, rest=rest, between=between)
        return name


def _ranked(found: Factorisation, layer: Layer, tables: Sequence[LayerCosts | None]) -> Ranked:
    measured = {
        _ms_name(target, "chain"): Measured(costs.chains[found.layer], costs.chain_ends.get(found.layer))
        for target, costs in enumerate(tables)
        if costs
    }
    return Ranked(found, _total(layer.in_parts), _total(layer.out_parts), measured)


def _ms_name(target: int, kind: str) -> str:
    return f"ms@{target}:{kind}"


def _sum_name(parts: Parts) -> str:
    return "+".join(f"{part or '*'}:{channels}" for part, channels in parts)


def _elements(layer: Layer) -> float:
    """Return how many numbers a layer writes: its channels times how often each of its weights is used."""
    return _total(layer.out_parts) * (layer.macs / layer.parameters if layer.parameters else 1.0)


def _total(parts: Parts) -> int:
    return sum(channels for _, channels in parts)
