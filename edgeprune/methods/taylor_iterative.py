"""Removes a few units every few batches while the network trains, by the gradients of gates that training computes.

Pavlo Molchanov, Arun Mallya, Stephen Tyree, Iuri Frosio, Jan Kautz: "Importance Estimation for Neural Network
Pruning", CVPR 2019, https://arxiv.org/abs/1906.10771: first order, gates, (sum of g * w)^2 a batch, averaged between
two removals, with an exponential average of 0.9 over them; a gate that is closed stays closed.

Deviations: the allocation says how many units each group loses, so that units are ranked inside their group and every
removal closes the same part of what each group loses; removals end at three quarters of the training. The gate sits
where the unit is read, as in the one-shot form. Where no training was, the scores are those of one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UsageError
from edgeprune.methods._gates import multiply
from edgeprune.methods._taylor import counted, data_of, gate_gradient, gate_slots, squared_changes
from edgeprune.network.groups import Allocation, Group, Scores
from edgeprune.network.reduction import Slot
from edgeprune.network.selection import allowed_counts, select_units

_UNTIL = 0.75  # of the training; the rest lets the kept units settle
_KEPT_OF_AVERAGE = 0.9
_CLOSED = -1.0  # below every score


class TaylorIterative(Method):
    """Importance = averaged squared first-order change of the loss without the unit, while units go one by one."""

    needs_data = True
    trains = True
    scores_are_losses = True

    def __init__(self, interval: int = 30, removals: int = 30, batches: int = 30) -> None:
        """Take the most steps between two removals, the least removals, and the batches of a first score."""
        if interval < 1 or removals < 1:
            raise UsageError(f"The method taylor-iterative needs 1 step and 1 removal, not {interval} and {removals}.")
        self.interval = interval
        self.removals = removals
        self.batches = counted(batches, "taylor-iterative")
        self._losing: dict[str, tuple[Group, int]] = {}
        self._gates: dict[str, tuple[Slot, ...]] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._averages: dict[str, torch.Tensor] = {}
        self._closed: dict[str, torch.Tensor] = {}
        self._seen = 0

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss; what was closed has less than all others."""
        changes = squared_changes(context, data_of(context, "taylor-iterative"), self.batches)
        for name, closed in self._closed.items():
            changes[name][closed] = _CLOSED
        return {name: tuple(values.tolist()) for name, values in changes.items()}

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Put a gate on every unit of the groups that lose some."""
        parameters = dict(context.network.named_parameters())
        losing = [group for group in context.structure.groups if allocation.get(group.name, group.size) < group.size]
        self._losing = {group.name: (group, allocation[group.name]) for group in losing}
        self._gates = {group.name: gate_slots(group, parameters) for group in losing}
        self._sums = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in losing}
        self._closed = {group.name: torch.zeros(group.size, dtype=torch.bool) for group in losing}
        self._averages = {}
        self._seen = 0

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Every few steps, close the gates that were missed least since the last time."""
        until = _UNTIL * step.total
        every = max(1, min(self.interval, int(until) // self.removals))
        if step.number % every == 0 and self._seen:
            self._average()
            for name, (group, kept) in self._losing.items():
                self._close(name, group, group.size - int((group.size - kept) * min(1.0, step.number / until)))

    def after_backward(self, network: nn.Module) -> None:
        """Add what the gates' gradients say of this batch."""
        parameters = dict(network.named_parameters())
        for name, slots in self._gates.items():
            self._sums[name] += gate_gradient(slots, parameters) ** 2
        self._seen += 1

    def after_step(self, network: nn.Module) -> None:
        """Keep closed what was closed."""
        parameters = dict(network.named_parameters())
        for name, slots in self._gates.items():
            multiply(parameters, slots, (~self._closed[name]).double())

    def state_dict(self) -> dict[str, Any]:
        """Return the gates, and what is known of them."""
        return {"sums": self._sums, "averages": self._averages, "closed": self._closed, "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved gates."""
        self._sums, self._averages = dict(state["sums"]), dict(state["averages"])
        self._closed, self._seen = dict(state["closed"]), int(state["seen"])

    def _average(self) -> None:
        """Take the mean since the last removal into the exponential average."""
        for name, total in self._sums.items():
            mean = total / self._seen
            before = self._averages.get(name, mean)
            self._averages[name] = _KEPT_OF_AVERAGE * before + (1 - _KEPT_OF_AVERAGE) * mean
            self._sums[name] = torch.zeros_like(total)
        self._seen = 0

    def _close(self, name: str, group: Group, target: int) -> None:
        """Close gates until `target` units are open, or the next number above it that the constraints allow."""
        scores = self._averages[name].masked_fill(self._closed[name], _CLOSED).tolist()
        target = min(count for count in allowed_counts(group) if count >= target)
        closed = torch.ones(group.size, dtype=torch.bool)
        closed[list(select_units(group, scores, target))] = False
        self._closed[name] |= closed
