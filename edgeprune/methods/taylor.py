"""Removes the units that the loss would miss least, by the gradient of a gate on each unit.

Pavlo Molchanov, Arun Mallya, Stephen Tyree, Iuri Frosio, Jan Kautz: "Importance Estimation for Neural Network
Pruning", CVPR 2019, https://arxiv.org/abs/1906.10771: first order, gates, the joint form (sum of g * w)^2.

Deviations: the gate sits where the unit is read, on all its readers at once, which is what removing it zeroes;
between ReLUs this equals the paper's gate after the batch norm. In a residual stream the readers are summed before
squaring, so that no multiplicity has to be divided out. Units that no weight reads are gated where they are written.
All scores are taken at once, on the trained network in eval mode, rather than a few at a time while it trains.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.methods._taylor import counted, data_of, squared_changes
from edgeprune.network.groups import Scores


class Taylor(Method):
    """Importance = squared first-order change of a batch's loss without the unit, the mean over batches."""

    needs_data = True
    scores_are_losses = True

    def __init__(self, batches: int = 30) -> None:
        """Take the number of training batches to average over; raises UsageError."""
        self.batches = counted(batches, "taylor")

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss, no layer normalised; raises UsageError without data."""
        changes = squared_changes(context, data_of(context, "taylor"), self.batches)
        return {name: tuple(values.tolist()) for name, values in changes.items()}
