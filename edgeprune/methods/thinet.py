"""Keeps the units from which the next layer's outputs are best made up, and rescales what reads them to fit.

Jian-Hao Luo, Jianxin Wu, Weiyao Lin: "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression",
ICCV 2017, https://arxiv.org/abs/1707.06342: units are given up one by one so that the sum of squares of all that was
given up stays smallest; then least squares find one factor for each unit that stays.

Deviations: all layers that read a group count together, each over the variance of its own outputs, so that scores are
lost parts of the outputs and compare across groups. Groups are treated in their order, each on what the earlier ones
left, at the end of one training before the cut, where the paper trains a little after every layer. What reads the
units that go is zero from then on. A group that no plain layer reads is scored by its norms and not rescaled.
"""

from __future__ import annotations

import torch

from edgeprune.contracts import Context, Method
from edgeprune.methods._contributions import gram_of
from edgeprune.methods._taylor import counted, data_of
from edgeprune.network.groups import Allocation, Group, Scores
from edgeprune.network.reduction import over_mean, unit_norms, weight_slots
from edgeprune.network.selection import select_units

_GONE = -1.0  # below every score
_RIDGE = 1e-6


class Thinet(Method):
    """Importance = part of the next layers' outputs that is lost once a unit goes, after those that go before it."""

    needs_data = True
    trains = True

    def __init__(self, samples: int = 256, places: int = 10) -> None:
        """Take the number of training samples, and of outputs to look at in each; raises UsageError."""
        self.samples = counted(samples, "thinet")
        self.places = counted(places, "thinet")
        self._allocation: Allocation = {}
        self._kept: dict[str, tuple[int, ...]] = {}

    def score(self, context: Context) -> Scores:
        """Score every unit; what was given up has less than all others; raises UsageError without data."""
        groups = context.structure.groups
        scores = {group.name: _order(context, group, self._gram(context, group)) for group in groups}
        for name, kept in self._kept.items():
            stays = set(kept)
            scores[name] = tuple(score if unit in stays else _GONE for unit, score in enumerate(scores[name]))
        return scores

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Remember how many units stay."""
        self._allocation = allocation
        self._kept = {}

    def finish(self, context: Context) -> None:
        """Give up units group by group, and rescale what reads those that stay."""
        for group in context.structure.groups:
            kept = self._allocation.get(group.name, group.size)
            if kept < group.size:
                gram = self._gram(context, group)
                self._kept[group.name] = select_units(group, _order(context, group, gram), kept)
                _rescale(context, group, self._kept[group.name], gram)

    def _gram(self, context: Context, group: Group) -> torch.Tensor | None:
        return gram_of(context, group, data_of(context, "thinet"), self.samples, self.places)


def _order(context: Context, group: Group, gram: torch.Tensor | None) -> tuple[float, ...]:
    if gram is None:
        return over_mean(unit_norms(group, dict(context.network.named_parameters())))
    return greedy_scores(gram)


def _rescale(context: Context, group: Group, kept: tuple[int, ...], gram: torch.Tensor | None) -> None:
    factors = torch.zeros(group.size, dtype=torch.float64)
    factors[list(kept)] = torch.ones(len(kept), dtype=torch.float64) if gram is None else fitted_factors(gram, kept)
    parameters = dict(context.network.named_parameters())
    with torch.no_grad():
        for slot in weight_slots(group, parameters, ("reader",)):
            weight = parameters[slot.tensor]
            weight.mul_(slot.spread(factors, weight, elsewhere=1.0))


def greedy_scores(gram: torch.Tensor) -> tuple[float, ...]:
    """Return the part of the outputs that is lost when each unit goes, in the order in which least is lost.

    `gram` (units, units) are the sums of products of what the units contribute to the outputs.
    """
    size = len(gram)
    whole = float(gram.sum()) or 1.0
    left, scores, lost = set(range(size)), [0.0] * size, 0.0
    given_up = torch.zeros(size, dtype=gram.dtype)  # what the units given up contribute, against each unit
    largest = 0.0
    for place in range(size):
        rises = 2 * given_up + gram.diagonal()
        unit = min(left, key=lambda candidate: float(rises[candidate]))
        lost += float(rises[unit])
        given_up += gram[unit]
        left.remove(unit)
        largest = max(largest, lost / whole)
        scores[unit] = largest + 1e-9 * place  # later is better, also where a later one makes good for an earlier
    return tuple(scores)


def fitted_factors(gram: torch.Tensor, kept: tuple[int, ...]) -> torch.Tensor:
    """Return the factors (kept,) with which the kept units make up the outputs best, by least squares."""
    own = gram[list(kept)][:, list(kept)]
    ridge = _RIDGE * own.diagonal().mean() * torch.eye(len(kept), dtype=gram.dtype)
    factors: torch.Tensor = torch.linalg.solve(own + ridge, gram[list(kept)].sum(1) + ridge.diagonal())
    return factors
