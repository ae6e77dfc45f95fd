"""Operations that combine tensors position by position, and operations that make tensors from nothing."""

from __future__ import annotations

from torch import Tensor

from edgeprune.network.coupling.call import Call, tensors_in
from edgeprune.network.coupling.rules import RULES
from edgeprune.network.coupling.tags import CONSTANT, FIXED

SAME_NUMBER = (
    "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like",
    "ones_like", "full_like", "empty_like", "scalar_tensor", "empty_strided", "new_empty_strided",
)  # fmt: skip
MADE_HERE = (
    "arange", "linspace", "rand", "randn", "randint", "eye", "lift_fresh_copy", "lift_fresh", "rand_like",
    "randn_like", "randperm", "tril_indices", "triu_indices", "normal", "uniform", "bernoulli", "hann_window",
)  # fmt: skip
SIZE_CHECKS = ("_local_scalar_dense", "equal", "is_same_size", "_assert_async", "_assert_tensor_metadata", "sym_size",
               "sym_stride", "sym_numel", "is_nonzero", "resize_", "set_", "record_stream")  # fmt: skip


@RULES.on(
    "pointwise", "masked_fill", "where", "_to_copy", "to", "clone", "detach", "alias", "contiguous", "native_dropout",
    "dropout", "hardswish", "hardsigmoid", "hardtanh", "relu6", "relu", "mish", "silu", "elu", "selu", "celu",
    "leaky_relu", "_prelu_kernel", "rrelu_with_noise", "threshold", "softplus", "log_sigmoid_forward", "hardshrink",
    "softshrink", "gelu", "sigmoid", "tanh", "addcmul", "addcdiv", "lerp", "clamp", "_conj", "conj", "isnan",
    "nan_to_num", "real", "imag", "complex", "polar", "angle", "float_power", "heaviside", "rsub", "bitwise_not",
)  # fmt: skip
def pointwise(call: Call) -> None:
    """Units that meet at one position become one unit."""
    target = call.args[0] if call.name.endswith("_") and not call.name.startswith("__") else None
    if isinstance(target, Tensor):
        in_place(call, target)
        return
    operands = call.operands()
    parts = call.merge(operands)
    for tensor in tensors_in(call.out):
        call.give(parts, operands, out=tensor)


def in_place(call: Call, target: Tensor) -> None:
    """What is written into a tensor joins its labels; written into a part of an unlabelled one, it is pinned."""
    operands = call.operands()
    parts = call.merge(operands)
    own = call.tag_of(target)
    if not own.parts and parts and target._is_view():
        for part in parts:
            call.pin(part, "the channels are written in place into a part of another tensor")
        call.set_tag(target, FIXED)
        return
    call.give(parts, operands, out=target)


@RULES.on("copy_")
def copy(call: Call) -> None:
    """Copying replaces the numbers, so only the labels of what is copied matter."""
    target, source = call.args[0], call.args[1]
    own, other = call.operand(target), call.operand(source)
    if target._is_view() and not own.parts:
        if other.parts:
            in_place(call, target)
        elif other.kind != "constant":
            call.set_tag(target, FIXED)
        return
    operands = [other] if own.kind == "constant" else [own, other]
    call.give(call.merge(operands), operands, out=target)


@RULES.on(*SAME_NUMBER)
def constant(call: Call) -> None:
    """A tensor that holds one number everywhere follows any cut."""
    for tensor in tensors_in(call.out):
        call.set_tag(tensor, CONSTANT)


@RULES.on("fill", "zero")
def fill(call: Call) -> None:
    """Filling keeps the labels of the tensor filled: it may be a view of a larger one."""


@RULES.on(*MADE_HERE)
def made_here(call: Call) -> None:
    """Numbers that differ by position cannot follow a cut."""
    for tensor in tensors_in(call.out):
        call.set_tag(tensor, FIXED)


@RULES.on(*SIZE_CHECKS)
def no_tensor(call: Call) -> None:
    """Nothing to label."""
