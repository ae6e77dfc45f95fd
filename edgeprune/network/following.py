"""Sizes that a network's own code remembers: found by running the cut copy, and set where an attribute holds them.

The cut copy runs beside the record of the original run. Where a result has another shape than the cut leaves,
some number in the network's code still has its old value. If that number is an attribute of a running module,
setting it moves the first such place further down; otherwise the number is written in the code itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import CodeType, FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.errors import PlanError
from edgeprune.network.coupling.call import tensors_in
from edgeprune.network.coupling.ledger import Atoms, Flags, long_axes
from edgeprune.network.coupling.ride import FAILURES, Step, Trace, evaluating, raised_at
from edgeprune.network.coupling.stand_ins import attributes_kept

# Operations that come and go with the memory layout; they say nothing about sizes that the next ones do not.
LAYOUT = frozenset({
    "view", "_unsafe_view", "clone", "alias", "detach", "_reshape_alias", "expand", "permute", "transpose", "t",
    "squeeze", "unsqueeze", "as_strided", "as_strided_", "contiguous", "lift_fresh", "_to_copy", "copy_",
})  # fmt: skip
PRODUCT = "product"
PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm"})
WINDOW = 8  # how many operations of the record a tolerant run looks ahead
REACH = 6  # how many operations before and after a failure may hold the size that caused it
MOST_PAIRS = 8  # attributes that are tried two at a time

Change = tuple[nn.Module, str, Any]


class FixedSizeError(PlanError):
    """The plan changes a size that the network's own code writes as a number."""


@dataclass(frozen=True)
class Removal:
    """What a plan takes away: for each atom whether it goes, and the position in `groups` of its group, or -1."""

    dead: Flags
    owner: Atoms
    groups: tuple[str, ...]


class _WrongShapeError(RuntimeError):
    """A result of the cut copy has another shape than the cut leaves."""


class _OtherOperationError(RuntimeError):
    """Another operation ran than in the record: a wrong size, or PyTorch chose another way for a smaller one."""


@dataclass
class Failure:
    """Where the cut copy first departs from the record: how far it came, and the frames that were running."""

    step: int
    error: BaseException
    frames: list[FrameType]


def alive(part: Tensor, dead: Flags) -> int:
    """How many of these atoms are left."""
    return int((~torch.from_numpy(dead)[part]).sum())


def expected_shape(shape: Sequence[int], parts: Sequence[Tensor] | None, dead: Flags) -> tuple[int, ...]:
    """The shape that is left of a tensor when dead atoms are gone."""
    gone: dict[int, Tensor] = {}
    for part in parts or ():
        mask = torch.from_numpy(dead)[part]
        if not mask.any():
            continue
        for axis in long_axes(part):
            others = [other for other in range(part.ndim) if other != axis]
            along = mask.flatten() if not others else mask.amin(others)
            if torch.equal(along.reshape([-1 if i == axis else 1 for i in range(part.ndim)]).expand_as(mask), mask):
                gone[axis] = gone.get(axis, torch.zeros_like(along)) | along
    return tuple(size - int(gone[axis].sum()) if axis in gone else size for axis, size in enumerate(shape))


class Beside(TorchDispatchMode):
    """Runs the cut copy beside the record and stops at the first result of another shape."""

    def __init__(self, steps: Sequence[Step], dead: Flags, tolerant: bool) -> None:
        """Take the record of the original run and the atoms that are gone.

        A tolerant run looks a little ahead where other operations run than before.
        """
        super().__init__()  # type: ignore[no-untyped-call]  # of PyTorch
        self._tolerant = tolerant
        self.marks = [position for position, step in enumerate(steps) if step.name not in LAYOUT]
        self.at = 0
        self._kinds = [_kind_of(steps[position].name) for position in self.marks]
        self._steps, self._dead = steps, dead

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        space, _, plain = func._schema.name.partition("::")
        name = _kind_of(plain)
        if space != "prim" and name not in LAYOUT and self._aligned(name):
            self._compare(name, tensors_in(out))
            self.at += 1
        return out

    def _aligned(self, name: str) -> bool:
        """Whether the record goes on with this operation; a tolerant run skips a few, or the operation."""
        ahead = self._kinds[self.at : self.at + (WINDOW if self._tolerant else 1)]
        if name in ahead:
            self.at += ahead.index(name)
            return True
        if not self._tolerant:
            raise _OtherOperationError(f"{name} ran where {ahead[0] if ahead else 'nothing'} ran before the cut")
        return False

    def _compare(self, name: str, results: list[Tensor]) -> None:
        step = self._steps[self.marks[self.at]]
        for tensor, shape, parts in zip(results, step.shapes, step.parts, strict=False):
            wanted = expected_shape(shape, parts, self._dead)
            other_form = name == PRODUCT and tensor.ndim != len(wanted)
            if parts is not None and not other_form and tuple(tensor.shape) != wanted:
                raise _WrongShapeError(f"{step.name} gave {tuple(tensor.shape)} where the cut leaves {wanted}")

    def position(self) -> int:
        """The position in the record of the operation that comes next."""
        return self.marks[self.at] if self.at < len(self.marks) else len(self._steps)


def _kind_of(name: str) -> str:
    """The name of an operation, one name for all that PyTorch chooses between by memory layout."""
    return PRODUCT if name in PRODUCTS else name.removesuffix("_with_sizes")


def first_failure(cut: nn.Module, trace: Trace, dead: Flags) -> Failure | None:
    """Run the cut copy; where it first departs from the record, or None."""
    failure = _run_beside(cut, Beside(trace.steps, dead, tolerant=False), trace.inputs)
    if failure is not None and isinstance(failure.error, _OtherOperationError):
        tolerant = _run_beside(cut, Beside(trace.steps, dead, tolerant=True), trace.inputs)
        failure = None if tolerant is None else Failure(failure.step, tolerant.error, failure.frames)
    return failure


def _run_beside(cut: nn.Module, mode: Beside, inputs: tuple[Any, ...]) -> Failure | None:
    with evaluating(cut), attributes_kept(cut):
        try:
            with mode:
                cut(*inputs)
        except FAILURES as error:
            return Failure(mode.position(), error, list(_frames(error.__traceback__)))
    return None


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def follow_sizes(cut: nn.Module, original: nn.Module, trace: Trace, gone: Removal) -> None:
    """Set the attributes of the cut copy that hold old sizes; raises FixedSizeError where none does."""
    failure = first_failure(cut, trace, gone.dead)
    if failure is None:
        return
    search = Search(cut, original, trace, gone)
    while failure is not None:
        failure = _tried(search, list(search.changes(failure)), failure)


@dataclass
class Sizes:
    """Old sizes, each with what it may become: single numbers, and the sizes of consecutive ranges."""

    numbers: dict[int, set[int]] = field(default_factory=dict)
    ranges: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)

    def note(self, step: Step, dead: Flags) -> None:
        """Add the sizes that an operation of the record changes."""
        shapes = [expected_shape(shape, parts, dead) for shape, parts in zip(step.shapes, step.parts, strict=True)]
        for shape, wanted in zip(step.shapes, shapes, strict=True):
            self._pairs(zip(shape, wanted, strict=True))
        self._pairs((value, alive(atoms, dead)) for _, value, atoms in step.literals)
        if len(shapes) > 1 and all(len(shape) == len(shapes[0]) for shape in shapes):
            for old, new in zip(zip(*step.shapes, strict=True), zip(*shapes, strict=True), strict=True):
                if old != new:
                    self.ranges[old] = new

    def _pairs(self, pairs: Iterable[tuple[int, int]]) -> None:
        for old, new in pairs:
            if old != new:
                self.numbers.setdefault(old, set()).add(new)

    def replacements(self, value: Any) -> Iterator[Any]:
        """What an attribute of this original value may become."""
        if isinstance(value, bool):
            return
        if isinstance(value, int):
            yield from sorted(self.numbers.get(value, ()))
        elif isinstance(value, (tuple, list)) and all(isinstance(item, int) for item in value):
            if tuple(value) in self.ranges:
                yield type(value)(self.ranges[tuple(value)])
            for position, item in enumerate(value):
                for new in sorted(self.numbers.get(item, ())):
                    yield type(value)([*value[:position], new, *value[position + 1 :]])


class Search:
    """Looks for the attributes of a cut copy that still hold old sizes."""

    def __init__(self, cut: nn.Module, original: nn.Module, trace: Trace, gone: Removal) -> None:
        """Take the copy, the network that it was cut from, the record of its run and what is gone."""
        self.root, self.trace, self.gone = cut, trace, gone
        self.dead = gone.dead
        self._modules = dict(cut.named_modules())
        self._names = {id(module): name for name, module in self._modules.items()}
        self._before = dict(original.named_modules())

    def near(self, step: int) -> Sizes:
        """The sizes that change near a step of the record."""
        sizes = Sizes()
        for other in self.trace.steps[max(0, step - REACH) : step + REACH]:
            sizes.note(other, self.dead)
        return sizes

    def inside(self, name: str) -> Sizes:
        """The sizes that change in operations that a module runs itself."""
        sizes = Sizes()
        for step in self.trace.steps:
            if step.module == name:
                sizes.note(step, self.dead)
        return sizes

    def changes(self, failure: Failure) -> Iterator[Change]:
        """Attributes read where the copy failed whose original value is an old size, and what they may become."""
        sizes = self.near(failure.step)
        for module, read in self._running(failure):
            for name, value in vars(self._before[self._names[id(module)]]).items():
                if name in read:
                    for new in sizes.replacements(value):
                        if new != vars(module).get(name):
                            yield module, name, new

    def _running(self, failure: Failure) -> Iterator[tuple[nn.Module, frozenset[str]]]:
        """The modules that were running and the names their code reads, the innermost first."""
        for frame in reversed(failure.frames):
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and id(module) in self._names:
                read = frozenset(_names_read(frame.f_code))
                yield module, read
                yield from ((child, read) for name, child in module.named_children() if name in read)

    def likewise(self, change: Change) -> list[Change]:
        """The same attribute of other modules of the same class, where their own operations say what it becomes."""
        module, attribute, _ = change
        found = []
        for name, other in self._modules.items():
            value = vars(self._before[name]).get(attribute) if name in self._before else None
            if type(other) is not type(module) or other is module or vars(other).get(attribute) != value:
                continue
            options = list(self.inside(name).replacements(value))
            if len(options) == 1:
                found.append((other, attribute, options[0]))
        return found


def _names_read(code: CodeType) -> Iterator[str]:
    """The names that a function reads, those of functions and comprehensions inside it included."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_read(inner)


def _tried(search: Search, changes: list[Change], failure: Failure) -> Failure | None:
    """Make the first change, or pair of changes, that takes the copy further; return where it fails then."""
    pairs = [list(pair) for pair in combinations(changes[:MOST_PAIRS], 2)]
    for attempt in [[change] for change in changes] + pairs:
        old = [(module, name, getattr(module, name)) for module, name, _ in attempt]
        _make(attempt)
        now = first_failure(search.root, search.trace, search.dead)
        if now is None:
            return None
        if now.step > failure.step:
            others = [other for change in attempt for other in search.likewise(change)]
            _make(others)
            return first_failure(search.root, search.trace, search.dead) if others else now
        _make(old)
    raise refusal(search.trace, search.gone, failure) from failure.error


def _make(changes: list[Change]) -> None:
    for module, name, value in changes:
        setattr(module, name, value)


def refusal(trace: Trace, gone: Removal, failure: Failure) -> FixedSizeError:
    """Say which number stands in the way, where, and which groups it belongs to."""
    near = Sizes()
    for other in trace.steps[max(0, failure.step - REACH) : failure.step + REACH]:
        near.note(other, gone.dead)
    sizes = ", ".join(f"{old} to {' or '.join(map(str, sorted(new)))}" for old, new in sorted(near.numbers.items()))
    step = trace.steps[min(failure.step, len(trace.steps) - 1)]
    quoted = '"export"'
    return FixedSizeError(
        f"The plan changes a size that the network's own code fixes at {raised_at(failure.error)} "
        f"(near {step.name} in module {step.module or 'the network itself'!r}; sizes that change there: "
        f"{sizes or 'none'}; the copy said: {failure.error}). Nothing was cut. Leave the groups that are used there "
        f"whole ({_used_before(trace, gone, failure.step)}), read the sizes from the tensors in the network's code, "
        f"or cut the exported graph: apply(plan, model, example_inputs, via={quoted})."
    )


def _used_before(trace: Trace, gone: Removal, position: int) -> str:
    """The groups that lose units of the last result before a step that loses any."""
    for step in reversed(trace.steps[:position]):
        atoms = [part.reshape(-1).numpy() for parts in step.parts for part in parts or ()]
        owners = np.unique(np.concatenate([gone.owner[some] for some in atoms])) if atoms else np.zeros(0, np.int64)
        if owners.size and owners[-1] >= 0:
            return ", ".join(repr(gone.groups[owner]) for owner in owners[owners >= 0])
    return "none is known"
