"""What is limited, resource by resource and target by target: the limit, what a measured network takes, the aim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeprune.contracts import SAFE_UTILISATION, Limits, Outcome

# Where the median is aimed at, and the upper end of its interval at most.
_AIM, _AIM_UPPER_END = 0.98, 0.99
_WIDEST_SPREAD = 0.04
# A median this near to its limit is not safe, however narrow the interval.
_HIGHEST_MEDIAN = 0.99
# A measured interval holds the truth in 95 of 100 cases; two measurements differ by at least so much.
_DEVIATIONS, _LEAST_DOUBT = 1.96, 0.005
_EXACT = 1e-4
_EXACT_AIMS = {"size": 0.99, "macs": 0.999, "memory": 0.985}


@dataclass(frozen=True)
class Demand:
    """One limited resource ("latency", "size", "macs" or "memory") on one target, 0 or a further one."""

    resource: str
    target: int
    limit: float

    @property
    def name(self) -> str:
        """What the program calls it."""
        return f"{self.resource}@{self.target}"

    def amount(self, outcome: Outcome) -> float:
        """Return what a network takes; of latency the median."""
        return _AMOUNTS[self.resource](self._on_target(outcome))

    def doubt(self, outcome: Outcome) -> float:
        """Return how far the amount may be from the truth, as a part of it: a standard deviation."""
        if self.resource != "latency":
            return _EXACT
        found = self._on_target(outcome)
        low, high = found.latency_interval_ms
        return max((high - low) / (2 * _DEVIATIONS * found.latency_ms), _LEAST_DOUBT)

    def used(self, outcome: Outcome) -> float:
        """Return the used part of the limit with all that noise may hide; at most 1 is safe."""
        if self.resource != "latency":
            return self.amount(outcome) / self.limit
        found = self._on_target(outcome)
        upper_end, median = found.latency_interval_ms[1] / self.limit, found.latency_ms / self.limit
        return upper_end if median <= _HIGHEST_MEDIAN else max(upper_end, median / _HIGHEST_MEDIAN)

    def aim(self, outcome: Outcome) -> float:
        """Return how much to aim at; noise, as wide as in this outcome, takes its part of a latency."""
        if self.resource != "latency":
            return self.limit * _EXACT_AIMS[self.resource]
        found = self._on_target(outcome)
        spread = min(found.latency_interval_ms[1] / found.latency_ms - 1, _WIDEST_SPREAD)
        return self.limit * min(_AIM, _AIM_UPPER_END / (1 + spread))

    def _on_target(self, outcome: Outcome) -> Outcome:
        return (outcome, *outcome.others)[self.target]


def demands_of(limits: Limits) -> tuple[Demand, ...]:
    """Return everything that is limited; peak memory leaves room for the noise of the final measurement."""
    found = []
    for target, one in enumerate((limits, *limits.others)):
        named = {
            "latency": one.latency_ms,
            "size": one.size_bytes,
            "macs": one.macs,
            "memory": None if one.memory_bytes is None else one.memory_bytes * SAFE_UTILISATION,
        }
        found += [Demand(resource, target, limit) for resource, limit in named.items() if limit is not None]
    return tuple(found)


_AMOUNTS: Mapping[str, Callable[[Outcome], float]] = {
    "latency": lambda outcome: outcome.latency_ms,
    "size": lambda outcome: outcome.size_bytes,
    "macs": lambda outcome: outcome.macs,
    "memory": lambda outcome: outcome.memory_bytes or 0,
}
