"""The networks that the published numbers are about, as factories for `--arch benchmarks.networks:NAME`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def resnet20() -> nn.Module:
    """Return the CIFAR ResNet of depth 20: (batch, 3, 32, 32) -> (batch, 10)."""
    return CifarResNet(depth=20)


def resnet56() -> nn.Module:
    """Return the CIFAR ResNet of depth 56: (batch, 3, 32, 32) -> (batch, 10)."""
    return CifarResNet(depth=56)


def vgg16_bn() -> nn.Module:
    """Return VGG-16 with batch norm for small pictures: (batch, 3, 32, 32) -> (batch, 10)."""
    return CifarVgg()


def mobilenet_v1_075() -> nn.Module:
    """Return MobileNetV1 of width 0.75: (batch, 3, 224, 224) -> (batch, 1000)."""
    return MobileNetV1(width=0.75)


def mobilenet_v2_100_folded() -> nn.Module:
    """Return MobileNetV2 with batch norm folded into biases: (batch, 3, 224, 224) -> (batch, 1000)."""
    return MobileNetV2Folded()


class CifarResNet(nn.Module):
    """A residual network of three stages for small pictures (He et al. 2015, section 4.2, shortcuts of option A)."""

    def __init__(self, depth: int, classes: int = 10) -> None:
        """Build 6n + 2 layers: n blocks of two convolutions at each of the widths 16, 32, 64."""
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 3, 32, 32) -> (batch, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else _PaddedShortcut(stride, (outputs - inputs) // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class _PaddedShortcut(nn.Module):
    """Takes every second row and column, and adds as many channels of zeros before as after."""

    def __init__(self, stride: int, channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.channels, self.channels))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = _ResidualBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(_ResidualBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


class CifarVgg(nn.Module):
    """Thirteen convolutions in a row (Simonyan and Zisserman 2015, configuration D), one linear layer behind them."""

    _STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

    def __init__(self, classes: int = 10) -> None:
        """Build five stages, each of which halves the height and the width."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in self._STAGES:
            for outputs in stage:
                layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 3, 32, 32) -> (batch, classes)."""
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


class MobileNetV1(nn.Module):
    """Depthwise and pointwise convolutions in turn (Howard et al. 2017)."""

    _BLOCKS = (
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
        *((512, 1),) * 5,
        *((1024, 2), (1024, 1)),
    )

    def __init__(self, width: float, classes: int = 1000) -> None:
        """Scale the number of channels of every layer by `width`."""
        super().__init__()
        channels = int(32 * width)
        self.stem = _NormedConv(3, channels, 3, stride=2)
        blocks = []
        for full, stride in self._BLOCKS:
            outputs = int(full * width)
            depthwise = _NormedConv(channels, channels, 3, stride, groups=channels)
            blocks.append(nn.Sequential(depthwise, _NormedConv(channels, outputs, 1)))
            channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) -> (batch, classes)."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


class _NormedConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.uneven = stride == 2
        self.conv = nn.Conv2d(inputs, outputs, size, stride, _padding(size, stride), groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _pad_below_and_right(x) if self.uneven else x
        return F.relu6(self.bn(self.conv(x)))


class MobileNetV2Folded(nn.Module):
    """Inverted residuals (Sandler et al. 2018); every convolution has a bias, and there is no batch norm."""

    # expansion, channels, blocks, stride of the first
    _STAGES = (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    )

    def __init__(self, classes: int = 1000) -> None:
        """Build the network of width 1."""
        super().__init__()
        self.stem = _BiasedConv(3, 32, 3, stride=2)
        channels, blocks = 32, []
        for expansion, outputs, count, first_stride in self._STAGES:
            for position in range(count):
                blocks.append(_InvertedResidual(channels, outputs, first_stride if position == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _BiasedConv(channels, 1280, 1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) -> (batch, classes)."""
        x = self.head(self.blocks(self.stem(x)))
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        expand = [_BiasedConv(inputs, wide, 1)] if expansion > 1 else []
        depthwise = _BiasedConv(wide, wide, 3, stride, groups=wide)
        self.body = nn.Sequential(*expand, depthwise, _BiasedConv(wide, outputs, 1, linear=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return x + y if self.residual else y


class _BiasedConv(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, *, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.uneven = stride == 2
        self.conv = nn.Conv2d(inputs, outputs, size, stride, _padding(size, stride), groups=groups)
        self.activation = nn.Identity() if linear else nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = _pad_below_and_right(x) if self.uneven else x
        return self.activation(self.conv(x))  # type: ignore[no-any-return]


def _padding(size: int, stride: int) -> int:
    return 0 if stride == 2 else size // 2


def _pad_below_and_right(x: torch.Tensor) -> torch.Tensor:
    """Pad as TensorFlow's 'same' does for a 3x3 window with stride 2 on an even size."""
    return F.pad(x, (0, 1, 0, 1))
