"""The most important units that fit: an exact integer program over measured layers, corrected by every candidate.

Layers are predicted from the target's latency table, and the whole network from its layers through a fixed overhead
and one scale a kind of layer. Every candidate is measured as a whole; the correction is fitted again, and the
program solved again, until the upper end of the measured interval lies within 3 % under the limit.

Maying Shen, Hongxu Yin, Pavlo Molchanov, Lei Mao, Jianna Liu, Jose M. Alvarez: "Structural Pruning via
Latency-Saliency Knapsack", NeurIPS 2022, https://arxiv.org/abs/2110.10811 (a knapsack over a latency table).

Deviations: the cost of a layer depends on both its counts at once and not on the other side left whole; whole networks
are measured and correct the table; the program is solved by HiGHS, with limits on several resources together.
"""

from __future__ import annotations

from typing import ClassVar

from edgeprune.contracts import Controller, Outcome, Problem
from edgeprune.controllers._correction import Correction, Seen, fit
from edgeprune.controllers._program import Limit, combined, solve
from edgeprune.controllers._resources import Resources
from edgeprune.errors import UsageError
from edgeprune.network.groups import Allocation

# The upper end of the measured interval must come this near to the limit.
_WINDOW = 0.97
# Where the median is aimed at, and the upper end of its interval at most.
_AIM, _AIM_UPPER_END = 0.985, 0.995
_WIDEST_SPREAD = 0.04
# How far a search for another allocation than those measured tightens its aim, each time.
_TIGHTENED = (1.0, 0.99, 0.98, 0.97)


class Knapsack(Controller):
    """Solve for the best allocation within the corrected prediction, measure it, correct, and solve again."""

    needs_costs: ClassVar[bool] = True

    def __init__(self, problem: Problem) -> None:
        """Tabulate the layers; raises UsageError for a limit that is not planned for."""
        super().__init__(problem)
        if problem.limits.memory_bytes is not None or problem.limits.others:
            raise UsageError(
                "The controller 'knapsack' plans latency, size and MACs of one target; use --controller bisect."
            )
        self._resources = Resources(problem)
        self._told: list[tuple[dict[str, int], Outcome]] = [({}, problem.original)]
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
        """Return the corrected prediction for an allocation, None where latency is not limited."""
        limit_ms = self.problem.limits.latency_ms
        if limit_ms is None:
            return None
        return self._correction("latency", limit_ms).predict(self._resources.parts("latency", allocation))

    def ending(self) -> str:
        """Return why the search ended, "" while it goes on."""
        return self._ending

    def _untried(self) -> dict[str, int] | None:
        for tightened in _TIGHTENED:
            found = self._solve(tightened) or self._resources.smallest()
            outcome = next((seen for allocation, seen in self._told if allocation == found), None)
            if outcome is None:
                return found
            if self._used(outcome) <= 1:
                self._ending = "nothing that is worth more fits"
                return None
        self._ending = "the smallest networks that were tried are still too large"
        return None

    def _solve(self, tightened: float) -> dict[str, int] | None:
        limits, costs = {}, self._resources.costs
        for resource, most in self._aims().items():
            correction = self._correction(resource, most)
            limits[resource] = Limit(most * tightened / correction.near, correction.fixed)
            costs = combined(costs, resource, correction.scales)
        found = solve(self._resources.nodes, costs, limits)
        return dict(found.counts) if found else None

    def _aims(self) -> dict[str, float]:
        """Return how much of each limited resource is aimed at; noise takes its part of the latency."""
        limits, last = self.problem.limits, self._told[-1][1]
        spread = min(last.latency_interval_ms[1] / last.latency_ms - 1, _WIDEST_SPREAD)
        parts = {"latency": min(_AIM, _AIM_UPPER_END / (1 + spread)), "size": 0.99, "macs": 0.999}
        named = {"latency": limits.latency_ms, "size": limits.size_bytes, "macs": limits.macs}
        return {resource: limit * parts[resource] for resource, limit in named.items() if limit is not None}

    def _correction(self, resource: str, aim: float) -> Correction:
        seen = [
            Seen(self._resources.parts(resource, allocation), _amount(resource, outcome))
            for allocation, outcome in self._told
        ]
        return fit(seen, aim)

    def _used(self, outcome: Outcome) -> float:
        """Return the largest used part of any limit, with the upper end of the measured interval as the latency."""
        limits = self.problem.limits
        pairs = (
            (outcome.latency_interval_ms[1], limits.latency_ms),
            (outcome.size_bytes, limits.size_bytes),
            (outcome.macs, limits.macs),
        )
        return max(value / limit for value, limit in pairs if limit is not None)


def _amount(resource: str, outcome: Outcome) -> float:
    amounts = {"latency": outcome.latency_ms, "size": outcome.size_bytes, "macs": outcome.macs}
    return float(amounts[resource])
