"""Sizes written into an exported graph: every number that counts channels follows the cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeprune.errors import ExportError
from edgeprune.network.coupling.call import tensors_in
from edgeprune.network.coupling.ledger import Flags
from edgeprune.network.coupling.ride import FAILURES, Ride, Trace, as_inputs, evaluating, trace_network
from edgeprune.network.exported import network_from_exported_program
from edgeprune.network.following import alive, expected_shape

REFUSALS = (*FAILURES, torch._dynamo.exc.TorchDynamoException)
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
        out = recorder.run(*as_inputs(inputs))
        records.update(recorder.nodes)
        return out

    return trace_network(graph, example_inputs, run), records


def exported_network(model: nn.Module, example_inputs: Any) -> fx.GraphModule:
    """The network as a graph of plain operations; raises ExportError where torch.export refuses it.

    The graph takes any batch size where torch.export can follow it, and that of the example inputs otherwise.
    """
    inputs = as_inputs(example_inputs)
    with evaluating(model):
        program = _any_batch(model, inputs)
        if program is None:
            try:
                program = torch.export.export(model, inputs, strict=False)
            except REFUSALS as error:
                raise ExportError(f"torch.export refuses the network: {type(error).__name__}: {error}") from error
        graph = network_from_exported_program(program)
    if not isinstance(graph, fx.GraphModule):
        raise ExportError("The exported program gave no graph.")
    return graph


def _any_batch(model: nn.Module, inputs: tuple[Any, ...]) -> torch.export.ExportedProgram | None:
    """The program with an open first axis; None where the inputs share none or the network fixes it."""
    sizes = {value.shape[0] if value.dim() else 0 for value in inputs if isinstance(value, Tensor)}
    if len(sizes) != 1 or 0 in sizes or not all(isinstance(value, Tensor) for value in inputs):
        return None
    # torch.export takes a size of one for a fixed number, so such a batch is shown to it twice.
    shown = tuple(torch.cat([value, value]) if sizes == {1} else value for value in inputs)
    shapes = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    try:
        program = torch.export.export(model, shown, dynamic_shapes=shapes, strict=False)
        network_from_exported_program(program)(*inputs)
    except REFUSALS:
        return None
    return program


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
