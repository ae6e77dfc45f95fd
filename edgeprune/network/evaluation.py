"""Judges a network on its data, and re-calibrates its batch norms after a cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.errors import DataError
from edgeprune.network.batches import OnDevice, as_inputs, device_of
from edgeprune.network.data import Data, training_batches


def evaluate(network: nn.Module, data: Data) -> float:
    """Return the metric of a network on the validation data, 0..1, computed in float32; raises DataError."""
    with keeping_mode(network), torch.no_grad():
        value = float(data.metric(network.eval(), OnDevice(data.validation, device_of(network))))
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise DataError(f"The metric of {data.name!r} returned {value}; it must return 0..1, higher is better.")
    return value


def recalibrate_batch_norm(network: nn.Module, data: Data, batches: int = 100) -> int:
    """Replace the running statistics of every batch norm by plain averages over training batches; return how many.

    No weight changes. A network without batch norm is left as it is, and the answer is 0.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms or batches < 1:
        return 0
    momenta = [norm.momentum for norm in norms]
    used = 0
    with keeping_mode(network), torch.no_grad():
        network.eval()  # dropout and the like stay quiet
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch then averages over all batches alike
            norm.train()
        try:
            # NOTE: as trained on: pictures that the network knows, not augmented, are unlike those that it will see.
            for inputs, _ in OnDevice(training_batches(data, batches), device_of(network)):
                network(*as_inputs(inputs))
                used += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return used


@contextmanager
def keeping_mode(network: nn.Module) -> Iterator[None]:
    """Give every module back the training flag that it has now."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
