"""The most important units that fit: an exact integer program over measured layers, corrected by every candidate.

Layers are predicted from the target's latency table, and the whole network from its layers, the time around them and a
fixed overhead. Every candidate is measured as a whole; the beliefs about each layer and its widths are corrected
by it, and the program solved again, until the upper end of the measured interval lies within 3 % under the limit.

Maying Shen, Hongxu Yin, Pavlo Molchanov, Lei Mao, Jianna Liu, Jose M. Alvarez: "Structural Pruning via
Latency-Saliency Knapsack", NeurIPS 2022, https://arxiv.org/abs/2110.10811 (a knapsack over a latency table).

Deviations: the cost of a layer depends on both its counts at once and not on the other side left whole; whole networks
are measured and correct the table; the program is solved by HiGHS, with limits on several resources together; scores
that are no losses are multiplied over the layers and not added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from edgeprune.contracts import Controller, Outcome, Problem
from edgeprune.controllers._correction import Correction, Seen, fit
from edgeprune.controllers._demands import Demand, demands_of
from edgeprune.controllers._program import Cost, Floats, Limit, combined, solve
from edgeprune.controllers._resources import Resources, Row
from edgeprune.network.groups import Allocation

# The limit must be used at least this far.
_WINDOW = 0.97
# How far a search for another allocation than those measured moves its aim: down from what was measured to be too
# large, and up, not over the limit, from what leaves more than 3 % of it.
_TIGHTENED, _LOOSENED = (1.0, 0.99, 0.98, 0.97), (1.005, 1.01)

# So many candidates in a row must have taken more than predicted before less is planned for.
_LAST = 2

Told = tuple[Allocation, Outcome]


class Knapsack(Controller):
    """Solve for the best allocation within the corrected prediction, measure it, correct, and solve again."""

    needs_costs: ClassVar[bool] = True

    def __init__(self, problem: Problem) -> None:
        """Tabulate the layers."""
        super().__init__(problem)
        self._demands = demands_of(problem.limits)
        self._resources = Resources(problem)
        self._told: list[Told] = [({}, problem.original)]
        self._ending = "" if self._used(problem.original) > 1 else "the original is within the limits already"

    def ask(self) -> Allocation | None:
        """Return the best allocation that is predicted to fit, or None when one was measured to fit or none is left."""
        if not self._ending and len(self._told) > self.problem.max_rounds:
            self._ending = f"the {self.problem.max_rounds} rounds are used up"
        return None if self._ending else self._untried()

    def tell(self, allocation: Allocation, outcome: Outcome) -> None:
        """Take the measurement of a candidate into the correction."""
        self._told.append((dict(allocation), outcome))
        if _WINDOW <= self._used(outcome) <= 1:
            self._ending = "the budget is used to within 3 %"

    def expected_ms(self, allocation: Allocation) -> float | None:
        """Return the corrected prediction for an allocation on the first target, None where latency is not limited."""
        for demand in self._demands:
            if demand.name == "latency@0":
                return self._expected(demand, allocation, self._told)
        return None

    def ending(self) -> str:
        """Return why the search ended, "" while it goes on."""
        return self._ending

    def _untried(self) -> dict[str, int] | None:
        used = 1.0
        for part in _TIGHTENED:
            found = self._solve(part) or self._resources.smallest()
            outcome = self._seen(found)
            if outcome is None:
                return found
            used = self._used(outcome)
            if used <= 1:
                break
        if used > 1:
            self._ending = f"the smallest network that was tried still takes {used:.1%} of the budget"
            return None
        looser = (self._solve(part) for part in _LOOSENED)
        untried = next((found for found in looser if found and self._seen(found) is None), None)
        if untried is None:
            self._ending = f"the next better network is too large, and this one takes {used:.1%} of the budget"
        return untried

    def _seen(self, allocation: Allocation) -> Outcome | None:
        return next((outcome for known, outcome in self._told if known == allocation), None)

    def _solve(self, tightened: float) -> dict[str, int] | None:
        limits, costs = {}, self._resources.costs
        for demand in self._demands:
            correction = self._correction(demand, self._told)
            most = demand.aim(self._told[-1][1]) * tightened / self._surprise(demand)
            for row in self._resources.rows(demand):
                limits[row.name] = Limit(most - correction.constant(row.constants))
                costs = combined(costs, row.name, partial(_corrected, correction, row))
        found = solve(self._resources.nodes, costs, limits)
        return dict(found.counts) if found else None

    def _surprise(self, demand: Demand) -> float:
        """Return how many times more than predicted the last candidates took at least, 1 where one did not.

        The program prefers what is predicted too low, so that even predictions that are right on average fall short
        for what it chooses (James Smith, Robert Winkler: "The Optimizer's Curse", Management Science 2006).
        """
        places = range(max(len(self._told) - _LAST, 1), len(self._told))
        if len(places) < _LAST:
            return 1.0
        return max(1.0, min(demand.amount(self._told[at][1]) / self._predicted(demand, at) for at in places))

    def _predicted(self, demand: Demand, place: int) -> float:
        """Return what a candidate was predicted to take before it was measured."""
        return self._expected(demand, self._told[place][0], self._told[:place])

    def _expected(self, demand: Demand, allocation: Allocation, told: Sequence[Told]) -> float:
        cells, constants = self._resources.cells(demand, allocation), self._resources.constants(demand, allocation)
        return self._correction(demand, told).predict(cells, constants)

    def _correction(self, demand: Demand, told: Sequence[Told]) -> Correction:
        seen = [
            Seen(
                self._resources.cells(demand, allocation),
                self._resources.constants(demand, allocation),
                demand.amount(outcome),
                demand.doubt(outcome),
            )
            for allocation, outcome in told
        ]
        return fit(seen, self._resources.outside(demand))

    def _used(self, outcome: Outcome) -> float:
        """Return the largest used part of any limit, with the upper end of the measured interval as the latency."""
        return max(demand.used(outcome) for demand in self._demands)


def _corrected(correction: Correction, row: Row, place: int, cost: Cost) -> Floats | None:
    return correction.table(place, cost.amounts, row.kinds)
