"""Removes the units with the least connection sensitivity: the sum of |gradient * weight| over a unit.

Namhoon Lee, Thalaiyasingam Ajanthan, Philip H. S. Torr: "SNIP: Single-shot Network Pruning based on Connection
Sensitivity", ICLR 2019, https://arxiv.org/abs/1810.02340.

Deviations: on the trained network rather than at initialisation; the sensitivities of all that removing a unit
removes are added up; gradients are averaged over batches. The scale is that of the loss and one for all groups.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.methods._taylor import counted, data_of, mean_changes, unit_totals
from edgeprune.network.groups import Scores


class Snip(Method):
    """Importance = sum over a unit's weights of |mean gradient * weight|."""

    needs_data = True

    def __init__(self, batches: int = 10) -> None:
        """Take the number of training batches to average over; raises UsageError."""
        self.batches = counted(batches, "snip")

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss; raises UsageError without data."""
        changes = mean_changes(context, data_of(context, "snip"), self.batches)
        return unit_totals(context, {name: change.abs() for name, change in changes.items()})
