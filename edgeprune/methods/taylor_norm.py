"""Removes the units that the loss would miss least, by the gradients of the norms' scales and shifts.

Pavlo Molchanov, Arun Mallya, Stephen Tyree, Iuri Frosio, Jan Kautz: "Importance Estimation for Neural Network
Pruning", CVPR 2019, https://arxiv.org/abs/1906.10771: first order, batch norm: (scale * g + shift * g)^2.

Deviations: all norms that a unit passes through are summed before squaring; for norms one after the other (a
depthwise convolution between two) this counts the same change twice. A group without norms is scored by its writers.
"""

from __future__ import annotations

from collections.abc import Collection

from edgeprune.contracts import Context, Method
from edgeprune.methods._taylor import Weights, counted, data_of, squared_changes_at
from edgeprune.network.groups import Group, Scores
from edgeprune.network.reduction import Slot, norm_tensors, weight_slots


class TaylorNorm(Method):
    """Importance = squared first-order change of a batch's loss without the unit's norms, the mean over batches."""

    needs_data = True
    scores_are_losses = True

    def __init__(self, batches: int = 30) -> None:
        """Take the number of training batches to average over; raises UsageError."""
        self.batches = counted(batches, "taylor-norm")

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss; raises UsageError without data."""
        data = data_of(context, "taylor-norm")
        groups, parameters = context.structure.groups, dict(context.network.named_parameters())
        norms = norm_tensors(context.network)
        slots = {group.name: _slots(group, parameters, norms) for group in groups}
        changes = squared_changes_at(slots, context, data, self.batches)
        return {name: tuple(own.tolist()) for name, own in changes.items()}


def _slots(group: Group, parameters: Weights, norms: Collection[str]) -> tuple[Slot, ...]:
    """Return the scales and shifts of a group's norms, or the weights that write it where it has none."""
    return weight_slots(group, norms, ("carrier",)) or weight_slots(group, parameters, ("writer",))
