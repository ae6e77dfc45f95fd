"""What is known about one tensor while the network runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["activation", "weight", "constant"]


@dataclass(frozen=True, slots=True, eq=False)
class Tag:
    """The labels of one tensor and what it was made of.

    A "weight" was made of parameters and buffers alone, a "constant" holds the same number everywhere along
    every axis (so it may follow any cut); all others are activations, whose unlabelled axes stay as they are.
    """

    parts: tuple[Tensor, ...] = ()
    kind: Kind = "activation"
    weight: str = ""


FIXED = Tag()
CONSTANT = Tag(kind="constant")


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """One tensor argument of an operation: its shape and its labels, aligned to that shape."""

    shape: tuple[int, ...]
    parts: tuple[Tensor, ...]
    kind: Kind
    weight: str = ""


def aligned(operand: Operand, ndim: int) -> Operand:
    """Give an operand leading axes of size 1, as broadcasting does."""
    missing = ndim - len(operand.shape)
    if missing <= 0:
        return operand
    lead = (1,) * missing
    parts = tuple(part.reshape(lead + tuple(part.shape)) for part in operand.parts)
    return Operand(lead + operand.shape, parts, operand.kind, operand.weight)


def common_kind(operands: list[Operand]) -> Kind:
    """What a tensor is that was made of these."""
    kinds = {operand.kind for operand in operands}
    if "activation" in kinds:
        return "activation"
    return "weight" if "weight" in kinds else "constant"
