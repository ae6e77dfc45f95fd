"""Sizes that a network's own code remembers: found by running the cut copy, and set where an attribute holds them.

The cut copy runs beside the record of the original run. Where a result has another shape than the cut leaves,
some number in the network's code still has its old value. If that number is an attribute of a running module,
setting it moves the first such place further down; otherwise the number is written in the code itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.errors import PlanError
from edgeprune.network.coupling.call import tensors_in
from edgeprune.network.coupling.ledger import Atoms, long_axes
from edgeprune.network.coupling.ride import Step, Trace, as_inputs, evaluating, raised_at

# Operations that come and go with the memory layout; they say nothing about sizes that the next ones do not.
LAYOUT = frozenset({
    "view", "_unsafe_view", "clone", "alias", "detach", "_reshape_alias", "expand", "permute", "transpose", "t",
    "squeeze", "unsqueeze", "as_strided", "as_strided_", "contiguous", "lift_fresh", "_to_copy", "copy_",
})  # fmt: skip
FAILURES = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError, ArithmeticError)
REACH = 6  # how many operations before and after a failure may hold the size that caused it
MOST_PAIRS = 8  # attributes that are tried two at a time

Change = tuple[nn.Module, str, Any]


class FixedSizeError(PlanError):
    """The plan changes a size that the network's own code writes as a number."""


class _WrongShapeError(RuntimeError):
    """A result of the cut copy has another shape than the cut leaves."""


@dataclass
class Failure:
    """Where the cut copy first departs from the record: how far it came, and the frames that were running."""

    step: int
    error: BaseException
    frames: list[FrameType]


def alive(part: Tensor, dead: Atoms) -> int:
    """How many of these atoms are left."""
    return int((~torch.from_numpy(dead)[part]).sum())


def expected_shape(shape: Sequence[int], parts: Sequence[Tensor] | None, dead: Atoms) -> tuple[int, ...]:
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

    def __init__(self, steps: Sequence[Step], dead: Atoms) -> None:
        """Take the record of the original run and the atoms that are gone."""
        super().__init__()
        self.marks = [position for position, step in enumerate(steps) if step.name not in LAYOUT]
        self.at = 0
        self.lost = False
        self._steps, self._dead = steps, dead

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name in LAYOUT or self.lost:
            return out
        step = self._steps[self.marks[self.at]] if self.at < len(self.marks) else None
        if step is None or step.name != name:
            self.lost = True  # other operations ran than before: only errors can tell from here on
            return out
        for tensor, shape, parts in zip(tensors_in(out), step.shapes, step.parts, strict=True):
            wanted = expected_shape(shape, parts, self._dead)
            if parts is not None and tuple(tensor.shape) != wanted:
                raise _WrongShapeError(f"{name} gave {tuple(tensor.shape)} where the cut leaves {wanted}")
        self.at += 1
        return out

    def position(self) -> int:
        """The position in the record of the operation that comes next."""
        return self.marks[self.at] if self.at < len(self.marks) else len(self._steps)


def first_failure(cut: nn.Module, trace: Trace, dead: Atoms, example_inputs: Any) -> Failure | None:
    """Run the cut copy; where it first departs from the record, or None."""
    mode = Beside(trace.steps, dead)
    with evaluating(cut):
        try:
            with mode:
                cut(*as_inputs(example_inputs))
        except FAILURES as error:
            return Failure(mode.position(), error, list(_frames(error.__traceback__)))
    return None


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def follow_sizes(cut: nn.Module, original: nn.Module, trace: Trace, dead: Atoms, example_inputs: Any) -> None:
    """Set the attributes of the cut copy that hold old sizes; raises PlanError where none does."""
    failure = first_failure(cut, trace, dead, example_inputs)
    names = {id(module): name for name, module in cut.named_modules()}
    before = dict(original.named_modules())
    while failure is not None:
        pairs = _pairs(trace, dead, failure.step)
        changes = [
            change
            for module, wanted in _modules(failure, names)
            for change in _changes(module, before[names[id(module)]], wanted, pairs)
        ]
        failure = _tried(cut, changes, failure, (trace, dead, example_inputs))


def _pairs(trace: Trace, dead: Atoms, step: int) -> dict[int, set[int]]:
    """Old sizes near a step of the record, each with what it may become."""
    pairs: dict[int, set[int]] = {}
    for near in trace.steps[max(0, step - REACH) : step + REACH]:
        for shape, parts in zip(near.shapes, near.parts, strict=True):
            for old, new in zip(shape, expected_shape(shape, parts, dead), strict=True):
                if old != new:
                    pairs.setdefault(old, set()).add(new)
        for _, value, atoms in near.literals:
            if alive(atoms, dead) != value:
                pairs.setdefault(value, set()).add(alive(atoms, dead))
    return pairs


def _modules(failure: Failure, names: dict[int, str]) -> Iterator[tuple[nn.Module, frozenset[str]]]:
    """The modules that were running and the names their code reads, the innermost first."""
    for frame in reversed(failure.frames):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and id(module) in names:
            read = frozenset(frame.f_code.co_names)
            yield module, read
            for name, child in module.named_children():
                if name in read:
                    yield child, read


def _changes(module: nn.Module, before: nn.Module, read: frozenset[str], pairs: dict[int, set[int]]) -> Iterator[Change]:
    """Attributes whose original value is an old size, with what they may become."""
    for name, value in vars(before).items():
        if name not in read or isinstance(value, bool):
            continue
        current = vars(module).get(name)
        if isinstance(value, int):
            yield from ((module, name, new) for new in sorted(pairs.get(value, ())) if new != current)
        elif isinstance(value, (tuple, list)):
            for position, item in enumerate(value):
                for new in sorted(pairs.get(item, ()) if isinstance(item, int) else ()):
                    changed = [*current[:position], new, *current[position + 1 :]] if current else []
                    yield module, name, type(value)(changed)


def _tried(cut: nn.Module, changes: list[Change], failure: Failure, facts: tuple[Trace, Atoms, Any]) -> Failure | None:
    """Make the first change, or pair of changes, that takes the copy further; return where it fails then."""
    trace, dead, example_inputs = facts
    pairs = [list(pair) for pair in combinations(changes[:MOST_PAIRS], 2)]
    for attempt in [[change] for change in changes] + pairs:
        old = [(module, name, getattr(module, name)) for module, name, _ in attempt]
        for module, name, value in attempt:
            setattr(module, name, value)
        now = first_failure(cut, trace, dead, example_inputs)
        if now is None or now.step > failure.step:
            return now
        for module, name, value in old:
            setattr(module, name, value)
    raise refusal(trace, dead, failure) from failure.error


def refusal(trace: Trace, dead: Atoms, failure: Failure) -> FixedSizeError:
    """Say which number stands in the way, and where."""
    pairs = _pairs(trace, dead, failure.step)
    sizes = ", ".join(f"{old} to {' or '.join(map(str, sorted(new)))}" for old, new in sorted(pairs.items()))
    step = trace.steps[min(failure.step, len(trace.steps) - 1)]
    return FixedSizeError(
        f"The plan changes a size that the network's own code fixes at {raised_at(failure.error)} "
        f"(near {step.name} in module {step.module or 'the network itself'!r}; sizes that change there: {sizes or 'none'}; "
        f"the copy said: {failure.error}). Leave the groups that are used there whole, read the sizes from the tensors "
        "in the network's code, or cut the exported graph: apply(plan, model, example_inputs, via=\"export\")."
    )


def dead_atoms(of: Atoms, classes: Sequence[int], count: int) -> Atoms:
    """Which atoms are gone when these classes are removed; boolean, one for each atom."""
    gone = np.zeros(count, bool)
    gone[list(classes)] = True
    dead: Atoms = gone[of]
    return dead
