"""What layers answer on data, and what comes right behind them: a batch norm, a rectifier, or another clamp."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.methods._response_fit import Bounds
from edgeprune.methods._taylor import batches_of
from edgeprune.network.batches import as_inputs
from edgeprune.network.coupling.ride import evaluating, forward
from edgeprune.network.data import Data

Tensor = torch.Tensor

_VIEWS = frozenset({"view", "_unsafe_view", "reshape", "alias", "detach"})
_NORMS = frozenset({"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"})
_CLAMPS: Mapping[str, Bounds] = {  # what they clamp to where they are not told
    "relu": (0.0, math.inf),
    "clamp_min": (0.0, math.inf),
    "clamp": (-math.inf, math.inf),
    "hardtanh": (-1.0, 1.0),  # also ReLU6
}
_SMALLEST_SCALE = 1e-3  # of the largest: a channel that its batch norm switched off still counts a little


@dataclass(frozen=True)
class Tail:
    """What a network makes of the outputs y of a layer before anything else reads them: scale * y + shift, clamped.

    `offset` is the parameter that moves the result, by `slope` for each step of its own; None where there is none.
    `bounds` are those of the clamp, 0 and infinity behind a rectifier; None where nothing clamps.
    """

    scale: Tensor
    shift: Tensor
    offset: Tensor | None
    slope: Tensor
    bounds: Bounds | None

    def of(self, outputs: Tensor) -> Tensor:
        """Return rows (count, outputs) as the clamp sees them."""
        return self.scale * outputs + self.shift


@dataclass(frozen=True)
class Sampling:
    """How many samples to look at, at how many places of each, and which."""

    samples: int
    places: int
    seed: int


class _SeenAllError(Exception):
    """Every layer that is looked at has answered."""


def tails_of(network: nn.Module, example_inputs: Any) -> dict[str, Tail]:
    """Return what comes right behind every convolution and linear layer, by its name."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    watcher = _Watcher(layers)
    with evaluating(network), _hooked(layers, watcher.begins), watcher:
        forward(network, example_inputs)
    return {name: _tail(module, watcher.norms.get(name), watcher.bounds.get(name)) for name, module in layers.items()}


class _Watcher(TorchDispatchMode):
    """Follows the output of each layer to the first operations that read it."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of PyTorch
        self.norms: dict[str, tuple[Any, ...]] = {}
        self.bounds: dict[str, Bounds] = {}
        self._layers = layers
        self._fresh: dict[int, str] = {}  # outputs that nothing has read, by identity
        self._read: dict[int, str] = {}
        self._alive: list[Tensor] = []  # NOTE: an identity is one tensor's only while it lives

    def begins(self, name: str, output: Tensor) -> None:
        """Follow the output of a layer."""
        self._follow(output, name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        operation = func._schema.name.partition("::")[2]
        flat = [one for arg in args for one in (arg if isinstance(arg, list | tuple) else (arg,))]
        for tensor in flat:
            if id(tensor) in self._read:  # a second reader: what the first one made of it is not all there is
                self._forget(self._read[id(tensor)])
            name = self._fresh.pop(id(tensor), None)
            if name is not None:
                self._read[id(tensor)] = name
                self._reads(name, operation, args, out)
        return out

    def _reads(self, name: str, operation: str, args: tuple[Any, ...], out: Any) -> None:
        if operation in _VIEWS:
            self._follow(out, name)
        elif operation in _NORMS and name not in self.norms and args[3] is not None:
            self.norms[name] = args
            self._follow(out[0], name)
        elif (bounds := _bounds(operation, args[1:])) is not None:
            self.bounds[name] = bounds
            self._read.pop(id(args[0]))  # what was changed in place is another tensor from here on

    def _follow(self, tensor: Tensor, name: str) -> None:
        self._alive.append(tensor)
        self._fresh[id(tensor)] = name

    def _forget(self, name: str) -> None:
        self.norms.pop(name, None)
        self.bounds.pop(name, None)


def _bounds(operation: str, given: Sequence[Any]) -> Bounds | None:
    """What an operation with these arguments behind its input clamps to; None where it does something else."""
    usual = _CLAMPS.get(operation.removesuffix("_"))
    if usual is None or any(isinstance(one, Tensor) for one in given):
        return None
    low, high = (own if told is None else float(told) for own, told in zip(usual, (*given, None, None), strict=False))
    return low, high


def _tail(layer: nn.Conv2d | nn.Linear, norm: tuple[Any, ...] | None, bounds: Bounds | None) -> Tail:
    count = len(layer.weight)
    ones, zeros = torch.ones(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    if norm is None:
        return Tail(ones, zeros, layer.bias, ones, bounds)
    _, weight, bias, mean, variance, *_, epsilon = norm
    scale = (variance.double() + epsilon).rsqrt().cpu() * (ones if weight is None else weight.detach().double().cpu())
    least = _SMALLEST_SCALE * float(scale.abs().max())
    safe = torch.where(scale.abs() < least, least, scale) if least else ones
    shift = (zeros if bias is None else bias.detach().double().cpu()) - scale * mean.double().cpu()
    return Tail(safe, shift, bias if bias is not None else layer.bias, ones if bias is not None else safe, bounds)


def responses_of(network: nn.Module, layers: Sequence[str], data: Data, how: Sampling) -> dict[str, Tensor]:
    """Return the outputs (rows, outputs) of layers in float64, the same places of the same samples at every call.

    A layer that runs more than once counts with its first outputs.
    """
    modules = {name: network.get_submodule(name) for name in layers}
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}
    picks = {name: torch.Generator().manual_seed(how.seed) for name in layers}

    seen: set[str] = set()

    def visit(name: str, output: Tensor) -> None:
        if name in seen:
            return
        answers = output.detach() if isinstance(modules[name], nn.Linear) else output.detach().movedim(1, -1)
        answers = answers.reshape(len(answers), -1, answers.shape[-1])
        count = min(how.places, answers.shape[1])
        chosen = torch.randint(answers.shape[1], (len(answers), count), generator=picks[name])
        sample = torch.arange(len(answers))[:, None].expand_as(chosen)
        rows[name].append(answers[sample, chosen].flatten(0, 1).double().cpu())
        seen.add(name)
        if len(seen) == len(modules):
            raise _SeenAllError

    left = how.samples
    with _hooked(modules, visit), torch.no_grad():
        for inputs, _ in batches_of(network, data, how.samples):
            if left <= 0:
                break
            parts = as_inputs(inputs)
            seen.clear()
            with suppress(_SeenAllError):  # what comes after the last layer is not needed
                network(*(part[:left] for part in parts))
            left -= len(parts[0])
    return {name: torch.cat(found) for name, found in rows.items()}


@contextmanager
def _hooked(modules: Mapping[str, nn.Module], visit: Any) -> Iterator[None]:
    def hook_of(name: str) -> Any:
        return lambda module, inputs, output: visit(name, output)

    handles = [module.register_forward_hook(hook_of(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
