"""Names every node and value of an ONNX graph after the layer of the network that it belongs to.

Engines report times by node or by output value, and fuse what follows a convolution into it. With `conv1`,
`conv1/Add` and `conv1/Relu` as names, the layer of a fused kernel is what stands before the first slash. The names
are also the same in every export of one network, which the exporters' own are not.
"""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass, field

import onnx

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_WEIGHT_SUFFIX = ".weight"
_SCOPES = "pkg.torch.onnx.name_scopes"


def name_by_layer(model: onnx.ModelProto) -> None:
    """Rename nodes and inner values in place, and drop the exporter's notes (paths of source files among them)."""
    graph = model.graph
    if not any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        names = _Names.of(graph)  # a subgraph reads outer values by name, so such graphs keep theirs
        for node in graph.node:
            names.rename(node)
        del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""


@dataclass
class _Names:
    """What has been named so far, walking the nodes in execution order."""

    kept: frozenset[str]  # graph inputs, outputs and initialisers: others know them by name
    layers: dict[str, str]  # by old value name
    met: dict[str, int]  # when each layer was met: a sum belongs to its latest
    values: dict[str, str] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> _Names:
        ends = [value.name for value in (*graph.input, *graph.output)]
        kept = frozenset([*ends, *(tensor.name for tensor in graph.initializer)])
        return cls(kept, {value.name: "input" for value in graph.input}, {"input": 0})

    def rename(self, node: onnx.NodeProto) -> None:
        layer = self._layer_of(node)
        self.met.setdefault(layer, len(self.met))
        label = layer if node.op_type in _WEIGHTED else f"{layer}/{node.op_type}"
        self.used[label] += 1
        label = label if self.used[label] == 1 else f"{label}:{self.used[label]}"
        node.name = label
        for position, value in enumerate(node.input):
            node.input[position] = self.values.get(value, value)
        for position, value in enumerate(node.output):
            self.layers[value] = layer
            if value and value not in self.kept:
                self.values[value] = node.output[position] = f"{label}#{position}" if position else label

    def _layer_of(self, node: onnx.NodeProto) -> str:
        if node.op_type in _WEIGHTED:
            weights = [name for name in node.input if name.endswith(_WEIGHT_SUFFIX)]
            return weights[0].removesuffix(_WEIGHT_SUFFIX) if weights else module_of(node) or node.op_type
        feeding = [self.layers[name] for name in node.input if name in self.layers]
        return max(feeding, key=lambda layer: self.met[layer], default="constant")


def module_of(node: onnx.NodeProto) -> str:
    """Return the innermost module that the exporter's notes say a node comes from, "" where they say none."""
    notes = {note.key: note.value for note in node.metadata_props}
    scopes = ast.literal_eval(notes.get(_SCOPES, "[]"))[:-1]  # the last one is the operation itself
    return next((str(scope) for scope in reversed(scopes) if scope), "")
