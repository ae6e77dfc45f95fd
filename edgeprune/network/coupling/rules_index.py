"""Operations that pick positions by number: free along axes without channels, forbidden along channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeprune.network.coupling.call import Call, axis_of
from edgeprune.network.coupling.ledger import compact, expanded, flat, long_axes
from edgeprune.network.coupling.rules import RULES
from edgeprune.network.coupling.rules_move import LITERAL_POSITION
from edgeprune.network.coupling.tags import Operand


@RULES.on("index", "_unsafe_index")
def index(call: Call) -> None:
    """`x[i, :, j]`: the indexed axes are forbidden, the others move as the operation moves them."""
    source, numbers = call.operand(call.args[0]), call.args[1]
    axes = _indexed_axes(numbers)
    parts = call.forbid_all(source.parts, axes, LITERAL_POSITION)
    moved = []
    for part in parts:
        label = compact(call.func(expanded(part, source.shape), numbers))
        if long_axes(label):
            moved.append(label)
        elif label.numel():
            call.pin(label, LITERAL_POSITION)
    call.give(moved, [source])


def _indexed_axes(numbers: list[Tensor | None]) -> list[int]:
    axes: list[int] = []
    axis = 0
    for number in numbers:
        width = number.ndim if number is not None and number.dtype in (torch.bool, torch.uint8) else 1
        if number is not None:
            axes += range(axis, axis + width)
        axis += width
    return axes


@RULES.on("index_select", "gather", "take_along_dim")
def pick(call: Call) -> None:
    """One axis is indexed by numbers; the labels along the others stay where the result is as long."""
    source = call.operand(call.args[0])
    axis = axis_of(call.args[1], len(source.shape))
    parts = call.forbid_all(source.parts, [axis], LITERAL_POSITION)
    kept = []
    for part in parts:
        if all(part.shape[i] in (1, call.out.shape[i]) for i in range(part.ndim)):
            kept.append(part)
        else:
            call.pin(part, LITERAL_POSITION)
    call.give(kept, [source])


@RULES.on("embedding")
def embedding(call: Call) -> None:
    """A table of vectors: its columns are channels that the table writes."""
    table = call.operand(call.args[0])
    vectors, rest = call.settle(table, 1)
    for part in rest:
        call.pin(part, LITERAL_POSITION)
    for vector in vectors:
        call.ledger.writers.append(flat(vector))
    lead = (1,) * (call.out.ndim - 1)
    call.give([vector.reshape((*lead, -1)) for vector in vectors])


@RULES.on("pixel_shuffle")
def pixel_shuffle(call: Call) -> None:
    """Every r*r channels become one channel of a larger picture, so they are one unit."""
    source = call.operand(call.args[0])
    axis = len(source.shape) - 3
    square = int(call.args[1]) ** 2
    parts = _without_space(call, source)
    moved = []
    for part in parts:
        rest = part
        if part.shape[axis] > 1:
            shape = (*part.shape[:axis], -1, square, *part.shape[axis + 1 :])
            rest = call.ledger.tie_along(part.reshape(shape), axis + 1).squeeze(axis + 1)
        moved += [rest] if long_axes(rest) else []
    call.give(moved, [source])


@RULES.on("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> None:
    """Every channel becomes r*r channels of a smaller picture, which stay one unit."""
    source = call.operand(call.args[0])
    axis = len(source.shape) - 3
    square = int(call.args[1]) ** 2
    parts = _without_space(call, source)
    call.give([p.repeat_interleave(square, axis) if p.shape[axis] > 1 else p for p in parts], [source])


def _without_space(call: Call, source: Operand) -> tuple[Tensor, ...]:
    ndim = len(source.shape)
    return call.forbid_all(source.parts, [ndim - 2, ndim - 1], LITERAL_POSITION)


@RULES.on("im2col")
def unfold_windows(call: Call) -> None:
    """(N, C, H, W) -> (N, C*k*k, L): a channel becomes k*k positions."""
    source = call.operand(call.args[0])
    area = math.prod(call.args[1])
    parts = _without_space(call, source)
    call.give([p.flatten(2).repeat_interleave(area, 1) for p in parts if p.shape[1] > 1], [source])


@RULES.on("col2im")
def fold_windows(call: Call) -> None:
    """(N, C*k*k, L) -> (N, C, H, W): k*k positions are one channel."""
    source = call.operand(call.args[0])
    area = math.prod(call.args[2])
    parts = call.forbid_all(source.parts, [2], LITERAL_POSITION)
    moved = []
    for part in parts:
        if part.shape[1] > area:
            moved.append(call.ledger.tie_along(part.reshape(1, -1, area, 1), 2).reshape(1, -1, 1, 1))
        elif part.shape[1] > 1:
            call.pin(part, "one single channel is folded out of its windows")
    call.give(moved, [source])


@RULES.on("view_as_real")
def view_as_real(call: Call) -> None:
    """A complex number becomes two positions of a new last axis."""
    source = call.operand(call.args[0])
    call.give([part.unsqueeze(-1) for part in source.parts], [source])


@RULES.on("view_as_complex")
def view_as_complex(call: Call) -> None:
    """Two positions of the last axis become a complex number."""
    source = call.operand(call.args[0])
    last = len(source.shape) - 1
    parts = call.forbid_all(source.parts, [last], LITERAL_POSITION)
    call.give([part.squeeze(-1) for part in parts], [source])
