"""Spatial and channel attention behind a convolution: put in, looked at, folded into the weights, taken out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from edgeprune.contracts import Context
from edgeprune.methods._taylor import batches_of
from edgeprune.network.batches import as_inputs
from edgeprune.network.data import Data

_SPATIAL_GROUPS, _NORM_GROUPS = 16, 4
_NAME = "attention"


class Attention(nn.Module):
    """Gates every position by group of neighbouring channels, then every channel; 2 G + 2 C parameters.

    (B, C, H, W) -> the same shape. G is the largest divisor of C and 16. The norm of the channel gates has 4 groups,
    or fewer where a group would have one channel only.
    """

    def __init__(self, channels: int) -> None:
        """Start with the same gate at every position, and channel gates that only normalise."""
        super().__init__()
        self.parts = math.gcd(channels, _SPATIAL_GROUPS)
        self.scale = nn.Parameter(torch.zeros(self.parts))
        self.shift = nn.Parameter(torch.ones(self.parts))
        self.norm = nn.GroupNorm(_norm_groups(channels), channels)
        self.seen = 0
        self.channel_sum = torch.zeros(channels, dtype=torch.float64)
        self.whole_sum = torch.zeros(channels, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate a map."""
        positions, channels = self.gates(x)
        return x * positions * channels

    def gates(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gates of positions, (B, C, H, W), and of the channels of what these let through, (B, C, 1, 1)."""
        grouped = x.unflatten(1, (self.parts, -1))  # (B, G, C / G, H, W)
        seen = grouped.amax(2) + grouped.mean(2)
        even = seen - seen.mean((2, 3), keepdim=True)
        if seen[0, 0].numel() > 1:  # one position deviates from nothing
            even = even / (seen.std((2, 3), keepdim=True) + 1e-5)
        maps = torch.sigmoid(self.scale[:, None, None] * even + self.shift[:, None, None])
        positions = maps.repeat_interleave(grouped.shape[2], 1)
        let = x * positions
        pooled = let.mean((2, 3), keepdim=True), let.amax((2, 3), keepdim=True)
        return positions, torch.sigmoid(sum(self.norm(pool) for pool in pooled))

    def look(self, x: torch.Tensor) -> None:
        """Add the gates of a batch to those seen so far."""
        positions, channels = self.gates(x)
        both = positions.mean((2, 3)) * channels[:, :, 0, 0]
        self.channel_sum += channels[:, :, 0, 0].double().sum(0).cpu()
        self.whole_sum += both.double().sum(0).cpu()
        self.seen += len(x)

    @property
    def importance(self) -> torch.Tensor:
        """The mean gate of every channel (C,)."""
        return self.channel_sum / max(1, self.seen)

    @property
    def scaling(self) -> torch.Tensor:
        """By what a channel was multiplied on average (C,), gates of positions included."""
        return self.whole_sum / max(1, self.seen)


def insert(network: nn.Module, names: list[str], applied: bool = True) -> None:
    """Put attention behind the named convolutions, as their child `attention`; not applied, it changes nothing."""
    for name in names:
        convolution = network.get_submodule(name)
        weight = next(convolution.parameters())
        convolution.add_module(_NAME, Attention(weight.shape[0]).to(weight.device))
        if applied:
            convolution.register_forward_hook(_attend)


def remove(network: nn.Module, names: list[str]) -> None:
    """Take attention out again."""
    for name in names:
        convolution = network.get_submodule(name)
        hooks = convolution._forward_hooks
        for number in [number for number, hook in hooks.items() if hook is _attend]:
            del hooks[number]
        delattr(convolution, _NAME)


def fold(network: nn.Module, names: list[str]) -> None:
    """Multiply what the convolutions compute by what attention multiplied it by on average, in place."""
    with torch.no_grad():
        for name in names:
            convolution = network.get_submodule(name)
            for parameter in convolution.parameters(recurse=False):
                by = _attention_of(convolution).scaling.to(parameter)
                parameter.mul_(by.reshape(-1, *[1] * (parameter.dim() - 1)))


def looked_at(context: Context, names: list[str], data: Data, batches: int) -> Mapping[str, torch.Tensor]:
    """Return the mean gates of channels by convolution, in eval mode, over batches of the training data."""
    with torch.no_grad(), _looking(context.network, names):
        for inputs, _ in batches_of(context.network, data, batches):
            context.network(*as_inputs(inputs))
    return {name: _attention_of(context.network.get_submodule(name)).importance for name in names}


@contextmanager
def _looking(network: nn.Module, names: list[str]) -> Iterator[None]:
    convolutions = [network.get_submodule(name) for name in names]
    handles = [convolution.register_forward_hook(_look, prepend=True) for convolution in convolutions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attend(module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
    return _attention_of(module)(output)  # type: ignore[no-any-return]  # of PyTorch


def _look(module: nn.Module, _: object, output: torch.Tensor) -> None:
    _attention_of(module).look(output)


def _attention_of(module: nn.Module) -> Attention:
    return cast("Attention", getattr(module, _NAME))


def _norm_groups(channels: int) -> int:
    return max((n for n in (1, 2, _NORM_GROUPS) if channels % n == 0 and channels // n > 1), default=1)
