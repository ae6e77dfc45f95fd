"""Networks that show one kind of coupling each, small enough for a test."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Plain(nn.Module):
    """Convolutions in a row, a pooling, a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.linear = nn.Linear(12 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.adaptive_avg_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear(x.flatten(1))


class Residual(nn.Module):
    """A stem, two residual blocks on one stream, batch norms everywhere."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(ResidualBlock(width), ResidualBlock(width))
        self.linear = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.linear(x.mean((2, 3)))


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width + 2, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width + 2)
        self.conv2 = nn.Conv2d(width + 2, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + y)


class Depthwise(nn.Module):
    """Pointwise and depthwise convolutions in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 6, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.norm1(self.expand(x)))
        x = F.relu6(self.norm2(self.depthwise(x)))
        return self.linear(F.relu(self.norm3(self.project(x))).mean((2, 3)))


class Concatenated(nn.Module):
    """Two branches side by side, and a norm over both."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 6, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(10)
        self.join = nn.Conv2d(10, 8, 3, padding=1)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        return self.linear(F.relu(self.join(x)).mean((2, 3)))


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and running statistic a value that a symmetry cannot hide; return it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            elif tensor.dim() == 1:
                tensor.copy_(noise * 0.3 + (1.0 if name.endswith("weight") else 0.1))
            else:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
    return network.eval()
