"""Operations that move positions: the very operation is applied to the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgeprune.network.coupling.call import Call, axis_of, common_dtype_call, overlap, tensors_in
from edgeprune.network.coupling.ledger import Block, compact, expanded, flat, long_axes
from edgeprune.network.coupling.rules import RULES
from edgeprune.network.coupling.tags import Operand

LITERAL_POSITION = "positions along the channels are picked by fixed numbers"


@RULES.on("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten")
def view(call: Call) -> None:
    """A change of shape; one channel axis that becomes several must stay a full rectangle."""
    if isinstance(call.args[1] if len(call.args) > 1 else None, torch.dtype):
        source = call.operand(call.args[0])
        call.give(source.parts, [source])
        return
    shape = call.out.shape
    ride(call, lambda label: label.reshape(shape))


@RULES.on(
    "permute", "t", "transpose", "squeeze", "unsqueeze", "flip", "unfold", "swapaxes", "movedim",
    "channel_shuffle", "native_channel_shuffle", "diagonal", "numpy_T", "view_as",
)  # fmt: skip
def move(call: Call) -> None:
    """Positions keep their neighbours or are copied."""
    rest = call.args[1:]
    target = call.args[0] if call.name.endswith("_") else None
    if isinstance(target, Tensor):  # squeeze_ and its like have changed the shape of their own argument
        _moved_in_place(call, target)
        return
    ride(call, lambda label: common_dtype_call(call.func, label, rest, call.kwargs))


@RULES.on("expand", "expand_as", "repeat")
def copies(call: Call) -> None:
    """Copies of one position along an axis can be as many as the channels that they meet."""
    rest = call.args[1:]
    ride(call, lambda label: call.func(label, *rest, **call.kwargs))
    source, tag = call.operand(call.args[0]), call.tag_of(call.out)
    if source.kind == "constant":
        return
    ndim = call.out.ndim
    before = (1,) * (ndim - len(source.shape)) + source.shape
    parts = list(tag.parts)
    for axis, (old, new) in enumerate(zip(before, call.out.shape, strict=True)):
        if old == 1 and new > 1:
            shape = [1] * ndim
            shape[axis] = new
            parts.append(call.ledger.fresh_copies(new).reshape(shape))
    call.give(parts, [source])


def _moved_in_place(call: Call, target: Tensor) -> None:
    tag = call.tag_of(target)
    if all(part.ndim == target.ndim for part in tag.parts):
        return
    call.give([part.reshape(_stretch(part, target)) for part in tag.parts], [call.operand(target)], out=target)


def _stretch(part: Tensor, target: Tensor) -> list[int]:
    sizes = iter(size for size in part.shape if size > 1)
    wanted = next(sizes, 0)
    shape = []
    for size in target.shape:
        hit = size == wanted
        shape.append(size if hit else 1)
        wanted = next(sizes, 0) if hit else wanted
    return shape


def ride(call: Call, operation: Any) -> None:
    """Apply an operation to the labels of the first argument and label the result, or each of the results."""
    source = call.operand(call.args[0])
    results = tensors_in(call.out)
    parts: list[list[Tensor]] = [[] for _ in results]
    for part in sorted(source.parts, key=long_axes):  # the outermost axis first
        moved = operation(expanded(part, source.shape))
        labels = [moved] if isinstance(moved, Tensor) else list(moved)
        for slot, label in zip(parts, labels, strict=True):
            slot.extend(_landed(call, part, compact(label)))
    for tensor, found in zip(results, parts, strict=True):
        call.give(_uncrossed(call, _without_copies(call, found)), [source], out=tensor)


def _without_copies(call: Call, parts: list[Tensor]) -> list[Tensor]:
    """Where real channels and copies now lie along one axis, the number of copies is fixed."""
    if len(parts) < 2:
        return parts
    kept = []
    for part in parts:
        if call.ledger.is_copy(part) and any(other is not part and overlap(part, other) for other in parts):
            call.ledger.pins.append((flat(part), None))
        else:
            kept.append(part)
    return kept


def _uncrossed(call: Call, parts: list[Tensor]) -> list[Tensor]:
    """Where two axes of units become one, as heads and their widths do, the outer units go on alone."""
    kept: list[Tensor] = []
    for part in parts:
        if any(overlap(part, other) for other in kept):
            call.pin(part, "another set of units lies along the same axis")
        else:
            kept.append(part)
    return kept


def _landed(call: Call, before: Tensor, after: Tensor) -> list[Tensor]:
    """Check one moved part: note a rectangle where it now runs along more axes, pin a lone position."""
    axes = long_axes(after)
    if not axes:
        call.pin(after, "one single channel is taken out by a fixed position")
        return []
    if len(axes) > len(long_axes(before)):
        call.ledger.rectangles.append(after)
    return [after]


def restricted(call: Call, source: Operand, axes: Sequence[int], text: str) -> Operand:
    """The operand with nothing removable along these axes."""
    return Operand(source.shape, call.forbid_all(source.parts, axes, text), source.kind, source.weight)


def _ride_on(call: Call, source: Operand, operation: Any) -> None:
    """`ride` for labels that a rule has changed first."""
    parts = []
    for part in source.parts:
        parts += _landed(call, part, compact(operation(expanded(part, source.shape))))
    call.give(parts, [source])


@RULES.on("as_strided", "as_strided_")
def as_strided(call: Call) -> None:
    """Positions by address: followed only where nothing but the memory layout changes."""
    source = call.operand(call.args[0])
    if tuple(call.out.shape) == source.shape and call.argument(3, "storage_offset") in (None, 0):
        call.give(source.parts, [source])
    else:
        call.give_up("positions are picked by memory address")


@RULES.on("select")
def select(call: Call) -> None:
    """Taking one position: along a channel axis its number means another channel after a cut."""
    source = call.operand(call.args[0])
    axis = axis_of(call.argument(1, "dim"), len(source.shape))
    source = restricted(call, source, [axis], LITERAL_POSITION)
    _ride_on(call, source, lambda label: label.select(axis, 0))


@RULES.on("unbind")
def unbind(call: Call) -> None:
    """Like `select` for every position."""
    source = call.operand(call.args[0])
    axis = axis_of(call.argument(1, "dim", 0), len(source.shape))
    source = restricted(call, source, [axis], LITERAL_POSITION)
    parts = [part.squeeze(axis) for part in source.parts]
    for tensor in call.out:
        call.give(parts, [source], out=tensor)


@RULES.on("slice", "narrow")
def slice_of(call: Call) -> None:
    """A range of positions; fixed steps along channels cannot follow a cut."""
    source = call.operand(call.args[0])
    axis = axis_of(call.argument(1, "dim", 0), len(source.shape))
    if call.out.shape[axis] == source.shape[axis]:
        call.give(source.parts, [source])
        return
    if call.out.shape[axis] == 0:  # no positions, but still as many channels
        call.give([part for part in source.parts if part.shape[axis] == 1], [source])
        return
    step = call.argument(4, "step", 1)
    shared = [part for part in source.parts if len(long_axes(part)) > 1]
    parts = call.forbid_all(source.parts if step != 1 else shared, [axis], LITERAL_POSITION)
    if step == 1:
        parts += tuple(part for part in source.parts if len(long_axes(part)) == 1)
        _note_ends(call, parts, axis)
    source = Operand(source.shape, parts, source.kind, source.weight)
    _ride_on(call, source, lambda label: call.func(label, *call.args[1:], **call.kwargs))


def _note_ends(call: Call, parts: tuple[Tensor, ...], axis: int) -> None:
    """Where a range of channels starts and ends moves with the channels before it."""
    for position, name in ((2, "start"), (3, "end")):
        end = call.argument(position, name)
        for part in parts:
            size = part.shape[axis]
            if isinstance(end, int) and size > 1 and 0 < abs(end) < size:
                call.literal(name, end % size, part.narrow(axis, 0, end % size))


@RULES.on("split", "split_with_sizes", "chunk")
def split(call: Call) -> None:
    """Consecutive ranges; ranges of one size must keep equally many, for their size is worked out from the whole."""
    source = call.operand(call.args[0])
    axis = axis_of(call.argument(2, "dim", 0), len(source.shape))
    shared = [part for part in source.parts if len(long_axes(part)) > 1]
    sole = tuple(part for part in source.parts if len(long_axes(part)) == 1)
    parts = call.forbid_all(shared, [axis], LITERAL_POSITION) + sole
    sizes = [tensor.shape[axis] for tensor in call.out]
    for part in sole:
        if part.shape[axis] > 1 and len(set(sizes)) == 1 and len(sizes) > 1:
            rows = tuple(flat(piece) for piece in part.split(sizes[0], axis))
            call.ledger.blocks.append(Block(rows, f"split into {len(sizes)} equal ranges at {call.locate()}"))
    results: list[list[Tensor]] = [[] for _ in call.out]
    for part in parts:
        for slot, label in zip(results, expanded(part, source.shape).split(sizes, axis), strict=True):
            slot.extend(_landed(call, part, compact(label)))
    for tensor, found in zip(call.out, results, strict=True):
        call.give(found, [source], out=tensor)


@RULES.on("glu")
def gated(call: Call) -> None:
    """One half of an axis gates the other: the same place of both halves is one unit."""
    source = call.operand(call.args[0])
    axis = axis_of(call.argument(1, "dim", -1), len(source.shape))
    parts = []
    for part in source.parts:
        half = part.narrow(axis, 0, max(part.shape[axis] // 2, 1))
        if part.shape[axis] > 1:
            call.ledger.tie(half, part.narrow(axis, half.shape[axis], half.shape[axis]))
        parts += _landed(call, half, half)
    call.give(parts, [source])


@RULES.on("roll")
def roll(call: Call) -> None:
    """A cyclic shift by a fixed number of positions."""
    source = call.operand(call.args[0])
    axes = [axis_of(axis, len(source.shape)) for axis in call.argument(2, "dims", ()) or range(len(source.shape))]
    source = restricted(call, source, axes, LITERAL_POSITION)
    call.give(source.parts, [source])


@RULES.on("constant_pad_nd")
def pad(call: Call) -> None:
    """Padding of channels makes new positions, which follow whatever they are added to."""
    source = call.operand(call.args[0])
    amounts = list(call.args[1])
    ndim = len(source.shape)
    parts = list(source.parts)
    for step in range(len(amounts) // 2):
        left, right, axis = amounts[2 * step], amounts[2 * step + 1], ndim - 1 - step
        if min(left, right) < 0:
            parts = list(call.forbid_all(parts, [axis], LITERAL_POSITION))
        elif left or right:
            parts = [_padded(call, part, axis, (2 * step, left, right)) for part in parts]
    call.give(parts, [source])


def _padded(call: Call, part: Tensor, axis: int, padding: tuple[int, int, int]) -> Tensor:
    first, *amounts = padding
    if part.shape[axis] == 1:
        return part
    if len(long_axes(part)) > 1:
        return call.ledger.tie_along(part, axis)
    sides = [call.ledger.fresh(amount) for amount in amounts]
    for offset, (amount, side) in enumerate(zip(amounts, sides, strict=True)):
        call.literal(f"pad[{first + offset}]", amount, side)
    if amounts[0] == amounts[1]:
        rows = tuple(flat(side) for side in sides)
        call.ledger.blocks.append(Block(rows, f"padded equally on both sides at {call.locate()}"))
    shape = [1] * part.ndim
    shape[axis] = -1
    return torch.cat([sides[0].reshape(shape), part, sides[1].reshape(shape)], axis)


@RULES.on("cat", "concatenate", "stack")
def cat(call: Call) -> None:
    """Channels side by side keep their labels; what lies on the other axes is united."""
    tensors = [tensor for tensor in call.args[0] if tensor.numel() or tensor.ndim > 1]
    operands = [call.operand(tensor) for tensor in tensors]
    axis = axis_of(call.argument(1, "dim", 0), call.out.ndim)
    if call.name == "stack":
        operands = [_unsqueezed(operand, axis) for operand in operands]
    along = [[part for part in operand.parts if part.shape[axis] > 1] for operand in operands]
    across = [
        Operand(operand.shape, tuple(part for part in operand.parts if part.shape[axis] == 1), operand.kind)
        for operand in operands
    ]
    parts = list(call.merge(across, skip=axis))
    if any(along):
        joined = compact(_joined(call, operands, along, axis))
        if len(long_axes(joined)) > max(len(long_axes(part)) for some in along for part in some):
            call.ledger.rectangles.append(joined)
        parts.append(joined)
    call.give(parts, operands)


def _unsqueezed(operand: Operand, axis: int) -> Operand:
    shape = (*operand.shape[:axis], 1, *operand.shape[axis:])
    return Operand(shape, tuple(part.unsqueeze(axis) for part in operand.parts), operand.kind, operand.weight)


def _joined(call: Call, operands: list[Operand], along: list[list[Tensor]], axis: int) -> Tensor:
    """Lay labels side by side along an axis; operands without labels there are fixed."""
    first = [_first_of(call, parts) for parts in along]
    shapes = [part.shape for part in first if part is not None]
    common = [max(sizes) for sizes in zip(*shapes, strict=True)]
    pieces = []
    for operand, part in zip(operands, first, strict=True):
        common[axis] = operand.shape[axis]
        if part is not None:
            pieces.append(part.expand(common))
            continue
        size = common[axis]
        new = call.ledger.fresh(size) if operand.kind == "constant" else torch.zeros(size, dtype=torch.long)
        lone = [1] * len(common)
        lone[axis] = size
        pieces.append(new.reshape(lone).expand(common))
    return torch.cat(pieces, axis)


def _first_of(call: Call, parts: list[Tensor]) -> Tensor | None:
    for extra in parts[1:]:
        call.pin(extra, "several sets of channels lie along one axis that is concatenated")
    return parts[0] if parts else None
