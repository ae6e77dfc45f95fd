"""Trains the scales of the norms apart, some towards zero and the others away from it, and removes the former.

Tao Zhuang, Zhixuan Zhang, Yuheng Huang, Xiaoyi Zeng, Kai Shuang, Xiang Li: "Neuron-level Structured Pruning using
Polarization Regularizer", NeurIPS 2020, https://papers.nips.cc/paper/2020/hash/703957b6dd9e3a7980e040bee50ded65-Abstract.html:
t * |s|_1 - |s - mean(s)|_1 over all scales s of the network.

Deviations: one scale a unit, the mean over all norms that it passes through; the mean inside the penalty is over the
units of one group, since a board's allocation decides between groups. The paper's strength is for about 60,000 steps;
a shorter training pulls proportionally harder, at most 100 times.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UsageError
from edgeprune.methods._scales import harder, mean_scale, scale_scores, scale_slots
from edgeprune.network.groups import Allocation, Scores
from edgeprune.network.reduction import Slot


class Polarisation(Method):
    """Importance = mean |scale| over the norms that a unit passes through, after training scales apart."""

    trains = True

    def __init__(self, strength: float = 1e-4, towards_zero: float = 1.2) -> None:
        """Take the weight of the penalty for a training as long as the paper's, and t; raises UsageError."""
        if not strength > 0 or not towards_zero >= 0:
            raise UsageError(
                f"The method polarisation needs a strength above zero and t of 0 or more, not {strength} and "
                f"{towards_zero}."
            )
        self.strength = strength
        self.towards_zero = towards_zero
        self._scales: tuple[tuple[Slot, ...], ...] = ()
        self._now = 0.0

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the norms."""
        return scale_scores(context)

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Find the scales of every group."""
        self._scales = tuple(scale_slots(context).values())

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Set the strength by the length of the training."""
        self._now = self.strength * harder(step)

    def penalty(self, network: nn.Module) -> torch.Tensor:
        """Return the polarisation of all groups, weighted."""
        parameters = dict(network.named_parameters())
        terms = []
        for slots in self._scales:
            scales = mean_scale(slots, parameters)
            terms.append(self.towards_zero * scales.sum() - (scales - scales.mean()).abs().sum())
        return self._now * torch.stack(terms).sum()
