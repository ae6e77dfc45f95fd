"""Removes the units that the loss would miss least, by the gradient of a gate on each unit.

Pavlo Molchanov, Arun Mallya, Stephen Tyree, Iuri Frosio, Jan Kautz: "Importance Estimation for Neural Network
Pruning", CVPR 2019, https://arxiv.org/abs/1906.10771: first order, gates, the joint form (sum of g * w)^2.

Deviations: the gate sits where the unit is read, on all its readers at once, which is what removing it zeroes;
between ReLUs this equals the paper's gate after the batch norm. In a residual stream the readers are summed before
squaring, so that no multiplicity has to be divided out. Units that no weight reads are gated where they are written.
All scores are taken at once, on the trained network in eval mode, rather than a few at a time while it trains.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from edgeprune.contracts import Context, Method
from edgeprune.errors import TrainingError, UsageError
from edgeprune.network.batches import OnDevice, as_inputs, device_of
from edgeprune.network.data import Data, calibration_batches
from edgeprune.network.groups import Group, Scores, Slice
from edgeprune.network.reduction import unit_sums


class Taylor(Method):
    """Importance = squared first-order change of a batch's loss without the unit, the mean over batches."""

    needs_data = True
    scores_are_losses = True

    def __init__(self, batches: int = 30) -> None:
        """Take the number of training batches to average over; raises UsageError."""
        if batches < 1:
            raise UsageError(f"The method taylor cannot score from {batches} batches; give 1 or more.")
        self.batches = batches

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss, no layer normalised; raises UsageError without data."""
        if context.data is None:
            raise UsageError("The method taylor needs training data; give --data.")
        network, groups = context.network, context.structure.groups
        parameters = dict(network.named_parameters())
        gates = {group.name: _gate(group, parameters) for group in groups}
        totals = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
        used = 0
        for _ in _backward_passes(network, context.data, self.batches):
            used += 1
            products = {name: _change(parameter) for name, parameter in parameters.items()}
            for group in groups:
                joint = sum(unit_sums(products[slot.tensor], slot, group.size) for slot in gates[group.name])
                totals[group.name] += torch.as_tensor(joint).cpu() ** 2
        return {name: tuple((total / used).tolist()) for name, total in totals.items()}


def _gate(group: Group, parameters: dict[str, nn.Parameter]) -> list[Slice]:
    """Return the slots whose sum of g * w is the gradient of a gate on each unit: the readers, or the writers."""
    weighted = [slot for slot in group.slices if slot.tensor in parameters]
    readers = [slot for slot in weighted if slot.role == "reader"]
    return readers or [slot for slot in weighted if slot.role == "writer"]


def _change(parameter: nn.Parameter) -> torch.Tensor:
    """Return g * w: minus the first-order change of the loss when the weight is set to zero."""
    if parameter.grad is None:  # not part of this batch's computation
        return torch.zeros_like(parameter)
    return parameter.grad.double() * parameter.detach().double()


def _backward_passes(network: nn.Module, data: Data, batches: int) -> Iterator[None]:
    """Leave the gradients of one batch after another in the parameters, in eval mode."""
    network.eval().requires_grad_(True)
    for inputs, targets in OnDevice(calibration_batches(data, batches), device_of(network)):
        network.zero_grad(set_to_none=True)
        loss = data.loss(network(*as_inputs(inputs)), targets)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"The loss of the trained network is {float(loss.detach())} on its training data; check --data."
            )
        loss.backward()
        yield
