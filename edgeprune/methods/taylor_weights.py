"""Removes the units whose weights the loss would miss least, one weight at a time, added up over the unit.

Pavlo Molchanov, Arun Mallya, Stephen Tyree, Iuri Frosio, Jan Kautz: "Importance Estimation for Neural Network
Pruning", CVPR 2019, https://arxiv.org/abs/1906.10771: first order, weights, the additive form: sum of (g * w)^2.

Deviations: the weights of a unit are all that removing it removes (writers, norms, readers), not one filter alone;
all scores are taken at once, on the trained network in eval mode.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.methods._taylor import counted, data_of, mean_changes, unit_totals
from edgeprune.network.groups import Scores


class TaylorWeights(Method):
    """Importance = sum over a unit's weights of (gradient * weight)^2, the mean over batches."""

    needs_data = True
    scores_are_losses = True

    def __init__(self, batches: int = 30) -> None:
        """Take the number of training batches to average over; raises UsageError."""
        self.batches = counted(batches, "taylor-weights")

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss; raises UsageError without data."""
        squares = mean_changes(context, data_of(context, "taylor-weights"), self.batches, power=2)
        return unit_totals(context, squares)
