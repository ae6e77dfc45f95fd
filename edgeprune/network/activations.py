"""Computes the bytes of activations that a network needs at once, from the lifetimes of its tensors in one run.

A tensor lives from the operation that writes it to the last one that reads it. A view shares the memory of its
tensor, and a pointwise operation or a batch norm writes over an input that nothing reads afterwards, as engines
do. Weights, and what is computed from weights alone, do not count. What an engine packs, pads or keeps in an arena
comes on top: this is what the network needs, not what a process takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.network.coupling.call import tensors_in
from edgeprune.network.coupling.ledger import flat, long_axes
from edgeprune.network.coupling.ride import Ride, Trace, as_inputs, evaluating, forward, outputs_in, trace_network
from edgeprune.network.coupling.rules import RULES
from edgeprune.network.coupling.rules_pointwise import pointwise
from edgeprune.network.coupling.solve import Solution
from edgeprune.network.groups import Structure
from edgeprune.network.moments import Moment
from edgeprune.network.structure import structure_and_solution

# Besides pointwise operations, those that need only a row of their input to write the same row of their result.
_ROW_BY_ROW = ("batch_norm", "batch_norm_legit_no_training", "softmax", "layer_norm")


@dataclass(frozen=True)
class _Written:
    """One operation: which buffers it reads and which new ones it writes, by result."""

    name: str
    reads: tuple[int, ...]
    writes: tuple[tuple[int, int], ...]  # (position among the results, buffer)
    in_place: bool


class _Watch(TorchDispatchMode):
    """Notes which memory every operation reads and writes."""

    def __init__(self, model: nn.Module, inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of PyTorch
        self.operations: list[_Written] = []
        self.sizes: list[int] = []
        # NOTE: an address is given out again after its tensor has died, so the latest buffer there is meant.
        self._at: dict[int, int | None] = {_address(tensor): None for tensor in (*model.parameters(), *model.buffers())}
        self.inputs = [self._new(tensor) for tensor in inputs]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_address(tensor): tensor for tensor in tensors_in((args, kwargs or {}))}
        out = func(*args, **(kwargs or {}))
        reads = tuple(buffer for at in given if (buffer := self._at.get(at)) is not None)
        writes = []
        for position, tensor in enumerate(tensors_in(out)):
            if _address(tensor) in given or not tensor.numel():
                continue
            if reads:
                writes.append((position, self._new(tensor)))
            else:
                self._at[_address(tensor)] = None  # made of weights alone: engines compute it beforehand
        name = func._schema.name.partition("::")[2]
        in_place = RULES.find(name, func) is pointwise or name.endswith(_ROW_BY_ROW)
        self.operations.append(_Written(name, reads, tuple(writes), in_place))
        return out

    def buffers_of(self, tensors: Iterable[Tensor]) -> list[int]:
        """The buffers behind tensors."""
        return [buffer for tensor in tensors if (buffer := self._at.get(_address(tensor))) is not None]

    def _new(self, tensor: Tensor) -> int:
        # NOTE: not the size of its storage: an example input may be a view of a whole batch.
        self.sizes.append(tensor.numel() * tensor.element_size())
        self._at[_address(tensor)] = len(self.sizes) - 1
        return len(self.sizes) - 1


def activation_bytes(model: nn.Module, example_inputs: Any) -> int:
    """Return the bytes of activations that one inference on the example inputs needs at once.

    Raises ModelError where the network fails on the inputs.
    """
    with evaluating(model):
        watch = _Watch(model, tensors_in(example_inputs))
        with watch:
            out = forward(model, as_inputs(example_inputs))
        alive = _alive(watch, watch.buffers_of(outputs_in(out)))
    return max((sum(watch.sizes[buffer] for buffer in buffers) for buffers in alive), default=0)


def activation_moments(model: nn.Module, example_inputs: Any) -> tuple[Moment, ...]:
    """Return every moment of an inference that some allocation can make the one that needs most.

    Where several axes of one tensor follow groups, only the first is taken to shrink; where a tensor holds some
    units of a group, their mean number. Raises ModelError as above.
    """
    watches: list[tuple[_Watch, list[int]]] = []

    def watched(model: nn.Module, example_inputs: Any, _: Ride) -> Any:
        watch = _Watch(model, tensors_in(example_inputs))
        with watch:
            out = forward(model, example_inputs)
        watches.append((watch, watch.buffers_of(outputs_in(out))))
        return out

    trace = trace_network(model, example_inputs, watched)
    ((watch, outputs),) = watches
    structure, solution = structure_and_solution(trace)
    sizes = _sizes_by_group(watch, trace, structure, solution)
    moments = [
        _moment(operation.name, buffers, sizes)
        for operation, buffers in zip(watch.operations, _alive(watch, outputs), strict=True)
    ]
    return _undominated(moments, {group.name: group.size for group in structure.groups})


def _alive(watch: _Watch, outputs: Sequence[int]) -> list[list[int]]:
    """The buffers in memory during each operation, one for each memory that is written over."""
    last = dict.fromkeys(watch.inputs, 0)
    for place, operation in enumerate(watch.operations):
        last.update(dict.fromkeys((*operation.reads, *(buffer for _, buffer in operation.writes)), place))
    last.update(dict.fromkeys(outputs, len(watch.operations)))
    alive, now = [], set(watch.inputs)
    for place, operation in enumerate(watch.operations):
        dying = [buffer for buffer in operation.reads if last[buffer] == place]
        for _, buffer in operation.writes:
            over = next((old for old in dying if watch.sizes[old] == watch.sizes[buffer]), None)
            if operation.in_place and over is not None:
                dying.remove(over)
                now.discard(over)
            now.add(buffer)
        alive.append(sorted(now))
        now = {buffer for buffer in now if last[buffer] > place}
    return alive


def _sizes_by_group(
    watch: _Watch, trace: Trace, structure: Structure, solution: Solution
) -> list[tuple[float, Mapping[str, float]]]:
    """For each buffer its fixed bytes, and its bytes for each kept unit of a group."""
    home = np.full(solution.classes.count, -1, np.int64)
    bundles = [bundle for bundle in solution.bundles if len(bundle.classes) > 1]
    for place, bundle in enumerate(bundles):
        home[bundle.classes] = place
    owners = home[solution.classes.of]
    sizes: list[tuple[float, Mapping[str, float]]] = [(float(size), {}) for size in watch.sizes]
    for operation, step in zip(watch.operations, trace.steps, strict=True):
        for position, buffer in operation.writes:
            parts = step.parts[position] or ()
            axis = next((flat(part) for part in parts if len(long_axes(part)) == 1), None)
            if axis is None:
                continue
            places, counts = np.unique(owners[axis], return_counts=True)
            each = watch.sizes[buffer] / len(axis)
            units = {
                structure.groups[place].name: each * count / structure.groups[place].size
                for place, count in zip(places.tolist(), counts.tolist(), strict=True)
                if place >= 0
            }
            fixed = each * int(counts[places < 0].sum())
            sizes[buffer] = (fixed, units)
    return sizes


def _moment(name: str, buffers: Sequence[int], sizes: Sequence[tuple[float, Mapping[str, float]]]) -> Moment:
    units: dict[str, float] = defaultdict(float)
    for buffer in buffers:
        for group, size in sizes[buffer][1].items():
            units[group] += size
    return Moment(name, sum(sizes[buffer][0] for buffer in buffers), dict(units))


def _undominated(moments: Sequence[Moment], whole: Mapping[str, int]) -> tuple[Moment, ...]:
    """Drop every moment that another one exceeds or equals whatever is kept."""
    kept: list[Moment] = []
    for moment in sorted(moments, key=lambda moment: -moment.bytes_with(whole)):
        if not any(_covers(other, moment) for other in kept):
            kept.append(moment)
    return tuple(kept)


def _covers(larger: Moment, smaller: Moment) -> bool:
    return larger.fixed_bytes >= smaller.fixed_bytes and all(
        larger.unit_bytes.get(group, 0.0) >= size for group, size in smaller.unit_bytes.items()
    )


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
