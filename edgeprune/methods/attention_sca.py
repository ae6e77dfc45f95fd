"""Trains attention behind the convolutions, removes the channels whose gates stay low, and takes it out again.

Shuai Liu, Weiwei Fang, Yuxuan Ma, Jie Xu, Naixue Xiong, Yi Ding: "Channel Pruning Guided by Spatial and Channel
Attention for DNNs in Intelligent Edge Computing", Applied Soft Computing 2021, https://arxiv.org/abs/2011.03891.

A gate of positions for each group of channels, then a gate of channels from pooled maps; a channel's importance is its
mean gate over training data after the training. Deviations: behind every convolution that writes channels of a group,
stem and stream included, where the paper has it in the blocks; the gates of all convolutions that write a unit are
added up and divided by the group's mean, so that scores of groups compare; in the end the mean of the gates is folded
into the weights and norms are re-calibrated, where the paper drops it and trains on; gates begin almost open, so that a
trained network works on with attention in it, where the paper trains from the start (with the paper's gates ResNet-20
fell from 92 % to 11 %, and was at 49 % after 62 steps; with these it is at 91.9 %, and at 91.7 % without attention);
gradients are clipped to a norm of 1. A group that no convolution writes is scored by the L1 norm of its filters. Before
a training the gates are looked at, but not applied. On ResNet-20 the mean gates order units hardly better than chance
does, with or without a short training, and worse than L1 norms do: see benchmarks/results/oracle.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgeprune.contracts import Context, Method
from edgeprune.methods._attention import Attentions
from edgeprune.methods._growing import filter_scores
from edgeprune.methods._taylor import counted, data_of
from edgeprune.network.evaluation import recalibrate_batch_norm
from edgeprune.network.groups import Allocation, Scores
from edgeprune.network.reduction import over_mean, slot_of

_NAME = "attention-sca"
_LARGEST_NORM = 1.0


class AttentionSca(Method):
    """Importance = mean gate of a unit's channels over the mean of its group, after training with attention."""

    needs_data = True
    trains = True

    def __init__(self, batches: int = 30) -> None:
        """Take the number of training batches to average the gates over; raises UsageError."""
        self.batches = counted(batches, _NAME)
        self._gates: Mapping[str, torch.Tensor] = {}

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1. Raises UsageError without data."""
        return _scores(context, self._gates or self._untrained(context))

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Put attention in, whatever the allocation: the paper trains all of it. Raises UsageError without data."""
        data_of(context, _NAME)
        self._gates = {}
        self._attentions = Attentions(context.network, _writers(context))

    def after_backward(self, network: nn.Module) -> None:
        """Clip the gradients of the whole network."""
        nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_NORM)

    def finish(self, context: Context) -> None:
        """Look at the gates, fold their mean into the weights, and take attention out."""
        data = data_of(context, _NAME)
        self._gates = self._attentions.looked_at(context, data, self.batches)
        self._attentions.fold()
        self._attentions.remove()
        recalibrate_batch_norm(context.network, data, self.batches)

    def _untrained(self, context: Context) -> Mapping[str, torch.Tensor]:
        attentions = Attentions(context.network, _writers(context), applied=False)
        gates = attentions.looked_at(context, data_of(context, _NAME), self.batches)
        attentions.remove()
        return gates


def _writers(context: Context) -> list[str]:
    """Return the names of the convolutions over maps that write channels of a group, each once."""
    names = (
        piece.tensor.removesuffix(".weight")
        for group in context.structure.groups
        for piece in group.slices
        if piece.role == "writer" and piece.tensor.endswith(".weight")
    )
    return [name for name in dict.fromkeys(names) if isinstance(context.network.get_submodule(name), nn.Conv2d)]


def _scores(context: Context, gates: Mapping[str, torch.Tensor]) -> Scores:
    scores = dict(filter_scores(context))
    for group in context.structure.groups:
        written = [
            slot_of(piece, group.size).sums(gates[piece.tensor.removesuffix(".weight")])
            for piece in group.slices
            if piece.role == "writer" and piece.tensor.endswith(".weight") and piece.tensor[: -len(".weight")] in gates
        ]
        if written:
            scores[group.name] = over_mean(torch.stack(written).sum(0))
    return scores
