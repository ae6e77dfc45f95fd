"""What the Taylor methods share: where the gate of a unit sits, and the gradients of one batch after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context
from edgeprune.errors import TrainingError, UsageError
from edgeprune.network.batches import OnDevice, as_inputs, device_of
from edgeprune.network.data import Data, calibration_batches
from edgeprune.network.groups import Group, Scores
from edgeprune.network.reduction import Slot, weight_slots

Weights = Mapping[str, nn.Parameter]


def gate_slots(group: Group, parameters: Weights) -> tuple[Slot, ...]:
    """Return the slots whose sum of g * w is the gradient of a gate on each unit: the readers, or the writers."""
    return weight_slots(group, parameters, ("reader",)) or weight_slots(group, parameters, ("writer",))


def gate_gradient(slots: Sequence[Slot], parameters: Weights) -> torch.Tensor:
    """Return the sum of g * w over all that a unit's gate multiplies (size,), float64 on the CPU.

    It is minus the first-order change of the loss when the unit is removed.
    """
    return torch.stack([slot.sums(change(parameters[slot.tensor])).cpu() for slot in slots]).sum(0)


def squared_changes(context: Context, data: Data, batches: int) -> dict[str, torch.Tensor]:
    """Return by group the squared first-order change of a batch's loss without each unit, the mean over batches."""
    parameters = dict(context.network.named_parameters())
    gates = {group.name: gate_slots(group, parameters) for group in context.structure.groups}
    return squared_changes_at(gates, context, data, batches)


def squared_changes_at(
    slots: Mapping[str, Sequence[Slot]], context: Context, data: Data, batches: int
) -> dict[str, torch.Tensor]:
    """Return by group the square of the sum of g * w over each unit's slots, the mean over batches (size,)."""
    parameters = dict(context.network.named_parameters())
    sizes = {group.name: group.size for group in context.structure.groups}
    totals = {name: torch.zeros(sizes[name], dtype=torch.float64) for name in slots}
    used = 0
    for _ in backward_passes(context.network, data, batches):
        used += 1
        for name, own in slots.items():
            totals[name] += gate_gradient(own, parameters) ** 2
    return {name: total / used for name, total in totals.items()}


def mean_changes(context: Context, data: Data, batches: int, power: int = 1) -> dict[str, torch.Tensor]:
    """Return by parameter (g * w) ** power, the mean over batches, float64."""
    parameters = dict(context.network.named_parameters())
    totals = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in parameters.items()}
    used = 0
    for _ in backward_passes(context.network, data, batches):
        used += 1
        for name, weight in parameters.items():
            totals[name] += change(weight) ** power
    return {name: total / used for name, total in totals.items()}


def unit_totals(context: Context, values: Mapping[str, torch.Tensor]) -> Scores:
    """Return as scores the sums of values, shaped like the parameters, over all that removing a unit removes."""
    scores = {}
    for group in context.structure.groups:
        parts = [slot.sums(values[slot.tensor]).cpu() for slot in weight_slots(group, values)]
        scores[group.name] = tuple(torch.stack(parts).sum(0).tolist())
    return scores


def change(parameter: nn.Parameter) -> torch.Tensor:
    """Return g * w in float64; zeros where the weight was not part of the computation."""
    if parameter.grad is None:
        return torch.zeros_like(parameter, dtype=torch.float64)
    return parameter.grad.double() * parameter.detach().double()


def counted(batches: int, method: str) -> int:
    """Return a number of batches to score from; raises UsageError for none."""
    if batches < 1:
        raise UsageError(f"The method {method} cannot score from {batches} batches; give 1 or more.")
    return batches


def data_of(context: Context, method: str) -> Data:
    """Return the data to score by; raises UsageError where there is none."""
    if context.data is None:
        raise UsageError(f"The method {method} needs training data; give --data.")
    return context.data


def backward_passes(network: nn.Module, data: Data, batches: int) -> Iterator[None]:
    """Leave the gradients of one batch after another in the parameters, in eval mode."""
    for inputs, targets in batches_of(network, data, batches):
        loss_of(network, data, inputs, targets).backward()
        yield


def batches_of(network: nn.Module, data: Data, batches: int) -> Iterator[tuple[Any, Any]]:
    """Yield batches on the network's device, the network in eval mode and every parameter with a gradient."""
    network.eval().requires_grad_(True)
    yield from OnDevice(calibration_batches(data, batches), device_of(network))


def loss_of(network: nn.Module, data: Data, inputs: Any, targets: Any) -> torch.Tensor:
    """Return the loss of a batch, with no gradients left of an earlier one; raises TrainingError where not finite."""
    network.zero_grad(set_to_none=True)
    return loss_of_outputs(data, network(*as_inputs(inputs)), targets)


def loss_of_outputs(data: Data, outputs: Any, targets: Any) -> torch.Tensor:
    """Return the loss of what the network answered; raises TrainingError where not finite."""
    loss = data.loss(outputs, targets)
    if not bool(torch.isfinite(loss)):
        raise TrainingError(
            f"The loss of the trained network is {float(loss.detach())} on its training data; check --data."
        )
    return loss
