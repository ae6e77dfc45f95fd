"""One operation as its rule sees it: arguments, result, labels in, labels out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgeprune.network.coupling.ledger import Ledger, Reason, Work, flat, long_axes
from edgeprune.network.coupling.tags import FIXED, Operand, Tag, aligned, common_kind

KEEP_SHAPE = "Change the network so that the channels are followed, or leave this group whole."


@dataclass(slots=True, eq=False)
class Call:
    """What a rule reads and writes; `tag_of` and `set_tag` reach the labels of any tensor."""

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    ledger: Ledger
    module: str
    tag_of: Callable[[Tensor], Tag]
    set_tag: Callable[[Tensor, Tag], None]
    locate: Callable[[], str]
    literals: list[tuple[str, int, Tensor]] = field(default_factory=list)

    def literal(self, key: str, value: int, atoms: Tensor) -> None:
        """Note a number among the arguments (`groups`, `pad[4]`) that counts these atoms, so it follows a cut."""
        self.literals.append((key, value, atoms))

    def operand(self, value: Any) -> Operand:
        """The shape and labels of one tensor argument; a number is a constant of no axes."""
        if not isinstance(value, Tensor):
            return Operand((), (), "constant")
        tag = self.tag_of(value)
        return Operand(tuple(value.shape), tag.parts, tag.kind, tag.weight)

    def operands(self) -> list[Operand]:
        """All tensor arguments in order, those within lists included."""
        return [self.operand(value) for value in tensors_in((self.args, self.kwargs))]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that may have been given by position or by name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def reason(self, text: str, remedy: str = KEEP_SHAPE) -> Reason:
        """State why channels are left alone at this very place."""
        return Reason(text, self.name, self.module, self.locate(), remedy)

    def pin(self, part: Tensor, text: str) -> None:
        """Leave the channels of a part alone from here on."""
        self.ledger.pins.append((flat(part), self.reason(text)))

    def forbid(self, part: Tensor, axis: int, text: str) -> Tensor | None:
        """State that nothing can be removed along an axis.

        A part that also runs along other axes becomes one unit along this axis and lives on there; a part
        that runs along this axis alone is pinned, and None is returned.
        """
        if part.shape[axis] == 1:
            return part
        if len(long_axes(part)) > 1:
            return self.ledger.tie_along(part, axis)
        self.pin(part, text)
        return None

    def forbid_all(self, parts: Iterable[Tensor], axes: Iterable[int], text: str) -> tuple[Tensor, ...]:
        """`forbid` for several parts and axes; returns the parts that live on."""
        axes = list(axes)
        kept = []
        for part in parts:
            rest: Tensor | None = part
            for axis in axes:
                rest = None if rest is None else self.forbid(rest, axis, text)
            if rest is not None:
                kept.append(rest)
        return tuple(kept)

    def settle(self, operand: Operand, axis: int) -> tuple[list[Tensor], list[Tensor]]:
        """Split the parts into vectors along one axis, each of shape (size,), and those that do not touch it."""
        vectors, rest = [], []
        for part in operand.parts:
            if part.shape[axis] == 1:
                rest.append(part)
            elif len(long_axes(part)) > 1:
                rest.append(self.ledger.tie_along(part, axis))
            else:
                vectors.append(part.reshape(-1))
        return vectors, rest

    def merge(self, operands: Sequence[Operand], skip: int | None = None) -> tuple[Tensor, ...]:
        """Unite what meets position by position, as broadcasting does; `skip` names an axis not to look at."""
        ndim = max((len(operand.shape) for operand in operands), default=0)
        live = [aligned(operand, ndim) for operand in operands if operand.kind != "constant"]
        if any(len(long_axes(part)) > 1 for operand in live for part in operand.parts):
            live = [self._without_tables(operand) for operand in live]
        parts: list[Tensor] = []
        for operand in live:
            earlier = list(parts)
            for part in operand.parts:
                met = [other for other in earlier if overlap(part, other)]
                for other in met:
                    self.ledger.tie(part, other, None)
                if not met:
                    parts.append(part)
        if len(live) < 2:
            return tuple(parts)
        kept = [self._bounded(part, live, skip) for part in parts]
        return tuple(part for part in kept if part is not None)

    def _without_tables(self, operand: Operand) -> Operand:
        """Drop labels that stem from numbers which are not learned, where the axis of the units is still open.

        Such tables (rotary angles) belong to positions, not to channels, so they must not decide that axis.
        """
        tables = [part for part in operand.parts if self.ledger.is_table(part)]
        self.ledger.pins += [(flat(part), None) for part in tables]
        kept = tuple(part for part in operand.parts if not any(part is table for table in tables))
        return Operand(operand.shape, kept, operand.kind, operand.weight)

    def _bounded(self, part: Tensor, operands: Sequence[Operand], skip: int | None) -> Tensor | None:
        """Forbid the axes of a part along which another operand is full-sized and unlabelled."""
        rest: Tensor | None = part
        for operand in operands:
            for axis in long_axes(part):
                labelled = any(other.shape[axis] > 1 for other in operand.parts)
                if axis != skip and operand.shape[axis] > 1 and not labelled and rest is not None:
                    rest = self.forbid(rest, axis, "the channels meet a tensor whose size is fixed")
        return rest

    def give(self, parts: Iterable[Tensor], sources: Sequence[Operand] = (), out: Any = None) -> None:
        """Label the result, made of these operands."""
        kind = common_kind(list(sources)) if sources else "activation"
        weight = next((operand.weight for operand in sources if operand.weight), "") if kind == "weight" else ""
        self.set_tag(self.out if out is None else out, Tag(tuple(parts), kind, weight))

    def give_up(self, text: str) -> None:
        """Pin every channel that enters this operation and label its results as fixed."""
        for operand in self.operands():
            for part in operand.parts:
                self.pin(part, text)
        for tensor in tensors_in(self.out):
            self.set_tag(tensor, FIXED)

    def count(self, macs: int, kind: str, weight: str, vectors: Sequence[Sequence[Tensor]]) -> None:
        """Record multiply-accumulates; `vectors` are the (inner, outer, shared) axes they are proportional to."""
        inner, outer, shared = (tuple(flat(vector) for vector in axis) for axis in vectors)
        layer = (weight.rpartition(".")[0] or weight) if weight else self.module
        self.ledger.macs += macs
        self.ledger.work.append(Work(layer, kind, macs, inner, outer, shared, weight))


def overlap(part: Tensor, other: Tensor) -> bool:
    """Whether two parts of equally many axes share a long one."""
    return any(a > 1 and b > 1 for a, b in zip(part.shape, other.shape, strict=True))


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for item in value for tensor in tensors_in(item)]


def axis_of(axis: int, ndim: int) -> int:
    """A non-negative axis."""
    return axis % ndim if ndim else 0


def axes_of(value: Any, ndim: int) -> list[int]:
    """Axes given as None (all), a number or a list."""
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return list(range(ndim))
    values = [value] if isinstance(value, int) else list(value)
    return [axis_of(axis, ndim) for axis in values]


def elements(shape: Sequence[int]) -> int:
    """How many elements a shape holds."""
    return math.prod(shape)


def common_dtype_call(func: Any, label: Tensor, rest: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Apply an operation to labels; operations that take no integers get floats that hold them exactly."""
    try:
        return func(label, *rest, **kwargs)
    except (RuntimeError, NotImplementedError):
        return torch.utils._pytree.tree_map_only(
            Tensor, lambda tensor: tensor.round().long(), func(label.double(), *rest, **kwargs)
        )
