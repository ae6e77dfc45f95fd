"""Removes the units with the least connection sensitivity: the sum of |gradient * weight| over a unit.

Namhoon Lee, Thalaiyasingam Ajanthan, Philip H. S. Torr: "SNIP: Single-shot Network Pruning based on Connection
Sensitivity", ICLR 2019, https://arxiv.org/abs/1810.02340.

Deviations: on the trained network rather than at initialisation; the sensitivities of all that removing a unit
removes are added up; gradients are averaged over batches. The scale is that of the loss and one for all groups.
"""

from __future__ import annotations

import torch

from edgeprune.contracts import Context, Method
from edgeprune.methods._taylor import backward_passes, change, counted, data_of
from edgeprune.network.groups import Scores
from edgeprune.network.reduction import weight_slots


class Snip(Method):
    """Importance = sum over a unit's weights of |mean gradient * weight|."""

    needs_data = True

    def __init__(self, batches: int = 10) -> None:
        """Take the number of training batches to average over; raises UsageError."""
        self.batches = counted(batches, "snip")

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss; raises UsageError without data."""
        data = data_of(context, "snip")
        parameters = dict(context.network.named_parameters())
        totals = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in parameters.items()}
        used = 0
        for _ in backward_passes(context.network, data, self.batches):
            used += 1
            for name, weight in parameters.items():
                totals[name] += change(weight)
        sizes = {name: (total / used).abs() for name, total in totals.items()}
        return {
            group.name: tuple(
                torch.stack([slot.sums(sizes[slot.tensor]).cpu() for slot in weight_slots(group, parameters)])
                .sum(0)
                .tolist()
            )
            for group in context.structure.groups
        }
