"""Spatial and channel attention behind a convolution: put in, looked at, folded into the weights, taken out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from edgeprune.contracts import Context
from edgeprune.methods._taylor import batches_of
from edgeprune.network.batches import as_inputs
from edgeprune.network.data import Data

_SPATIAL_GROUPS, _NORM_GROUPS = 16, 4
_SHIFT = 4.0  # of both gates at the start: 0.98 after a sigmoid
_SCALE = 0.1  # of the norm at the start
_NAME = "attention"


class Attention(nn.Module):
    """Gates every position by group of neighbouring channels, then every channel; 2 G + 2 C parameters.

    (B, C, H, W) -> the same shape. G is the largest divisor of C and 16. The norm of the channel gates has 4 groups,
    or fewer where a group would have one channel only.
    """

    def __init__(self, channels: int) -> None:
        """Start with gates that are almost open: of positions all alike, of channels in the order of their maps."""
        super().__init__()
        self.parts = math.gcd(channels, _SPATIAL_GROUPS)
        self.scale = nn.Parameter(torch.zeros(self.parts))
        self.shift = nn.Parameter(torch.full((self.parts,), _SHIFT))
        self.norm = nn.GroupNorm(_norm_groups(channels), channels)
        nn.init.constant_(self.norm.weight, _SCALE)
        nn.init.constant_(self.norm.bias, _SHIFT / 2)  # added twice: for the mean and for the largest
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


class Attentions:
    """Attention behind some convolutions of a network, as their child `attention`, until `remove`."""

    def __init__(self, network: nn.Module, names: list[str], applied: bool = True) -> None:
        """Put it in; not applied, it changes nothing."""
        self._convolutions = {name: network.get_submodule(name) for name in names}
        self._handles = []
        for convolution in self._convolutions.values():
            weight = next(convolution.parameters())
            convolution.add_module(_NAME, Attention(weight.shape[0]).to(weight.device))
            if applied:
                self._handles.append(convolution.register_forward_hook(_attend))

    def looked_at(self, context: Context, data: Data, batches: int) -> Mapping[str, torch.Tensor]:
        """Return the mean gates of channels by convolution, in eval mode, over batches of the training data."""
        # Before the hook that applies attention, so that both see what the convolution computed.
        looks = [one.register_forward_hook(_look, prepend=True) for one in self._convolutions.values()]
        try:
            with torch.no_grad():
                for inputs, _ in batches_of(context.network, data, batches):
                    context.network(*as_inputs(inputs))
        finally:
            for handle in looks:
                handle.remove()
        return {name: _attention_of(convolution).importance for name, convolution in self._convolutions.items()}

    def fold(self) -> None:
        """Multiply what the convolutions compute by what attention multiplied it by on average, in place."""
        with torch.no_grad():
            for convolution in self._convolutions.values():
                for parameter in convolution.parameters(recurse=False):
                    by = _attention_of(convolution).scaling.to(parameter)
                    parameter.mul_(by.reshape(-1, *[1] * (parameter.dim() - 1)))

    def remove(self) -> None:
        """Take it out again."""
        for handle in self._handles:
            handle.remove()
        for convolution in self._convolutions.values():
            delattr(convolution, _NAME)


def _attend(module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
    gated: torch.Tensor = _attention_of(module)(output)
    return gated


def _look(module: nn.Module, _: object, output: torch.Tensor) -> None:
    _attention_of(module).look(output)


def _attention_of(module: nn.Module) -> Attention:
    return cast("Attention", getattr(module, _NAME))


def _norm_groups(channels: int) -> int:
    return max((n for n in (1, 2, _NORM_GROUPS) if channels % n == 0 and channels // n > 1), default=1)
