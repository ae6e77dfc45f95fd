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
from edgeprune.network.groups import Allocation, Group, Scores
from edgeprune.network.reduction import Slot, norm_scales, weight_slots

_STEPS_OF_THE_PAPER = 60_000
_HARDEST = 100.0


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
        parameters = dict(context.network.named_parameters())
        scales = norm_scales(context.network)
        return {
            group.name: tuple(_scale(_slots(group, parameters, scales), parameters).tolist())
            for group in context.structure.groups
        }

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Find the scales of every group, whatever its allocation: the paper trains all of them."""
        parameters = dict(context.network.named_parameters())
        scales = norm_scales(context.network)
        self._scales = tuple(_slots(group, parameters, scales) for group in context.structure.groups)

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Set the strength by the length of the training."""
        self._now = self.strength * min(_HARDEST, max(1.0, _STEPS_OF_THE_PAPER / step.total))

    def penalty(self, network: nn.Module) -> torch.Tensor:
        """Return the sum of the sizes of all scales, weighted."""
        parameters = dict(network.named_parameters())
        sizes = [_scale(slots, parameters).sum() * len(slots) for slots in self._scales]
        return self._now * torch.stack(sizes).sum()


def _slots(group: Group, parameters: dict[str, nn.Parameter], scales: frozenset[str]) -> tuple[Slot, ...]:
    """Return the scales of a group's norms, or the weights that write it where it has none."""
    return weight_slots(group, scales, ("carrier",)) or weight_slots(group, parameters, ("writer",))


def _scale(slots: tuple[Slot, ...], parameters: dict[str, nn.Parameter]) -> torch.Tensor:
    """Return the mean over slots of each unit's 2-norm (size,): |scale| of a norm, or the norm of a filter."""
    tiny = 1e-24  # the slope of a root at zero is infinite
    norms = [(slot.sums(parameters[slot.tensor].square()) + tiny).sqrt() for slot in slots]
    return torch.stack(norms).mean(0)
