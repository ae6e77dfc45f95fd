"""Inputs without numbers: on them a run costs the same however much a network computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

# Above this many multiply-accumulates of real numbers a run starts anew without numbers.
MOST_MACS = 4 * 10**10


class HeavyRunError(Exception):
    """The network computes so much that its numbers are better left out."""


class NumbersNeededError(RuntimeError):
    """A number that depends on the inputs would be lost."""


def stand_ins(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs with shapes and types alone; whoever looks at one of their numbers raises an error."""
    # Parameters, buffers and what the network makes from nothing keep their numbers.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    found: tuple[Any, ...] = _replaced(inputs, mode)
    return found


def _replaced(value: Any, mode: FakeTensorMode) -> Any:
    if isinstance(value, Tensor):
        return mode.from_tensor(value)
    if isinstance(value, (tuple, list)):
        return tuple(_replaced(item, mode) for item in value)
    if isinstance(value, dict):
        return {key: _replaced(item, mode) for key, item in value.items()}
    return value


def refuse_lost_numbers(target: Any, result: Any) -> None:
    """Raise NumbersNeededError where an operation has written stand-ins into a tensor of real numbers."""
    if isinstance(result, FakeTensor) and isinstance(target, Tensor) and not isinstance(target, FakeTensor):
        raise NumbersNeededError("numbers that depend on the inputs are written into a tensor made before")


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Put back whatever a run stores in the modules, so that no stand-in stays behind."""
    holders = [holder for module in model.modules() for holder in (vars(module), *_containers(module))]
    before = [(holder, holder.copy()) for holder in holders]
    try:
        yield
    finally:
        for holder, content in before:
            holder.clear()
            if isinstance(holder, dict):
                holder.update(content)
            else:
                holder.extend(content)


def _containers(module: nn.Module) -> list[Any]:
    return [value for value in vars(module).values() if type(value) in (dict, list)]
