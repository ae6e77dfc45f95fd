"""Removes the units whose weights the loss would miss least, one weight at a time, added up over the unit.

Pavlo Molchanov, Arun Mallya, Stephen Tyree, Iuri Frosio, Jan Kautz: "Importance Estimation for Neural Network
Pruning", CVPR 2019, https://arxiv.org/abs/1906.10771: first order, weights, the additive form: sum of (g * w)^2.

Deviations: the weights of a unit are all that removing it removes (writers, norms, readers), not one filter alone;
all scores are taken at once, on the trained network in eval mode.
"""

from __future__ import annotations

import torch

from edgeprune.contracts import Context, Method
from edgeprune.methods._taylor import backward_passes, change, counted, data_of
from edgeprune.network.groups import Scores
from edgeprune.network.reduction import weight_slots


class TaylorWeights(Method):
    """Importance = sum over a unit's weights of (gradient * weight)^2, the mean over batches."""

    needs_data = True
    scores_are_losses = True

    def __init__(self, batches: int = 30) -> None:
        """Take the number of training batches to average over; raises UsageError."""
        self.batches = counted(batches, "taylor-weights")

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss; raises UsageError without data."""
        data = data_of(context, "taylor-weights")
        parameters = dict(context.network.named_parameters())
        totals = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in parameters.items()}
        used = 0
        for _ in backward_passes(context.network, data, self.batches):
            used += 1
            for name, weight in parameters.items():
                totals[name] += change(weight) ** 2
        return {
            group.name: tuple(
                torch.stack([slot.sums(totals[slot.tensor] / used).cpu() for slot in weight_slots(group, parameters)])
                .sum(0)
                .tolist()
            )
            for group in context.structure.groups
        }
