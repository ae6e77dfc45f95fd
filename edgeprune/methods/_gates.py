"""Gates on units, where they are read: closed for one step and put back, or multiplied in for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from edgeprune.contracts import Context
from edgeprune.methods._taylor import gate_slots
from edgeprune.network.reduction import Slot

Gated = Mapping[str, torch.Tensor]  # a factor for each unit (size,), by group


def multiply(parameters: Mapping[str, nn.Parameter], slots: Iterable[Slot], factors: torch.Tensor) -> None:
    """Multiply all that the slots own by the factors of their units (size,), in place."""
    with torch.no_grad():
        for slot in slots:
            weight = parameters[slot.tensor]
            weight.mul_(slot.spread(factors, weight, elsewhere=1.0))


class Gates:
    """The gates of some groups; what a unit makes stays as it is, so that the statistics of its norm do, too."""

    def __init__(self, context: Context, groups: Iterable[str]) -> None:
        """Find where the units of the named groups are read."""
        chosen, parameters = frozenset(groups), dict(context.network.named_parameters())
        self._slots: Mapping[str, Sequence[Slot]] = {
            group.name: gate_slots(group, parameters) for group in context.structure.groups if group.name in chosen
        }
        self._whole: dict[str, torch.Tensor] = {}

    def close(self, network: nn.Module, factors: Gated) -> None:
        """Multiply the units by their factors, until `reopen`."""
        parameters = dict(network.named_parameters())
        names = {slot.tensor for slots in self._slots.values() for slot in slots}
        self._whole = {name: parameters[name].detach().clone() for name in names}
        self.multiply(network, factors)

    def reopen(self, network: nn.Module) -> None:
        """Put back what `close` changed, to the same bits."""
        parameters = dict(network.named_parameters())
        with torch.no_grad():
            for name, whole in self._whole.items():
                parameters[name].copy_(whole)
        self._whole = {}

    def multiply(self, network: nn.Module, factors: Gated) -> None:
        """Multiply the units by their factors for good."""
        parameters = dict(network.named_parameters())
        for name, own in factors.items():
            multiply(parameters, self._slots[name], own)

    def multiply_gradients(self, network: nn.Module, factors: Gated) -> None:
        """Multiply the gradients of what reads the units."""
        parameters = dict(network.named_parameters())
        for name, own in factors.items():
            for slot in self._slots[name]:
                gradient = parameters[slot.tensor].grad
                if gradient is not None:
                    gradient.mul_(slot.spread(own, gradient, elsewhere=1.0))

    def gradients(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """Return the slope of the loss by each factor (size,), after a backward and before `reopen`; float64."""
        parameters, slopes = dict(network.named_parameters()), {}
        for name, slots in self._slots.items():
            parts = []
            for slot in slots:
                gradient = parameters[slot.tensor].grad
                if gradient is not None:
                    parts.append(slot.sums(gradient.double() * self._whole[slot.tensor].double()).cpu())
            if parts:
                slopes[name] = torch.stack(parts).sum(0)
        return slopes
