"""Operations that mix the positions of some axes without weights, and norms."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from edgeprune.network.coupling.call import Call, axes_of, tensors_in
from edgeprune.network.coupling.ledger import Block, flat, long_axes
from edgeprune.network.coupling.rules import RULES
from edgeprune.network.coupling.tags import Operand

STATISTIC = "a statistic is taken across the channels"
MIXED = "the positions along the channels are mixed without weights"
SPREAD = "Cutting it is possible, but the statistic changes with the channels: fine-tune after the cut."


def statistic(call: Call, parts: Iterable[Tensor], axes: Iterable[int]) -> tuple[Tensor, ...]:
    """Note the parts that run along these axes alone; parts that also run elsewhere become units there."""
    axes = list(axes)
    kept = []
    for part in parts:
        hit = [axis for axis in axes if part.shape[axis] > 1]
        outside = [axis for axis in long_axes(part) if axis not in axes]
        if hit and not outside:
            call.ledger.statistics.append((flat(part), call.reason(STATISTIC, SPREAD)))
            continue
        rest = part
        for axis in hit:
            rest = call.ledger.tie_along(rest, axis)
        kept.append(rest)
    return tuple(kept)


def across(call: Call, parts: Iterable[Tensor], axes: list[int]) -> tuple[Tensor, ...]:
    """`statistic` for a norm, whose result still has the axes that the statistic is taken over."""
    parts = list(parts)
    inside = [part for part in parts if all(axis in axes for axis in long_axes(part))]
    outside = [part for part in parts if not all(axis in axes for axis in long_axes(part))]
    statistic(call, inside, axes)
    return (*inside, *statistic(call, outside, axes))


def _reduced(parts: Iterable[Tensor], axes: list[int], ndim: int) -> list[Tensor]:
    """Drop the reduced axes where the result has fewer axes."""
    results = []
    for part in parts:
        left = [size for axis, size in enumerate(part.shape) if axis not in axes]
        results.append(part if part.ndim == ndim else part.reshape(left))
    return results


def _reduction_axes(call: Call, source: Operand, names: tuple[int, str]) -> list[int]:
    """The axes reduced: those given, or all where the result says so."""
    position, name = names
    value = call.argument(position, name)
    if isinstance(value, bool):
        value = None
    return axes_of(value, len(source.shape))


@RULES.on("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "max", "min", "nansum", "logsumexp")
def reduce(call: Call) -> None:
    """Sums, means, spreads and extremes."""
    _reduce(call, (1, "dim"))


@RULES.on("linalg_vector_norm", "norm")
def norm(call: Call) -> None:
    """Lengths of vectors."""
    _reduce(call, (2, "dim"))


def _reduce(call: Call, names: tuple[int, str]) -> None:
    source = call.operand(call.args[0])
    second = call.args[1] if len(call.args) > 1 else None
    if isinstance(second, Tensor):  # max(a, b) of two tensors is point by point
        call.give(call.merge(call.operands()), call.operands())
        return
    axes = _reduction_axes(call, source, names)
    parts = statistic(call, source.parts, axes)
    for tensor in tensors_in(call.out):
        call.give(_reduced(parts, axes, tensor.ndim), [source], out=tensor)


@RULES.on("argmax", "argmin", "any", "all", "prod", "median", "mode", "count_nonzero")
def mixing_reduction(call: Call) -> None:
    """Reductions after which a removed channel cannot be told from a kept one."""
    source = call.operand(call.args[0])
    axes = _reduction_axes(call, source, (1, "dim"))
    parts = call.forbid_all(source.parts, axes, MIXED)
    for tensor in tensors_in(call.out):
        call.give(_reduced(parts, axes, tensor.ndim), [source], out=tensor)


@RULES.on(
    "_softmax", "softmax", "_log_softmax", "log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp",
    "cummax", "tril", "triu",
)  # fmt: skip
def mixing(call: Call) -> None:
    """Every position along an axis depends on the others."""
    source = call.operand(call.args[0])
    axes = [-1, -2] if call.name in ("tril", "triu") else call.argument(1, "dim", -1)
    parts = call.forbid_all(source.parts, axes_of(axes, len(source.shape)), MIXED)
    for tensor in tensors_in(call.out):
        call.give(parts, [source], out=tensor)


@RULES.on("sort", "topk", "kthvalue", "argsort")
def ordering(call: Call) -> None:
    """Positions are put in another order that depends on the numbers."""
    source = call.operand(call.args[0])
    position = 2 if call.name in ("topk", "kthvalue") else 1
    parts = call.forbid_all(source.parts, axes_of(call.argument(position, "dim", -1), len(source.shape)), MIXED)
    for tensor in tensors_in(call.out):
        call.give(parts, [source], out=tensor)


@RULES.on("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(call: Call) -> None:
    """A Fourier transform over some axes."""
    source = call.operand(call.args[0])
    call.give(call.forbid_all(source.parts, axes_of(call.args[1], len(source.shape)), MIXED), [source])


@RULES.on(
    "mkldnn_rnn_layer", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell",
    "rnn_relu_cell", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "_cudnn_rnn", "quantized_lstm", "miopen_rnn",
)  # fmt: skip
def recurrent(call: Call) -> None:
    """A recurrent layer feeds its output back, gate by gate; it stays whole."""
    call.give_up("a recurrent layer reads these channels and feeds its own back: its gates are not followed")


_SPATIAL = {
    "avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3, "max_pool2d": 2, "max_pool3d": 3, "max_pool2d_with_indices": 2,
    "max_pool3d_with_indices": 3, "adaptive_avg_pool1d": 1, "adaptive_avg_pool2d": 2, "adaptive_avg_pool3d": 3,
    "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3, "adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3,
    "mkldnn_max_pool2d": 2, "upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_nearest3d": 3,
    "_upsample_nearest_exact1d": 1, "_upsample_nearest_exact2d": 2, "_upsample_nearest_exact3d": 3,
    "upsample_linear1d": 1, "upsample_bilinear2d": 2, "_upsample_bilinear2d_aa": 2, "upsample_bicubic2d": 2,
    "_upsample_bicubic2d_aa": 2, "upsample_trilinear3d": 3, "reflection_pad1d": 1, "reflection_pad2d": 2,
    "reflection_pad3d": 3, "replication_pad1d": 1, "replication_pad2d": 2, "replication_pad3d": 3,
    "grid_sampler": 2, "grid_sampler_2d": 2, "grid_sampler_3d": 3, "fractional_max_pool2d": 2, "max_unpool2d": 2,
    "_upsample_lanczos2d_aa": 2,
}  # fmt: skip


@RULES.on(*_SPATIAL)
def spatial(call: Call) -> None:
    """The last axes are mixed or resized, each channel by itself."""
    source = call.operand(call.args[0])
    ndim = len(source.shape)
    parts = call.forbid_all(source.parts, range(ndim - _SPATIAL[call.name], ndim), MIXED)
    for other in call.operands()[1:]:
        call.forbid_all(other.parts, range(len(other.shape)), MIXED)
    for tensor in tensors_in(call.out):
        call.give(parts, [source], out=tensor)


@RULES.on(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "_batch_norm_with_update", "miopen_batch_norm", "batch_norm",
)  # fmt: skip
def batch_norm(call: Call) -> None:
    """Each channel by itself; with batch statistics the other axes are what they are taken over."""
    source = call.operand(call.args[0])
    affine = [call.operand(value) for value in call.args[1:5] if isinstance(value, Tensor)]
    parts = source.parts
    if call.name == "_native_batch_norm_legit" or not isinstance(call.args[3], Tensor) or call.args[5] is True:
        parts = across(call, parts, [axis for axis in range(len(source.shape)) if axis != 1])
    _affine(call, Operand(source.shape, tuple(parts), source.kind, source.weight), affine, 1)


def _affine(call: Call, source: Operand, affine: list[Operand], axis: int) -> None:
    """Unite per-channel vectors with the channels of a tensor and label the result."""
    ndim = len(source.shape)
    shape = [1] * ndim
    operands = [source]
    for vector in affine:
        shape[axis] = vector.shape[0]
        parts = tuple(part.reshape(shape) for part in vector.parts)
        operands.append(Operand(tuple(shape), parts, vector.kind, vector.weight))
    call.give(call.merge(operands), operands, out=tensors_in(call.out)[0])


@RULES.on("native_layer_norm", "_fused_rms_norm", "layer_norm", "rms_norm")
def layer_norm(call: Call) -> None:
    """Statistics over the last axes, then an affine map point by point."""
    source = call.operand(call.args[0])
    ndim, width = len(source.shape), len(call.args[1])
    parts = across(call, source.parts, list(range(ndim - width, ndim)))
    operands = [Operand(source.shape, parts, source.kind, source.weight)]
    operands += [call.operand(value) for value in call.args[2:4] if isinstance(value, Tensor)]
    call.give(call.merge(operands), operands, out=tensors_in(call.out)[0])


def whole_blocks(blocks: int, size: int) -> bool:
    """Whether a grouped layer is better cut by whole blocks than inside each block."""
    return blocks >= size


@RULES.on("native_group_norm", "group_norm")
def group_norm(call: Call) -> None:
    """Statistics over blocks of channels: whole blocks go, or every block keeps equally many."""
    source = call.operand(call.args[0])
    groups = int(call.args[6] if call.name == "native_group_norm" else call.args[1])
    affine = [call.operand(value) for value in call.args[1:5] if isinstance(value, Tensor)]
    vectors, rest = call.settle(source, 1)
    rest = list(across(call, rest, list(range(2, len(source.shape)))))
    size = source.shape[1] // groups
    for vector in vectors:
        blocks = vector.reshape(groups, size)
        if size > 1 and whole_blocks(groups, size):
            call.literal("group", groups, call.ledger.tie_along(blocks, 1))
        elif size > 1:
            call.ledger.statistics.append((flat(vector), call.reason(STATISTIC, SPREAD)))
            rows = tuple(flat(row) for row in blocks)
            call.ledger.blocks.append(Block(rows, f"{groups} norm groups at {call.locate()}"))
    shape = [1] * len(source.shape)
    shape[1] = -1
    parts = (*rest, *(vector.reshape(shape) for vector in vectors))
    _affine(call, Operand(source.shape, parts, source.kind, source.weight), affine, 1)
