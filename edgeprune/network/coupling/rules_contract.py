"""Operations with weights: they read units along the axis summed over and write new ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from edgeprune.network.coupling.call import Call, elements
from edgeprune.network.coupling.ledger import Block, flat, long_axes
from edgeprune.network.coupling.rules import RULES
from edgeprune.network.coupling.rules_reduce import MIXED, whole_blocks
from edgeprune.network.coupling.tags import Operand, aligned

NO_WEIGHT = "two activations are multiplied and summed over these channels, so no weight reads them"
DYNAMIC = "the weights of this layer are computed from activations"


def meet(call: Call, left: list[Tensor], right: list[Tensor], sides: tuple[Operand, Operand]) -> None:
    """Unite the vectors of two operands along the axis summed over; the weight's side reads."""
    if sides[1].kind == "weight":
        weight, other = right, left
    elif sides[0].kind == "weight":
        weight, other = left, right
    else:
        for vector in (*left, *right):
            call.pin(vector, NO_WEIGHT)
        return
    call.ledger.readers += [flat(vector) for vector in weight]
    if not other:
        call.ledger.pins += [(flat(vector), None) for vector in weight]
    for unit in other:
        if not weight:
            call.pin(unit, "the weights that read these channels have a fixed size")
        for vector in weight:
            call.ledger.tie(unit, vector)


def _written(call: Call, operand: Operand, parts: Sequence[Tensor], axis: int) -> list[Tensor]:
    """Mark what a weight writes along an axis."""
    written = [part for part in parts if part.shape[axis] > 1]
    if operand.weight:  # a table of numbers that is not learned writes no channels
        call.ledger.writers += [flat(part) for part in written]
    return written


@RULES.on("mm", "bmm", "_int_mm")
def product(call: Call) -> None:
    """(B, n, k) x (B, k, m) -> (B, n, m), with or without B."""
    _product(call, call.operand(call.args[0]), call.operand(call.args[1]), ())


@RULES.on("addmm", "baddbmm", "addbmm", "_addmm_activation")
def affine_product(call: Call) -> None:
    """A product plus a bias."""
    bias = call.operand(call.args[0])
    _product(call, call.operand(call.args[1]), call.operand(call.args[2]), (bias,))


def _product(call: Call, a: Operand, b: Operand, bias: tuple[Operand, ...]) -> None:
    ndim = len(a.shape)
    row, inner, column = ndim - 2, ndim - 1, ndim - 1
    left, left_rest = call.settle(a, inner)
    right, right_rest = call.settle(b, row)
    meet(call, left, right, (a, b))
    rows, columns = _written(call, a, left_rest, row), _written(call, b, right_rest, column)
    shape_a, shape_b = (*a.shape[:-1], 1), (*b.shape[:-2], 1, b.shape[-1])
    sides = [
        Operand(shape_a, tuple(left_rest), a.kind, a.weight),
        Operand(shape_b, tuple(right_rest), b.kind, b.weight),
    ]
    shared = [*_batch_units(call, [a, b], [left_rest, right_rest]), *_repeated(a, left_rest, row)]
    shared += _repeated(b, right_rest, column)
    parts = call.merge([*sides, *bias])
    for operand in bias:
        call.ledger.writers += [flat(part) for part in operand.parts]
    call.give(parts, [*sides, *bias])
    written = rows if a.kind == "weight" else columns if b.kind == "weight" else []
    _count_product(call, a, b, (left or right, written, shared))


def _repeated(operand: Operand, parts: Sequence[Tensor], axis: int) -> list[Tensor]:
    """Units of an activation that a product treats one by one, such as channels whose tokens it mixes."""
    return [] if operand.kind == "weight" else [part for part in parts if part.shape[axis] > 1]


def _batch_units(call: Call, operands: list[Operand], parts: list[list[Tensor]]) -> list[Tensor]:
    """Labels along the batch axis of a product of two activations are heads."""
    if len(operands[0].shape) < 3 or any(operand.kind == "weight" for operand in operands):
        return []
    heads = [part for some in parts for part in some if part.shape[0] > 1]
    call.ledger.heads += [flat(part) for part in heads]
    return heads


def _count_product(call: Call, a: Operand, b: Operand, axes: tuple[list[Tensor], list[Tensor], list[Tensor]]) -> None:
    macs = elements(a.shape) * b.shape[-1]
    weight = b.weight if b.kind == "weight" else a.weight if a.kind == "weight" else ""
    if a.kind == "activation" or b.kind == "activation":
        call.count(macs, "linear" if weight else "matmul", weight, axes)


@RULES.on("mv", "dot", "vdot")
def vector_product(call: Call) -> None:
    """A product with a vector."""
    a, b = call.operand(call.args[0]), call.operand(call.args[1])
    left, left_rest = call.settle(a, len(a.shape) - 1)
    right, _ = call.settle(b, 0)
    meet(call, left, right, (a, b))
    _written(call, a, left_rest, 0)
    call.give([part.squeeze(-1) for part in left_rest], [a, b])


@RULES.on(
    "_scaled_dot_product_flash_attention_for_cpu", "scaled_dot_product_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_attention_math", "_scaled_dot_product_cudnn_attention",
)  # fmt: skip
def attention(call: Call) -> None:
    """(B, heads, n, d) three times: heads are units, the width of a head is fixed where it is summed over."""
    query, key, value = (call.operand(tensor) for tensor in call.args[:3])
    last = len(query.shape) - 1
    batch: list[Operand] = []
    for operand in (query, key):
        vectors, rest = call.settle(operand, last)
        for vector in vectors:
            call.pin(vector, NO_WEIGHT)
        rest = list(call.forbid_all(rest, [last - 1], MIXED))
        batch.append(Operand((*operand.shape[:-2], 1, 1), tuple(rest), operand.kind))
    kept = call.forbid_all(value.parts, [last - 1], MIXED)
    batch.append(Operand((*value.shape[:-2], 1, value.shape[-1]), kept, value.kind))
    batch += _masks(call, last)
    heads = [part for operand in batch for part in operand.parts if part.shape[last - 2] > 1]
    call.ledger.heads += [flat(part) for part in heads]
    parts = call.merge(batch)
    for tensor in call.out if isinstance(call.out, tuple) else (call.out,):
        if isinstance(tensor, Tensor):
            short = [part.squeeze(-1) for part in parts if part.shape[-1] == 1]
            call.give(parts if tensor.ndim == last + 1 else short, out=tensor)
    macs = elements(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    call.count(macs, "matmul", "", ((), (), heads))


def _masks(call: Call, last: int) -> list[Operand]:
    """What is added to the scores, (B, heads, n, m) or less: its heads are the heads of the layer."""
    masks = []
    for value in (*call.args[3:], *call.kwargs.values()):
        if isinstance(value, Tensor):
            mask = aligned(call.operand(value), last + 1)
            parts = call.forbid_all(mask.parts, [last - 1, last], MIXED)
            masks.append(Operand((*mask.shape[:-2], 1, 1), parts, mask.kind))
    return masks


@RULES.on("convolution", "_convolution", "conv1d", "conv2d", "conv3d", "mkldnn_convolution")
def convolution(call: Call) -> None:
    """(N, C, *) with weights (O, C/groups, *); transposed: (C, O/groups, *)."""
    x, weight = call.operand(call.args[0]), call.operand(call.args[1])
    transposed, groups = bool(call.args[6]), int(call.args[8])
    ndim = len(x.shape)
    space = [axis for axis in range(ndim) if axis != 1]
    vectors, rest = call.settle(x, 1)
    rest = list(call.forbid_all(rest, [axis for axis in space if axis], MIXED))
    kernel = _without_window(call, weight)
    first, second = (call.settle(kernel, axis)[0] for axis in (0, 1))
    if weight.kind != "weight":
        for part in (*vectors, *first, *second):
            call.pin(part, DYNAMIC)
        written: list[Tensor] = []
    elif groups == 1:
        written = _dense(call, vectors, (second, first) if transposed else (first, second), (x, kernel))
    elif transposed:
        written = _transposed_blocks(call, vectors, (first, second), groups)
    else:
        written = _grouped(call, vectors, (first, second), groups)
    bias = call.operand(call.args[2]) if isinstance(call.args[2], Tensor) else None
    _finish(call, written, rest, bias)
    _count_convolution(call, weight, (vectors, written), groups)


def _without_window(call: Call, weight: Operand) -> Operand:
    """The weight of a convolution with labels along its channel axes alone."""
    parts = []
    for part in weight.parts:
        if part.shape[0] > 1 or part.shape[1] > 1:
            rest = part
            for axis in (axis for axis in long_axes(part) if axis > 1):
                rest = call.ledger.tie_along(rest, axis)
            parts.append(rest)
    return Operand(weight.shape, tuple(parts), weight.kind, weight.weight)


Axes = tuple[list[Tensor], list[Tensor]]  # the labels of a weight along its output and its input channels


def _dense(call: Call, vectors: list[Tensor], axes: Axes, sides: tuple[Operand, Operand]) -> list[Tensor]:
    outer, inner = axes
    meet(call, vectors, inner, sides)
    call.ledger.writers += [flat(vector) for vector in outer]
    return outer


def _grouped(call: Call, vectors: list[Tensor], axes: Axes, groups: int) -> list[Tensor]:
    """Whole blocks are carried through, or the same places of all blocks are one unit."""
    if vectors and whole_blocks(groups, call.args[1].shape[1]):
        return _carried_blocks(call, vectors, axes, groups)
    outer, inner = axes
    size = call.args[1].shape[1]
    for vector in vectors:
        call.ledger.tie_along(vector.reshape(groups, size), 0)
        if not inner:
            call.pin(vector, "every block of a grouped convolution reads one channel")
    meet(call, [vector[:size] for vector in vectors], inner, (call.operand(call.args[0]), call.operand(call.args[1])))
    for unit in outer:
        call.ledger.writers.append(flat(unit))
        rows = tuple(flat(row) for row in unit.reshape(groups, -1))
        call.ledger.blocks.append(Block(rows, f"{groups} blocks of a grouped convolution"))
    return outer


def _carried_blocks(call: Call, vectors: list[Tensor], axes: Axes, groups: int) -> list[Tensor]:
    outer, inner = axes
    for vector in vectors:
        blocks = call.ledger.tie_along(vector.reshape(groups, -1), 1)
        call.literal("groups", groups, blocks)
        for unit in outer:
            call.ledger.tie(blocks, unit.reshape(groups, -1))
        if not outer:
            call.pin(vector, "a grouped convolution has one output channel")
    call.ledger.pins += [(flat(vector), None) for vector in inner]
    return outer


def _transposed_blocks(call: Call, vectors: list[Tensor], axes: Axes, groups: int) -> list[Tensor]:
    """Weights (C, O/groups, *): whole blocks are carried from input to output."""
    first, second = axes
    width = call.args[1].shape[1]
    call.ledger.pins += [(flat(vector), None) for vector in second]
    if not vectors:
        call.ledger.pins += [(flat(vector), None) for vector in first]
    written = []
    for vector in vectors:
        blocks = call.ledger.tie_along(vector.reshape(groups, -1), 1)
        call.literal("groups", groups, blocks)
        for unit in first:
            call.ledger.tie(blocks, unit.reshape(groups, -1))
        written.append(blocks.reshape(-1).repeat_interleave(width))
    return written


def _finish(call: Call, written: list[Tensor], rest: list[Tensor], bias: Operand | None) -> None:
    """Label the result: what was written along the channels, what rode along the batch."""
    ndim = call.out.ndim
    shape = [1] * ndim
    shape[1] = -1
    outer = tuple(vector.reshape(shape) for vector in written if vector.numel() > 1)
    channels = call.out.shape[1]
    shape[1] = channels
    operands = [Operand(tuple(shape), outer, "activation")]
    if bias is not None:
        parts = tuple(part.reshape(shape) for part in bias.parts)
        operands.append(Operand(tuple(shape), parts, bias.kind))
        if any(vector.numel() for vector in written):
            call.ledger.writers += [flat(part) for part in _own_writers(call, parts)]
    parts = call.merge(operands)
    call.give((*parts, *(part for part in rest if long_axes(part))))


def _own_writers(call: Call, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The bias of a layer that carries its channels through is a carrier as well."""
    carried = int(call.args[8]) > 1 and (bool(call.args[6]) or whole_blocks(int(call.args[8]), call.args[1].shape[1]))
    return () if carried else parts


def _count_convolution(call: Call, weight: Operand, units: tuple[list[Tensor], list[Tensor]], groups: int) -> None:
    transposed = bool(call.args[6])
    pixels = elements(call.args[0].shape if transposed else call.out.shape)
    macs = pixels * elements(weight.shape[1:])
    carried = groups > 1 and (transposed or whole_blocks(groups, call.args[1].shape[1]))
    kind = "depthwise" if groups > 1 and call.args[1].shape[1] == 1 else "conv"
    inner, outer = units
    axes = ((), (), outer) if carried else (inner, outer, ())
    call.count(macs, kind, weight.weight, axes)
