"""The ways to factorise a layer: which thinner layers follow one another, and how a weight splits into theirs.

A scheme works on the weight (outputs, inputs, height, width) of one channel group; a linear layer has a window of
1x1. Its parts say what each thinner layer reads and writes: "in" and "out" are the channels of the layer itself, a
number is the place of a rank, "paths" are as many channels as outputs times rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from edgeprune.network.factorisation import splitting

Width = str | int
Sizes = tuple[int, int, int, int]  # outputs, inputs, height and width of one channel group


@dataclass(frozen=True)
class Part:
    """One thinner layer: the axes of the window that it covers, its widths, and whether channels stay apart in it.

    With `apart` every output has inputs of its own.
    """

    axes: tuple[int, ...]
    inputs: Width
    outputs: Width
    apart: bool = False


@dataclass(frozen=True)
class Scheme:
    """A chain of parts, the largest rank that is of use, and the split of a weight at a rank.

    `refusal` says why a layer of these sizes cannot gain from the scheme, "" where it can.
    """

    name: str
    summary: str
    parts: tuple[Part, ...]
    full_rank: Callable[[Sizes], tuple[int, ...]]
    split: Callable[[Tensor, tuple[int, ...]], tuple[Tensor, ...]]
    refusal: Callable[[Sizes], str]

    def widths(self, part: Part, sizes: Sizes, rank: tuple[int, ...]) -> tuple[int, int]:
        """Return the inputs and outputs of a part at a rank, for one channel group."""
        return _width(part.inputs, sizes, rank), _width(part.outputs, sizes, rank)


def _width(width: Width, sizes: Sizes, rank: tuple[int, ...]) -> int:
    if isinstance(width, int):
        return rank[width]
    return {"in": sizes[1], "out": sizes[0], "paths": sizes[0] * rank[0]}[width]


def _one_channel(sizes: Sizes) -> str:
    return "" if sizes[0] > 1 and sizes[1] > 1 else "it has a single channel on one side (of each of its groups)"


def _one_pixel(sizes: Sizes) -> str:
    return "" if sizes[2] * sizes[3] > 1 else "its window is a single pixel, which only the scheme 'channel' splits"


def _one_line(sizes: Sizes) -> str:
    return "" if sizes[2] > 1 and sizes[3] > 1 else f"its window of {sizes[2]}x{sizes[3]} has no two sides to separate"


_CHANNEL = Scheme(
    name="channel",
    summary="the window at fewer outputs, then 1x1",
    parts=(Part((0, 1), "in", 0), Part((), 0, "out")),
    full_rank=lambda sizes: (min(sizes[0], sizes[1] * sizes[2] * sizes[3]),),
    split=splitting.split_channels,
    refusal=lambda sizes: "" if sizes[0] > 1 else "it has a single output (in each of its groups)",
)
_SPATIAL = Scheme(
    name="spatial",
    summary="a column of the window, then a row",
    parts=(Part((0,), "in", 0), Part((1,), 0, "out")),
    full_rank=lambda sizes: (min(sizes[1] * sizes[2], sizes[0] * sizes[3]),),
    split=splitting.split_window,
    refusal=_one_line,
)
_DECOUPLED = Scheme(
    name="decoupled",
    summary="1x1, then the window on each channel alone",
    parts=(Part((), "in", "paths"), Part((0, 1), "paths", "out", apart=True)),
    full_rank=lambda sizes: (min(sizes[1], sizes[2] * sizes[3]),),
    split=splitting.split_paths,
    refusal=lambda sizes: _one_pixel(sizes) or _one_channel(sizes),
)
_TUCKER = Scheme(
    name="tucker-2",
    summary="1x1, the window between fewer channels, 1x1",
    parts=(Part((), "in", 0), Part((0, 1), 0, 1), Part((), 1, "out")),
    full_rank=lambda sizes: (
        min(sizes[1], sizes[0] * sizes[2] * sizes[3]),
        min(sizes[0], sizes[1] * sizes[2] * sizes[3]),
    ),
    split=splitting.split_modes,
    refusal=lambda sizes: _one_pixel(sizes) or _one_channel(sizes),
)
_CANONICAL = Scheme(
    name="canonical",
    summary="1x1, a column on each channel alone, a row on each channel alone, 1x1",
    parts=(Part((), "in", 0), Part((0,), 0, 0, apart=True), Part((1,), 0, 0, apart=True), Part((), 0, "out")),
    full_rank=lambda sizes: (min(sizes[0], sizes[1]) * sizes[2] * sizes[3],),
    split=splitting.split_canonically,
    refusal=lambda sizes: _one_line(sizes) or _one_channel(sizes),
)
SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme for scheme in (_CHANNEL, _SPATIAL, _DECOUPLED, _TUCKER, _CANONICAL)
}
