"""Small steps down: each cuts one group, the one that loses least for the time it saves.

Tien-Ju Yang, Andrew Howard, Bo Chen, Xiao Zhang, Alec Go, Mark Sandler, Vivienne Sze, Hartwig Adam: "NetAdapt:
Platform-Aware Neural Network Adaptation for Mobile Applications", ECCV 2018, https://arxiv.org/abs/1804.03230
(algorithm 1). Every step proposes one cut for each group that alone brings the resources down by the step's amount, as
the latency table has it, and takes the best; the amount shrinks from step to step.

Deviations: a proposal is judged by the importance that it loses, because nothing is trained during the search; the
network of every step is measured, and the table is scaled to it; several limits shrink together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from edgeprune.contracts import Controller, Outcome, Problem
from edgeprune.controllers._demands import Demand, demands_of
from edgeprune.controllers._resources import Resources
from edgeprune.network.groups import Allocation

# The first step brings a resource down by this part of what must go in all, and every later one by a little less.
_FIRST_STEP, _DECAY = 0.2, 0.96
_SMALLEST_STEP = 0.01  # of the limit


class NetAdapt(Controller):
    """Take the best of one proposal a group, measure it, and go on from there."""

    needs_costs: ClassVar[bool] = True

    def __init__(self, problem: Problem) -> None:
        """Tabulate the layers and begin with the whole network."""
        super().__init__(problem)
        self._demands = demands_of(problem.limits)
        self._resources = Resources(problem)
        nodes = [node for node in self._resources.nodes if not node.parts]
        self._worth = {node.name: dict(zip(node.counts, node.values, strict=True)) for node in nodes}
        self._kept = {node.name: node.counts[-1] for node in nodes}
        self._outcome, self._rounds = problem.original, 0
        self._ending = "" if self._used() > 1 else "the original is within the limits already"

    def ask(self) -> Allocation | None:
        """Return the best proposal of the next step, or None when the budget is met or nothing is left to cut."""
        if not self._ending and self._rounds >= self.problem.max_rounds:
            self._ending = f"the {self.problem.max_rounds} rounds are used up"
        proposals = {} if self._ending else self._proposals()
        if not proposals:
            self._ending = self._ending or "no group can be cut any further"
            return None
        name = min(proposals, key=lambda group: (self._loss(group, proposals[group]), group))
        return {**self._kept, name: proposals[name]}

    def tell(self, allocation: Allocation, outcome: Outcome) -> None:
        """Go on from what was measured."""
        self._kept, self._outcome = dict(allocation), outcome
        self._rounds += 1
        if self._used() <= 1:
            self._ending = f"the budget is met, at {self._used():.1%} of it"

    def ending(self) -> str:
        """Return why the search ended, "" while it goes on."""
        return self._ending

    def _used(self) -> float:
        return max(demand.used(self._outcome) for demand in self._demands)

    def _proposals(self) -> Mapping[str, int]:
        """Return, by group, the largest count that does the step alone, or the smallest there is."""
        found = {}
        for name, worth in self._worth.items():
            counts = [count for count in sorted(worth, reverse=True) if count < self._kept[name]]
            if counts:
                found[name] = next((count for count in counts if self._is_enough({**self._kept, name: count})), 0)
        whole = {name: count for name, count in found.items() if count}
        return whole or {name: min(self._worth[name]) for name in found}

    def _is_enough(self, allocation: Allocation) -> bool:
        """Whether an allocation brings every resource that is over its limit down by the step."""
        over = [demand for demand in self._demands if demand.used(self._outcome) > 1]
        return all(self._scaled(demand, allocation) <= self._step_down(demand) for demand in over)

    def _scaled(self, demand: Demand, allocation: Allocation) -> float:
        """Return the table's sum, scaled to what the present network was measured to take."""
        now = self._resources.alone(demand, self._kept)
        return demand.amount(self._outcome) * self._resources.alone(demand, allocation) / now

    def _step_down(self, demand: Demand) -> float:
        whole, now = demand.amount(self.problem.original), demand.amount(self._outcome)
        step = (whole - demand.limit) * _FIRST_STEP * _DECAY**self._rounds
        return max(now - max(step, _SMALLEST_STEP * demand.limit), demand.aim(self._outcome))

    def _loss(self, name: str, count: int) -> float:
        return self._worth[name][self._kept[name]] - self._worth[name][count]
