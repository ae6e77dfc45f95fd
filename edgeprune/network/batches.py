"""Batches of (inputs, targets): how a network takes them, where they live, which epoch they belong to."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

# Batches of (inputs, targets): inputs are one tensor or a tuple of tensors, batch first. Iterating again starts anew.
Loader = Iterable[Any]


class OnDevice:
    """The batches of a loader on a device."""

    def __init__(self, loader: Loader, device: torch.device) -> None:
        """Move nothing yet."""
        self.loader = loader
        self.device = device

    def __iter__(self) -> Iterator[Any]:
        for inputs, targets in self.loader:
            yield moved(inputs, self.device), moved(targets, self.device)


class FirstBatches:
    """The first batches of a loader, in every epoch; which they are is up to how the loader shuffles."""

    def __init__(self, loader: Loader, count: int) -> None:
        """Take at most `count` batches of an epoch."""
        self.loader = loader
        self.count = count

    def __len__(self) -> int:
        return min(self.count, count_batches(self.loader))

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader which epoch begins."""
        start_epoch(self.loader, epoch)

    def __iter__(self) -> Iterator[Any]:
        yield from islice(self.loader, self.count)


def as_inputs(inputs: Any) -> tuple[torch.Tensor, ...]:
    """Return the inputs of a batch as the arguments of the network."""
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def count_batches(loader: Any) -> int:
    """Return how many batches one epoch has; a loader that does not say is read once."""
    return len(loader) if hasattr(loader, "__len__") else sum(1 for _ in loader)


def start_epoch(loader: Loader, epoch: int) -> None:
    """Tell a loader, or the sampler inside it, which epoch begins, where it wants to know."""
    listeners: tuple[Any, ...] = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    for listener in listeners:
        if hasattr(listener, "set_epoch"):
            listener.set_epoch(epoch)


def epoch_generator(seed: int, epoch: int, part: int = 0) -> torch.Generator:
    """Return a generator that depends on these numbers only, so that a resumed run sees the same epoch."""
    state = np.random.SeedSequence([seed, epoch, part]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


@contextlib.contextmanager
def epoch_randomness(seed: int, epoch: int) -> Iterator[None]:
    """Let every random number inside depend on the seed and the epoch, and leave the caller's sequence alone.

    It covers dropout, loaders that shuffle, and transformations that use `random` or `numpy.random`.
    """
    number = epoch_generator(seed, epoch).initial_seed()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def are_class_logits(outputs: Any, targets: Any) -> bool:
    """Say whether outputs are (batch, classes) numbers and targets (batch,) class numbers."""
    if not isinstance(outputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return False
    return outputs.dim() == 2 and targets.dim() == 1 and outputs.is_floating_point() and not targets.is_floating_point()


def device_of(network: nn.Module) -> torch.device:
    """Return where the first parameter of a network lives."""
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def moved(value: Any, device: torch.device) -> Any:
    """Return tensors, also inside tuples, lists and dicts, on a device; pictures with their channels last.

    Channels last is the layout that convolutions are fastest in on CPUs and on GPUs with tensor cores.
    """
    if isinstance(value, torch.Tensor):
        value = value.to(device)
        return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(moved(part, device) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(moved(part, device) for part in value)
    if isinstance(value, dict):
        return {key: moved(part, device) for key, part in value.items()}
    return value
