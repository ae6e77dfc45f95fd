"""Removes the units whose gates have the smallest gradients, sample by sample: the Fisher information.

Lucas Theis, Iryna Korshunova, Alykhan Tejani, Ferenc Huszar: "Faster gaze prediction with dense networks and Fisher
pruning", 2018, https://arxiv.org/abs/1801.05787: half the mean over samples of the squared gradient of a gate, which
is the second-order change of the loss at a minimum.

Deviation: the gate sits where the unit is read, on all its readers at once. Samples are taken one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from edgeprune.contracts import Context, Method
from edgeprune.methods._taylor import batches_of, counted, data_of, gate_gradient, gate_slots, loss_of
from edgeprune.network.data import Data
from edgeprune.network.groups import Scores


class TaylorFisher(Method):
    """Importance = half the mean over samples of the squared gradient of a unit's gate."""

    needs_data = True
    scores_are_losses = True

    def __init__(self, samples: int = 256) -> None:
        """Take the number of training samples; raises UsageError."""
        self.samples = counted(samples, "taylor-fisher")

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss; raises UsageError without data."""
        data, network, groups = data_of(context, "taylor-fisher"), context.network, context.structure.groups
        parameters = dict(network.named_parameters())
        gates = {group.name: gate_slots(group, parameters) for group in groups}
        totals = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
        used = 0
        for inputs, targets in islice(_samples(context, data, self.samples), self.samples):
            used += 1
            loss_of(network, data, inputs, targets).backward()
            for name, slots in gates.items():
                totals[name] += gate_gradient(slots, parameters) ** 2
        return {name: tuple((total / used / 2).tolist()) for name, total in totals.items()}


def _samples(context: Context, data: Data, count: int) -> Iterator[tuple[Any, Any]]:
    """Yield batches of one; a batch that cannot be taken apart, because its targets are no tensor, stays whole."""
    for inputs, targets in batches_of(context.network, data, count):
        parts = inputs if isinstance(inputs, tuple | list) else (inputs,)
        if not isinstance(targets, torch.Tensor):
            yield inputs, targets
            continue
        for at in range(len(targets)):
            one = tuple(part[at : at + 1] for part in parts)
            yield one, targets[at : at + 1]
