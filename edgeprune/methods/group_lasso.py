"""Trains under a penalty on the norm of everything that makes a unit, and removes the units that it emptied.

Wei Wen, Chunpeng Wu, Yandan Wang, Yiran Chen, Hai Li: "Learning Structured Sparsity in Deep Neural Networks",
NIPS 2016, https://arxiv.org/abs/1608.03665 (group lasso over filters).

Deviations: a unit is all its writers and norms together, since they go together; each unit's norm is weighted by the
root of how many weights it has (Ming Yuan, Yi Lin: "Model selection and estimation in regression with grouped
variables", 2006, https://doi.org/10.1111/j.1467-9868.2005.00532.x), which also makes scores of groups compare. The
strength is for about 60,000 steps; a shorter training pulls proportionally harder, at most 100 times.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UsageError
from edgeprune.methods._scales import harder
from edgeprune.network.groups import Allocation, Scores
from edgeprune.network.reduction import Slot, weight_slots

_TINY = 1e-24  # the slope of a root at zero is infinite


class GroupLasso(Method):
    """Importance = 2-norm of all that makes a unit, over the root of how many weights that is."""

    trains = True

    def __init__(self, strength: float = 1e-5) -> None:
        """Take the weight of the penalty for a training of 60,000 steps; raises UsageError."""
        if not strength > 0:
            raise UsageError(f"The strength {strength} of the method group-lasso is not above zero.")
        self.strength = strength
        self._slots: tuple[tuple[Slot, ...], ...] = ()
        self._now = 0.0

    def score(self, context: Context) -> Scores:
        """Score every unit: the root of its mean squared weight, one scale for all groups."""
        parameters, slots = dict(context.network.named_parameters()), _slots(context)
        return {
            name: tuple((_norms(own, parameters) / math.sqrt(_weights(own, parameters))).tolist())
            for name, own in slots.items()
        }

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Find what makes the units of every group."""
        self._slots = tuple(_slots(context).values())

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Set the strength by the length of the training."""
        self._now = self.strength * harder(step)

    def penalty(self, network: nn.Module) -> torch.Tensor:
        """Return the sum of the units' norms, weighted."""
        parameters = dict(network.named_parameters())
        terms = [_norms(own, parameters).sum() * math.sqrt(_weights(own, parameters)) for own in self._slots]
        return self._now * torch.stack(terms).sum()


def _slots(context: Context) -> dict[str, tuple[Slot, ...]]:
    names = dict(context.network.named_parameters())
    return {group.name: weight_slots(group, names, ("writer", "carrier")) for group in context.structure.groups}


def _norms(slots: tuple[Slot, ...], parameters: dict[str, nn.Parameter]) -> torch.Tensor:
    squares = torch.stack([slot.sums(parameters[slot.tensor].square()) for slot in slots])
    return (squares.sum(0) + _TINY).sqrt()


def _weights(slots: tuple[Slot, ...], parameters: dict[str, nn.Parameter]) -> float:
    """Return how many weights a unit of these slots has on average."""
    total = sum(
        parameters[slot.tensor].numel() * len(slot.positions) / parameters[slot.tensor].shape[slot.dim]
        for slot in slots
    )
    return total / slots[0].size
