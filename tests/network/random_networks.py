"""Random networks built from every kind of block that couples channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (8, 12, 16, 24)


class Norm(nn.Module):
    """One of the norms that keep channels apart, or one that runs across them."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        made = {
            "batch": lambda: nn.BatchNorm2d(width),
            "instance": lambda: nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
            "group": lambda: nn.GroupNorm(width // 2, width),
            "wide-group": lambda: nn.GroupNorm(2, width),
            "none": nn.Identity,
        }
        self.norm = made[kind]()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class ConvBlock(nn.Module):
    def __init__(self, width: int, out: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, padding=2, dilation=2)
        self.norm = Norm(out, norm)
        self.act = nn.PReLU(out)
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Residual(nn.Module):
    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(width, width + 4, 3, padding=1), Norm(width + 4, norm)
        self.conv2 = nn.Conv2d(width + 4, width, 1)
        self.scale = nn.Parameter(torch.rand(width, 1, 1) + 0.5)
        self.out = width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.conv2(F.hardswish(self.norm(self.conv1(x))))


class PreActivation(nn.Module):
    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.norm, self.conv = Norm(width, norm), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.out = width

    def forward(self, x: Tensor) -> Tensor:
        y = x
        y += self.conv(F.relu(self.norm(x)))
        return y


class PaddedShortcut(nn.Module):
    """A strided block whose shortcut pads its channels with zeros."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width + 8, 3, stride=2, padding=1), Norm(width + 8, norm)
        self.pad, self.out = 4, width + 8

    def forward(self, x: Tensor) -> Tensor:
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(self.norm(self.conv(x)) + short)


class Dense(nn.Module):
    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.norm, self.conv = Norm(width, norm), nn.Conv2d(width, 8, 3, padding=1)
        self.out = width + 8

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class Inception(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(width, 8, 1), nn.Conv2d(width, 6, 3, padding=1)
        self.pooled = nn.Conv2d(width, 4, 1)
        self.out = 18

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(F.avg_pool2d(x, 3, 1, 1))
        return F.gelu(torch.cat([self.one(x), self.three(x), pooled], 1))


class Grouped(nn.Module):
    def __init__(self, width: int, groups: int, norm: str) -> None:
        super().__init__()
        self.enter, self.conv = nn.Conv2d(width, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=groups)
        self.norm, self.out = Norm(24, norm), 24

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.norm(self.conv(F.relu(self.enter(x)))))


class Transposed(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, 24, 1)
        self.up = nn.ConvTranspose2d(24, 24, 2, stride=2, groups=groups)
        self.out = 24

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.silu(self.up(self.enter(x))), 2)


class ShuffleSplit(nn.Module):
    """Split the channels in two, work on one half, concatenate and shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.work = nn.Sequential(nn.Conv2d(width // 2, width // 2, 1), nn.BatchNorm2d(width // 2), nn.ReLU())
        self.out = width

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        x = torch.cat([a, self.work(b)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up, self.out = nn.Linear(width, 6), nn.Linear(6, width), width

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(F.relu(self.down(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


class PixelShuffle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(width, 32, 1), 32

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(F.pixel_shuffle(self.conv(x), 2), 2)


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.both, self.back, self.out = nn.Conv2d(width, 20, 1), nn.Conv2d(10, width, 1), width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(F.glu(self.both(x), 1))


class Attention(nn.Module):
    """Fused qkv over the pixels as tokens; grouped queries where there are fewer heads of keys."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = heads, kv_heads, 4
        self.q = nn.Linear(width, heads * 4)
        self.kv = nn.Linear(width, 2 * kv_heads * 4)
        self.proj, self.out = nn.Linear(heads * 4, width), width

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q = self.q(tokens).unflatten(-1, (-1, self.dim)).transpose(1, 2)
        k, v = self.kv(tokens).reshape(n, h * w, 2, self.kv_heads, self.dim).permute(2, 0, 3, 1, 4)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.proj(mixed).transpose(1, 2).unflatten(2, (h, w))


class WholeAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(width, 4, batch_first=True), width

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return x + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view(x.shape)


class WindowAttention(nn.Module):
    """Windows of 2 x 2 tokens, shifted by one, a table of relative positions, a norm across the channels."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm == "wide-group" else nn.Identity()
        self.qkv, self.proj, self.heads = nn.Linear(width, 24), nn.Linear(8, width), 2
        self.table, self.out = nn.Parameter(torch.randn(9, 2)), width
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        away = (place[:, :, None] - place[:, None, :]) + 1
        self.register_buffer("index", away[0] * 3 + away[1])

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = torch.roll(self.norm(x.permute(0, 2, 3, 1)), (-1, -1), (1, 2))
        y = y.view(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(-1, 4, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(4, 4, -1).permute(2, 0, 1)
        scores = (q @ k.transpose(-1, -2) / 2 + bias).softmax(-1)
        y = self.proj((scores @ v).transpose(1, 2).flatten(2))
        y = torch.roll(y.view(n, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(n, h, w, c), (1, 1), (1, 2))
        return x + y.permute(0, 3, 1, 2)


class Shared(nn.Module):
    """One convolution used twice on the same stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(width, width, 3, padding=1), width

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.conv(x)))


class UpAndDown(nn.Module):
    """A level down, a level up, and the skip beside it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(width, 16, 3, stride=2, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.join, self.out = nn.Conv2d(12 + width, 16, 1), 16

    def forward(self, x: Tensor) -> Tensor:
        deep = F.interpolate(F.relu(self.deep(F.relu(self.down(x)))), size=x.shape[2:], mode="nearest")
        return self.join(torch.cat([deep, x], 1))


BLOCKS = {
    "conv": lambda width, out, norm, n: ConvBlock(width, out, norm),
    "residual": lambda width, out, norm, n: Residual(width, norm),
    "pre-activation": lambda width, out, norm, n: PreActivation(width, norm),
    "padded": lambda width, out, norm, n: PaddedShortcut(width, norm),
    "dense": lambda width, out, norm, n: Dense(width, norm),
    "inception": lambda width, out, norm, n: Inception(width),
    "grouped": lambda width, out, norm, n: Grouped(width, (2, 4, 12, 24)[n], norm),
    "transposed": lambda width, out, norm, n: Transposed(width, (1, 4, 12, 24)[n]),
    "shuffle": lambda width, out, norm, n: ShuffleSplit(width),
    "squeeze": lambda width, out, norm, n: SqueezeExcite(width),
    "pixel": lambda width, out, norm, n: PixelShuffle(width),
    "gated": lambda width, out, norm, n: Gated(width),
    "attention": lambda width, out, norm, n: Attention(width, 4, (4, 2, 1, 4)[n]),
    "whole-attention": lambda width, out, norm, n: WholeAttention(width),
    "window": lambda width, out, norm, n: WindowAttention(width, norm),
    "shared": lambda width, out, norm, n: Shared(width),
    "up-and-down": lambda width, out, norm, n: UpAndDown(width),
}
NORMS = ("batch", "instance", "group", "none", "wide-group")
HEADS = ("pool", "flatten", "two")


class RandomNetwork(nn.Module):
    """A stem, some blocks and one of three heads: (n, 3, 8, 8) -> (n, 5), or two outputs."""

    def __init__(self, choices: list[tuple[str, int, str, int]], head: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        width, side, blocks = 16, 8, []
        for kind, out, norm, number in choices:
            if kind == "padded" and side < 4:
                continue
            blocks.append(BLOCKS[kind](width, out, _fitting(norm, width), number))
            width = blocks[-1].out
            width, extra = _even(width)
            blocks += extra
            side = side // 2 if kind == "padded" else side
        self.blocks, self.head = nn.Sequential(*blocks), head
        self.linear = nn.Linear(width * (4 if head == "flatten" else 1), 5)
        self.second = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.blocks(self.stem(x))
        if self.head == "flatten":
            return self.linear(F.adaptive_avg_pool2d(x, 2).flatten(1))
        pooled = self.linear(x.mean((2, 3)))
        return (pooled, self.second(x)) if self.head == "two" else pooled


def _fitting(norm: str, width: int) -> str:
    return "batch" if width % 4 else norm


def _even(width: int) -> tuple[int, list[nn.Module]]:
    """Bring an odd width back to one that every block takes."""
    return (16, [nn.Conv2d(width, 16, 1)]) if width % 4 else (width, [])
