"""Sizes written into an exported graph: every number that counts channels follows the cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeprune.errors import ModelError
from edgeprune.network.coupling.call import tensors_in
from edgeprune.network.coupling.ledger import Flags
from edgeprune.network.coupling.ride import FAILURES, Ride, Trace, as_inputs, trace_network
from edgeprune.network.following import alive, expected_shape

_ATEN = torch.ops.aten
_SAME_NAME = {"group": "num_groups"}  # the argument of an operation inside -> that of the operation in the graph


@dataclass(frozen=True)
class NodeRecord:
    """What one node of a graph did: its steps in the record, and its results' shapes and labels."""

    first: int
    last: int
    shapes: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[Tensor, ...], ...]


class _Recorder(fx.Interpreter):
    """Runs a graph node by node and notes what each node did."""

    def __init__(self, graph: fx.GraphModule, ride: Ride) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self.nodes: dict[str, NodeRecord] = {}
        self._ride = ride

    def run_node(self, n: fx.Node) -> Any:
        steps = self._ride.trace.steps
        first = len(steps)
        out = super().run_node(n)
        results = tensors_in(out) if n.op == "call_function" else []
        shapes = tuple(tuple(tensor.shape) for tensor in results)
        parts = tuple(self._ride.tag_of(tensor).parts for tensor in results)
        self.nodes[n.name] = NodeRecord(first, len(steps), shapes, parts)
        return out


def trace_graph(graph: fx.GraphModule, example_inputs: Any) -> tuple[Trace, dict[str, NodeRecord]]:
    """Run a graph once, labels riding along; what each node did, by node name."""
    records: dict[str, NodeRecord] = {}

    def run(model: nn.Module, inputs: Any, ride: Ride) -> Any:
        recorder = _Recorder(graph, ride)
        try:
            out = recorder.run(*as_inputs(inputs))
        except FAILURES as error:
            raise ModelError(f"The graph does not run: {type(error).__name__}: {error}") from error
        records.update(recorder.nodes)
        return out

    return trace_network(graph, example_inputs, run), records


def patch_graph(cut: fx.GraphModule, records: dict[str, NodeRecord], trace: Trace, dead: Flags) -> None:
    """Give every operation of a cut graph the sizes that are left, in place."""
    for node in cut.graph.nodes:
        record = records.get(node.name)
        if node.op != "call_function" or record is None or not isinstance(node.target, torch._ops.OpOverload):
            continue
        wanted = [expected_shape(shape, parts, dead) for shape, parts in zip(record.shapes, record.parts, strict=True)]
        for step in trace.steps[record.first : record.last]:
            for key, value, atoms in step.literals:
                if alive(atoms, dead) != value:
                    _set(node, key, alive(atoms, dead))
        patch = _PATCHES.get(node.target.overloadpacket)
        if patch is not None and list(record.shapes) != wanted:
            patch(node, wanted)
    cut.recompile()


def _set(node: fx.Node, key: str, value: Any) -> None:
    """Change one argument of a node, or one item of it: `groups`, `pad[4]`."""
    name, _, item = key.partition("[")
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    name = _SAME_NAME.get(name, name) if name not in names else name
    if name not in names:
        return
    position = names.index(name)
    if item:
        current = list(node.args[position]) if position < len(node.args) else list(node.kwargs[name])  # type: ignore[arg-type]
        current[int(item.rstrip("]"))] = value
        value = current
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


def _resize(position: int) -> Callable[[fx.Node, Sequence[tuple[int, ...]]], None]:
    """A patch for a list of sizes that are those of the result's last axes."""

    def patch(node: fx.Node, wanted: Sequence[tuple[int, ...]]) -> None:
        sizes = list(node.args[position])  # type: ignore[arg-type]
        last = wanted[0][len(wanted[0]) - len(sizes) :]
        fitted = [new if isinstance(old, int) and old != -1 else old for old, new in zip(sizes, last, strict=True)]
        node.update_arg(position, fitted)

    return patch


def _unflatten(node: fx.Node, wanted: Sequence[tuple[int, ...]]) -> None:
    axis, sizes = int(node.args[1]), list(node.args[2])  # type: ignore[arg-type]
    start = axis if axis >= 0 else len(wanted[0]) - len(sizes) + 1 + axis
    shape = wanted[0][start : start + len(sizes)]
    node.update_arg(2, [new if old != -1 else old for old, new in zip(sizes, shape, strict=True)])


def _split(node: fx.Node, wanted: Sequence[tuple[int, ...]]) -> None:
    axis = int(node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0))  # type: ignore[arg-type]
    node.target = _ATEN.split_with_sizes.default
    node.update_arg(1, [shape[axis] for shape in wanted])


_PATCHES: dict[Any, Callable[[fx.Node, Sequence[tuple[int, ...]]], None]] = {
    _ATEN.view: _resize(1),
    _ATEN.reshape: _resize(1),
    _ATEN._unsafe_view: _resize(1),
    _ATEN.expand: _resize(1),
    _ATEN.layer_norm: _resize(1),
    _ATEN.rms_norm: _resize(1),
    _ATEN.unflatten: _unflatten,
    _ATEN.split: _split,
    _ATEN.chunk: _split,
    _ATEN.split_with_sizes: _split,
}
