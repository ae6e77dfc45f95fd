"""What an allocation costs, what one more unit of a group would, and which units a budget can be spent on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from edgeprune.bench.layer_cost import LayerCosts
from edgeprune.network.groups import Allocation, Group, Scores, Structure
from edgeprune.network.layer_times import layer_milliseconds
from edgeprune.network.selection import allowed_counts
from edgeprune.network.steps import estimated_macs, mean_part

Cost = Callable[[Allocation], float]

_FEWEST, _FEWEST_PART = 2, 0.1  # units that every group keeps
_HARDER, _MEMORY = 1.5, 0.9  # than the loss holds; how much of that is remembered from step to step


def macs_cost(structure: Structure) -> Cost:
    """Return what counts the multiply-accumulates of an allocation, with groups that share a layer multiplied."""
    return lambda allocation: estimated_macs(structure, allocation)


def latency_cost(structure: Structure, costs: LayerCosts) -> Cost:
    """Return what adds up the milliseconds of an allocation's layers, as they were measured alone on a board."""
    sizes = {group.name: group.size for group in structure.groups}
    milliseconds = layer_milliseconds(structure, costs)

    def cost(allocation: Allocation) -> float:
        kept = {name: allocation.get(name, size) / size for name, size in sizes.items()}
        return sum(
            milliseconds[layer.name](mean_part(layer.in_parts, kept), mean_part(layer.out_parts, kept))
            for layer in structure.layers
        )

    return cost


def fewest(group: Group) -> int:
    """Return how many units of a group stay at least."""
    return min(group.size, max(_FEWEST, -(-group.size // int(1 / _FEWEST_PART))))


@dataclass(frozen=True)
class Spending:
    """A budget in the units of its cost, and the groups that may lose units to keep it."""

    cost: Cost
    budget: float
    groups: tuple[Group, ...]
    allowed: Mapping[str, tuple[int, ...]]  # the counts that may stay, by group

    def budget_now(self, part: float) -> float:
        """Return what the budget is after a part of its way, from what the whole costs (0) to itself (1 and above)."""
        whole = self.cost({})
        return float(whole * (self.budget / whole) ** min(1.0, part))

    def allocation(self, scores: Scores) -> dict[str, int]:
        """Return the counts of the best-scored units of all groups together that the budget allows.

        Units go in the order of their scores until the cost is within the budget; then those of them come back, the
        best first, that still fit. Of a budget that cannot be kept, what is nearest to it.
        """
        order = self._order(scores)
        few, many = 0, len(order)
        while few < many:
            middle = (few + many) // 2
            few, many = (few, middle) if self.cost(self._without(order[:middle])) <= self.budget else (middle + 1, many)
        gone = order[:few]
        for name in dict.fromkeys(reversed(gone)):
            while name in gone and self.cost(self._without(less := _without_last(gone, name))) <= self.budget:
                gone = less
        return self._without(gone)

    def _order(self, scores: Scores) -> list[str]:
        """Return the groups of all units that may go, the least important unit first."""
        units = []
        for group in self.groups:
            units += [(score, group.name) for score in sorted(scores[group.name])[: group.size - fewest(group)]]
        return [name for _, name in sorted(units)]

    def _without(self, gone: list[str]) -> dict[str, int]:
        """Return the counts without one unit for each mention of its group, as far as constraints allow."""
        found, lost = {}, Counter(gone)
        for group in self.groups:
            left = group.size - lost[group.name]
            allowed = self.allowed[group.name]
            found[group.name] = max((count for count in allowed if count <= left), default=allowed[0])
        return found


def _without_last(names: list[str], name: str) -> list[str]:
    place = len(names) - 1 - names[::-1].index(name)
    return names[:place] + names[place + 1 :]


def spending(cost: Cost, structure: Structure, allocation: Allocation, budget: float | None = None) -> Spending:
    """Return a budget, or what an allocation takes, to be spent on the groups in which it leaves something out."""
    groups = tuple(g for g in structure.groups if allocation.get(g.name, g.size) < g.size)
    allowed = {group.name: allowed_counts(group) for group in groups}
    return Spending(cost, cost(allocation) if budget is None else budget, groups, allowed)


def slopes(spent: Spending, counts: Allocation) -> dict[str, float]:
    """Return by group what one unit costs at these counts: the mean over an eighth of the group, for stairs."""
    found = {}
    for group in spent.groups:
        reach = max(1, group.size // 16)
        low, high = max(1, counts[group.name] - reach), min(group.size, counts[group.name] + reach)
        ends = [spent.cost({**counts, group.name: count}) for count in (low, high)]
        found[group.name] = max(0.0, ends[1] - ends[0]) / max(1, high - low)
    return found


class Hold:
    """By what the slopes of a loss are divided, for |log(cost / budget)| to press half as hard again on the gates.

    The slopes of a loss may be a thousand times those of the term, and change while gates close; where they are
    smaller than the term's, they are left as they are.
    """

    def __init__(self) -> None:
        """Start without having seen a slope."""
        self.mean = 0.0

    def of(self, found: Mapping[str, torch.Tensor], prices: Mapping[str, float]) -> float:
        """Return the divisor, from the slopes of the loss (size,) and of the term, by group."""
        own = sum(len(slopes) * prices[name] ** 2 for name, slopes in found.items())
        if own:
            held = sum(float(slopes.abs().sum()) * prices[name] for name, slopes in found.items()) / own
            self.mean = _MEMORY * self.mean + (1 - _MEMORY) * held if self.mean else held
        return max(1.0, _HARDER * self.mean)
