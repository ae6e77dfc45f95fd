"""A small residual network for the demo: 8 x 8 grey pictures of handwritten digits, ten classes."""

from __future__ import annotations

import torch
from torch import nn

_NARROW, _WIDE = 64, 128
_BLOCKS = 3


def digit_network() -> nn.Module:
    """Return the untrained network; it takes (batch, 1, 8, 8) and returns (batch, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, _NARROW, 3, padding=1, bias=False),
        nn.BatchNorm2d(_NARROW),
        nn.ReLU(),
        *(_Residual(_NARROW, _NARROW, 1) for _ in range(_BLOCKS)),
        _Residual(_NARROW, _WIDE, 2),
        *(_Residual(_WIDE, _WIDE, 1) for _ in range(_BLOCKS - 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(_WIDE, 10),
    )


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))
