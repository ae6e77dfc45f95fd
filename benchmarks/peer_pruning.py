"""Torch-Pruning's own pruners as entrants of `benchmarks.methods`, under the same training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.network.batches import OnDevice, as_inputs, device_of
from edgeprune.network.data import calibration_batches
from edgeprune.network.groups import Allocation, Scores

# What of ours has the same criterion, and the same regularisation where there is one.
COUNTERPARTS = {
    "torch-pruning: L1": "magnitude",
    "torch-pruning: BN scale": "network-slimming",
    "torch-pruning: Taylor": "taylor",
    "torch-pruning: growing reg": "growing-reg",
}
_GROWTHS = 100  # of the regularisation, over a training: one an epoch of theirs
_STEPS, _HARDEST = 60_000, 100.0  # a shorter training is regularised harder, as our own methods do


class Peer(Method):
    """One of the peer's pruners: its importance, its regularisation where it has one, its cut.

    A group keeps its allocated units by the peer's own choice; layers outside of the allocation are left alone.
    """

    def __init__(self, build: Callable[..., Any], *, trains: bool, needs_gradients: bool) -> None:
        """Take what builds a pruner from (network, inputs, options)."""
        self.trains = trains  # type: ignore[misc]  # of the pruner, not of the class
        self.needs_gradients = needs_gradients
        self._build = build
        self._pruner: Any = None
        self._harder = 1.0

    def score(self, context: Context) -> Scores:
        """Refuse: the peer's scores stay inside its cut."""
        raise NotImplementedError("The peer cuts by its own scores.")

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Build the pruner on the network."""
        self._pruner = self._build(context.network, context.example_inputs[0], _options(context.network, allocation))

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Let the regularisation grow."""
        self._harder = min(_HARDEST, max(1.0, _STEPS / step.total))
        if hasattr(self._pruner, "update_reg") and step.number % max(1, step.total // _GROWTHS) == 0:
            self._pruner.update_reg()

    def after_backward(self, network: nn.Module) -> None:
        """Regularise."""
        if hasattr(self._pruner, "reg"):
            self._pruner.regularize(network, reg=self._pruner.reg * self._harder)
        else:
            self._pruner.regularize(network)

    def cut(self, context: Context, allocation: Allocation) -> nn.Module:
        """Cut `context.network` itself, and return it."""
        if self._pruner is None:
            self.prepare(context, allocation)
        if self.needs_gradients:
            _leave_gradients(context)
        self._pruner.step()
        return context.network


def peers() -> Mapping[str, Callable[[], Peer]]:
    """Return what makes each entrant of Torch-Pruning, by name; empty where it is not installed."""
    try:
        import torch_pruning as peer  # an optional peer
    except ImportError:
        return {}
    importance, pruners = peer.importance, peer.pruner

    def plain(network: nn.Module, inputs: torch.Tensor, options: dict[str, Any]) -> Any:
        return pruners.BasePruner(network, inputs, importance=importance.GroupMagnitudeImportance(p=1), **options)

    def scales(network: nn.Module, inputs: torch.Tensor, options: dict[str, Any]) -> Any:
        return pruners.BNScalePruner(network, inputs, importance=importance.BNScaleImportance(), reg=1e-4, **options)

    def changes(network: nn.Module, inputs: torch.Tensor, options: dict[str, Any]) -> Any:
        return pruners.BasePruner(network, inputs, importance=importance.GroupTaylorImportance(), **options)

    def growing(network: nn.Module, inputs: torch.Tensor, options: dict[str, Any]) -> Any:
        norms = importance.GroupMagnitudeImportance(p=2)
        return pruners.GrowingRegPruner(network, inputs, importance=norms, reg=5e-4, delta_reg=1e-4, **options)

    return {
        "torch-pruning: L1": lambda: Peer(plain, trains=False, needs_gradients=False),
        "torch-pruning: BN scale": lambda: Peer(scales, trains=True, needs_gradients=False),
        "torch-pruning: Taylor": lambda: Peer(changes, trains=False, needs_gradients=True),
        "torch-pruning: growing reg": lambda: Peer(growing, trains=True, needs_gradients=False),
    }


def _options(network: nn.Module, allocation: Allocation) -> dict[str, Any]:
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    parts = {layers[name]: 1 - kept / layers[name].weight.shape[0] for name, kept in allocation.items()}
    others = [layer for name, layer in layers.items() if name not in allocation]
    return {"pruning_ratio": 0.0, "pruning_ratio_dict": parts, "ignored_layers": others}


def _leave_gradients(context: Context, batches: int = 30) -> None:
    """Leave the gradients of as many batches as our own Taylor methods take, added up."""
    if context.data is None:
        return
    context.network.eval().zero_grad(set_to_none=True)
    for inputs, targets in OnDevice(calibration_batches(context.data, batches), device_of(context.network)):
        context.data.loss(context.network(*as_inputs(inputs)), targets).backward()
