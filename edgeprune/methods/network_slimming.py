"""Trains the scales of the norms towards zero, and removes the units whose scales got there.

Zhuang Liu, Jianguo Li, Zhiqiang Shen, Gao Huang, Shoumeng Yan, Changshui Zhang: "Learning Efficient Convolutional
Networks through Network Slimming", ICCV 2017, https://arxiv.org/abs/1708.06519.

Deviations: the scales of all norms that a unit passes through count, as their mean, so that a residual stream is
scored as a whole; a group without norms is trained and scored by the norms of its filters. The paper's strength is
for about 60,000 steps; a shorter training pulls proportionally harder, at most 100 times.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UsageError
from edgeprune.methods._scales import harder, mean_scale, scale_scores, scale_slots
from edgeprune.network.groups import Allocation, Scores
from edgeprune.network.reduction import Slot


class NetworkSlimming(Method):
    """Importance = mean |scale| over the norms that a unit passes through, after training with an L1 penalty on it."""

    trains = True

    def __init__(self, strength: float = 1e-4) -> None:
        """Take the weight of the penalty for a training as long as the paper's; raises UsageError."""
        if not strength > 0:
            raise UsageError(f"The strength {strength} of the method network-slimming is not above zero.")
        self.strength = strength
        self._scales: tuple[tuple[Slot, ...], ...] = ()
        self._now = 0.0

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the norms."""
        return scale_scores(context)

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Find the scales of every group, whatever its allocation: the paper trains all of them."""
        self._scales = tuple(scale_slots(context).values())

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Set the strength by the length of the training."""
        self._now = self.strength * harder(step)

    def penalty(self, network: nn.Module) -> torch.Tensor:
        """Return the sum of the sizes of all scales, weighted."""
        parameters = dict(network.named_parameters())
        sizes = [mean_scale(slots, parameters).sum() * len(slots) for slots in self._scales]
        return self._now * torch.stack(sizes).sum()
