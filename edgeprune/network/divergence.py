"""Finds the first operation at which an exported ONNX graph computes something else than the program it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch.export import ExportedProgram

from edgeprune.errors import VerificationError
from edgeprune.network.layer_names import module_of
from edgeprune.network.onnx_run import Array, run_onnx
from edgeprune.network.parity import check_parity


def first_difference(program: ExportedProgram, model: onnx.ModelProto, inputs: Sequence[torch.Tensor]) -> str | None:
    """Return the module and operation of the first differing value, or None where the names do not match up.

    The exporter names a value after the node of the program that computes it; values it fused away are skipped.
    """
    expected = _program_values(program, inputs)
    found = _onnx_values(model, inputs, frozenset(expected))
    places = {output: node for node in model.graph.node for output in node.output}
    for name, value in found.items():
        try:
            check_parity([expected[name]], [value], name)
        except VerificationError:
            node = places[name]
            return f"{module_of(node) or 'the network itself'} ({node.op_type}, value {name!r})"
    return None


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps every tensor it computes, by node name."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Array] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, torch.Tensor):
            self.values[n.name] = result.detach().numpy().copy()
        return result


def _program_values(program: ExportedProgram, inputs: Sequence[torch.Tensor]) -> Mapping[str, Array]:
    recorder = _Recorder(program.graph_module)
    arguments = [
        program.constants[spec.target] if spec.target in program.constants else program.state_dict[spec.target]
        for spec in program.graph_signature.input_specs
        if spec.target is not None
    ]
    with torch.no_grad():
        recorder.run(*arguments, *inputs)
    return recorder.values


def _onnx_values(model: onnx.ModelProto, inputs: Sequence[torch.Tensor], names: frozenset[str]) -> Mapping[str, Array]:
    """Run the graph unoptimised with every named value as an extra output, in execution order."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    wanted = [output for node in model.graph.node for output in node.output if output in names]
    present = {output.name for output in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in present)
    return dict(zip(wanted, run_onnx(watched, inputs, wanted), strict=True))
