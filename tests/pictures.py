"""A pretrained ResNet-20 and a few real pictures, to see what a method promises of real training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.data import cifar10_small
from edgeprune.contracts import Context
from edgeprune.network.data import Data, example_inputs
from edgeprune.network.model import load_model
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure


@cache
def _loaded(folder: Path) -> tuple[nn.Module, Data]:
    data = cifar10_small()
    data = replace(data, validation=list(islice(data.validation, 500 // data.validation.batch_size)))
    return load_model(folder / "cifar10-resnet20.pt", "benchmarks.networks:resnet20").module, data


def picture_context(folder: Path) -> Context:
    """Return the network, 2,000 pictures to train on and 500 to judge by."""
    network, data = _loaded(folder)
    inputs = example_inputs(data, 4)
    return Context(copy.deepcopy(network), inputs, network_structure(network, inputs), data, 0)


def train_on_pictures(
    shaping: Shaping, *, batch_size: int = 32, learning_rate: float = 0.01, seen: Callable[[int], None] | None = None
) -> None:
    """Train as many steps as the shaping was told, with its hooks; `seen` is called after every step."""
    network, data = shaping.context.network, shaping.context.data
    assert data is not None
    optimiser = torch.optim.SGD(network.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batches = [(images[:batch_size], labels[:batch_size]) for images, labels in data.train]
    network.train()
    for step in range(shaping.steps):
        images, labels = batches[step % len(batches)]
        shaping.before_step(learning_rate)
        loss = F.cross_entropy(network(images), labels) + shaping.penalty()
        optimiser.zero_grad()
        loss.backward()
        shaping.after_backward()
        optimiser.step()
        shaping.after_step()
        if seen is not None:
            seen(step)
