"""Small editions of the architectures that methods must work on, with random weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.networks import CifarResNet, MobileNetV1

CLASSES = 5
SIDES = {"resnet20": 16, "mobilenet_v1": 32, "densenet40": 8, "vit_tiny": 16}


def resnet20() -> nn.Module:
    return CifarResNet(depth=20, classes=CLASSES)


def mobilenet_v1() -> nn.Module:
    return MobileNetV1(width=0.0625, classes=CLASSES)


def densenet40() -> nn.Module:
    return DenseNet(depth=40, growth=4)


def vit_tiny() -> nn.Module:
    return VisionTransformer(width=24, heads=3, depth=3)


class DenseNet(nn.Module):
    """Three dense stages (Huang et al. 2017), without bottlenecks; 12 layers each at depth 40."""

    def __init__(self, depth: int, growth: int) -> None:
        super().__init__()
        channels, layers = 2 * growth, []
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        for stage in range(3):
            for _ in range((depth - 4) // 3):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            if stage < 2:
                layers.append(Transition(channels))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(F.relu(self.norm(self.layers(self.stem(x)))).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class Transition(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class VisionTransformer(nn.Module):
    """Patches, blocks of attention and MLP on one stream (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Parameter(torch.zeros(1, (SIDES["vit_tiny"] // 4) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind())
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))
