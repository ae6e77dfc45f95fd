"""What the methods that grow a weight decay by unit share: where the decay acts, and how it grows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgeprune.contracts import Context
from edgeprune.methods._gates import multiply
from edgeprune.network.groups import Allocation, Scores, Structure
from edgeprune.network.reduction import Slot, over_mean, unit_norms, weight_slots
from edgeprune.network.selection import select_units


class UnitDecay:
    """Adds `factor * weight` to the gradients of all that makes a unit's output: its writers, norms and biases.

    Without the norms' scales and shifts a shrinking filter would change nothing, since the norm undoes it.
    """

    def __init__(self, context: Context) -> None:
        """Find what makes each group's output."""
        names = dict(context.network.named_parameters())
        self._slots: dict[str, tuple[Slot, ...]] = {
            group.name: weight_slots(group, names, ("writer", "carrier")) for group in context.structure.groups
        }

    def add(self, network: nn.Module, factors: Mapping[str, torch.Tensor]) -> None:
        """Act on the gradients of one step; `factors` (size,) by group."""
        parameters = dict(network.named_parameters())
        for name, factor in factors.items():
            for slot in self._slots[name]:
                weight = parameters[slot.tensor]
                if weight.grad is not None:
                    weight.grad += slot.spread(factor, weight) * weight.detach()

    def shrink(self, network: nn.Module, group: str, left: torch.Tensor) -> None:
        """Multiply all that makes the units of a group by what is left of each (size,), in place."""
        multiply(dict(network.named_parameters()), self._slots[group], left)


def removed_marks(structure: Structure, scores: Scores, allocation: Allocation) -> dict[str, torch.Tensor]:
    """Return 1.0 for each unit that would go, 0.0 for the others (size,), for every group that loses units."""
    marks = {}
    for group in structure.groups:
        kept = allocation.get(group.name, group.size)
        if kept < group.size:
            marks[group.name] = torch.ones(group.size)
            marks[group.name][list(select_units(group, scores[group.name], kept))] = 0.0
    return marks


def filter_scores(context: Context) -> Scores:
    """Return the L1 norm of all that writes a unit, over the mean of its group."""
    network, scores = context.network, {}
    for group in context.structure.groups:
        writers = {piece.tensor for piece in group.slices if piece.role == "writer"}
        weights = {name: weight for name, weight in network.named_parameters() if name in writers}
        scores[group.name] = over_mean(unit_norms(group, weights, 1.0))
    return scores
