"""What a network asks of a board, as data: one record for each operator of its ONNX file, in execution order."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeprune.errors import ModelError
from edgeprune.files import write_text

if TYPE_CHECKING:
    import onnx

Kind = Literal[
    "conv",
    "depthwise",
    "linear",
    "matmul",
    "pool",
    "norm",
    "softmax",
    "activation",
    "elementwise",
    "move",
    "view",
    "other",
]
Precision = Literal["fp32", "fp16", "int8"]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"})
_PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"})
_QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_KINDS: Mapping[Kind, frozenset[str]] = {
    "pool": frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "ArgMax"}),
    "norm": frozenset(
        {"BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "LRN"}
    ),
    "softmax": frozenset({"Softmax", "LogSoftmax"}),
    "move": frozenset(
        {"Transpose", "Concat", "Split", "Slice", "Gather", "Pad", "Expand", "Tile", "Resize", "Upsample"}
        | {"DepthToSpace", "SpaceToDepth", "GatherND", "GatherElements", "ScatterND", "Where", "Trilu"}
    ),
    "view": frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"}),
    "other": frozenset(
        {"LSTM", "GRU", "RNN", "TopK", "NonMaxSuppression", "NonZero", "Einsum", "If", "Loop", "Scan", "GridSample"}
        | {"RoiAlign", "DeformConv", "CumSum"}
    ),
}
_KIND_OF = {operator: kind for kind, operators in _KINDS.items() for operator in operators}
# Tensors of shapes and indices are small; larger data is not needed to infer shapes.
_SHAPE_BYTES = 1024


@dataclass(frozen=True)
class LayerWork:
    """One operator: what it reads, multiplies and writes; element counts, because the board chooses their width.

    `reads` are the positions, in the tuple of works, of the operators whose results it reads; the network's own
    inputs are not among them. A convolution counts `positions` of its output over the whole batch (of its input
    where it is transposed), a product the rows of its left factor; `kernel` is the weights of one input and output
    channel. `leaves` says that the result is an output of the network.
    """

    name: str
    operator: str
    kind: Kind
    reads: tuple[int, ...]
    input_elements: int
    output_elements: int
    weight_elements: int = 0
    in_channels: int = 0
    out_channels: int = 0
    groups: int = 1
    kernel: int = 1
    positions: int = 0
    precision: Precision = "fp32"
    leaves: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and products; 0 for everything else."""
        return self.positions * self.kernel * self.out_channels * (self.in_channels // self.groups)

    @property
    def layer(self) -> str:
        """The layer of the network that the operator belongs to: `conv1` of `conv1/Relu:2`."""
        return self.name.partition("/")[0].partition(":")[0]


def works_of_file(path: Path) -> tuple[LayerWork, ...]:
    """Return the works of an ONNX file, or those that `write_works` wrote as `.json`; raises ModelError."""
    if path.suffix != ".json":
        return works_of_onnx(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return tuple(LayerWork(**{**row, "reads": tuple(row["reads"])}) for row in rows)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{path.name} holds no works: {error!r}.") from error


def write_works(works: Sequence[LayerWork], path: Path) -> None:
    """Write works as they are, for an emulated board that is asked about a network that nobody has exported."""
    write_text(path, json.dumps([asdict(work) for work in works]))


def works_of_onnx(path: Path) -> tuple[LayerWork, ...]:
    """Return the work of every operator of an ONNX file; what depends on constants alone is left out.

    Raises ModelError for a file that is no ONNX, or whose sizes are not fixed.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
        shapes = _Tensors.of(_with_shapes(model))
    except (DecodeError, onnx.shape_inference.InferenceError, OSError) as error:
        raise ModelError(f"{path.name} cannot be read as ONNX: {error}.") from error
    if not model.graph.node:
        raise ModelError(f"{path.name} holds no operators; it is no ONNX file of a network.")
    reader = _Reader(shapes, {output.name for output in model.graph.output}, path.name)
    for node in model.graph.node:
        reader.take(node)
    return tuple(reader.works)


def macs_of(works: Iterable[LayerWork]) -> int:
    """Return the multiply-accumulates of a network."""
    return sum(work.macs for work in works)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the shape of every value; the weights' bytes, which shapes do not need, are dropped."""
    import onnx

    known = {info.name for info in model.graph.value_info} | {info.name for info in model.graph.output}
    if all(name in known for node in model.graph.node for name in node.output if name):
        return model
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _SHAPE_BYTES:
            tensor.ClearField("raw_data")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


@dataclass(frozen=True)
class _Tensors:
    """Shapes (None where a size is not fixed) and element types by name, and the names of the constants."""

    shapes: dict[str, tuple[int, ...] | None]
    types: dict[str, int]
    constants: set[str]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Tensors:
        """Collect them from a graph whose shapes are inferred."""
        graph = model.graph
        shapes: dict[str, tuple[int, ...] | None] = {}
        types = {}
        for info in (*graph.input, *graph.value_info, *graph.output):
            tensor = info.type.tensor_type
            fixed = tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim)
            shapes[info.name] = tuple(size.dim_value for size in tensor.shape.dim) if fixed else None
            types[info.name] = tensor.elem_type
        for tensor in graph.initializer:
            shapes[tensor.name] = tuple(tensor.dims)
            types[tensor.name] = tensor.data_type
        return cls(shapes, types, {tensor.name for tensor in graph.initializer})


@dataclass
class _Reader:
    """Walks the nodes once; `sources` names the work that made a value, `quantised` the values that pass as int8."""

    tensors: _Tensors
    outputs: set[str]
    file: str
    works: list[LayerWork] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    quantised: set[str] = field(default_factory=set)

    def take(self, node: onnx.NodeProto) -> None:
        """Add the work of one node; nodes of constants and quantisers are passed through."""
        moving = [name for name in node.input if name and name not in self.tensors.constants]
        if not moving or node.op_type == "Shape":
            self.tensors.constants.update(node.output)
            self.quantised.update(node.output if node.op_type in _QUANTISERS else ())
            return
        if node.op_type in _QUANTISERS:
            self.quantised.add(node.output[0])
            if moving[0] in self.sources:
                self.sources[node.output[0]] = self.sources[moving[0]]
            return
        work = self._work(node, moving)
        for name in node.output:
            self.sources[name] = len(self.works)
        self.works.append(work)

    def _work(self, node: onnx.NodeProto, moving: Sequence[str]) -> LayerWork:
        reads = tuple(dict.fromkeys(self.sources[name] for name in moving if name in self.sources))
        common: dict[str, Any] = {
            "name": node.name or node.output[0],
            "operator": node.op_type,
            "reads": reads,
            "input_elements": sum(map(self._elements, moving)),
            "output_elements": sum(self._elements(name) for name in node.output if name in self.tensors.shapes),
            "precision": self._precision(node, moving),
            "leaves": any(name in self.outputs for name in node.output),
        }
        if node.op_type in _CONVOLUTIONS:
            return LayerWork(**common, **self._convolution(node))
        if node.op_type in _PRODUCTS:
            return LayerWork(**common, **self._product(node))
        constants = [name for name in node.input if name in self.tensors.constants]
        kind = _KIND_OF.get(node.op_type) or ("pool" if node.op_type.startswith("Reduce") else None)
        kind = kind or ("activation" if len(moving) == 1 else "elementwise")
        weights = 0 if kind in ("move", "view") else sum(map(self._elements, constants))
        return LayerWork(**common, kind=kind, weight_elements=weights)

    def _convolution(self, node: onnx.NodeProto) -> dict[str, Any]:
        data, weight = node.input[0], node.input[3 if node.op_type == "QLinearConv" else 1]
        groups = int(next((item.i for item in node.attribute if item.name == "group"), 1))
        shape = self._shape(weight)
        inputs, outputs = self._shape(data)[1], self._shape(node.output[0])[1]
        grid = self._shape(data if node.op_type == "ConvTranspose" else node.output[0])
        return {
            "kind": "depthwise" if 1 < groups == inputs else "conv",
            "weight_elements": math.prod(shape),
            "in_channels": inputs,
            "out_channels": outputs,
            "groups": groups,
            "kernel": math.prod(shape[2:]),
            "positions": grid[0] * math.prod(grid[2:]),
        }

    def _product(self, node: onnx.NodeProto) -> dict[str, Any]:
        left, right = node.input[0], node.input[3 if node.op_type == "QLinearMatMul" else 1]
        output = self._shape(node.output[0])
        flags = {item.name: item.i for item in node.attribute}
        shared = self._shape(left)[0 if flags.get("transA") else -1]
        weights = self._elements(right) if right in self.tensors.constants else 0
        return {
            "kind": "linear" if weights else "matmul",
            "weight_elements": weights,
            "in_channels": shared,
            "out_channels": output[-1],
            "positions": math.prod(output[:-1]),
        }

    def _precision(self, node: onnx.NodeProto, moving: Sequence[str]) -> Precision:
        import onnx

        integer = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
        factors = node.input[:2] if node.op_type in _CONVOLUTIONS | _PRODUCTS else moving
        types = {self.tensors.types.get(name) for name in moving}
        if all(name in self.quantised for name in factors) or types & integer:
            return "int8"
        return "fp16" if onnx.TensorProto.FLOAT16 in types else "fp32"

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self.tensors.shapes.get(name)
        if shape is None:
            raise ModelError(f"The size of {name!r} in {self.file} is not fixed; export it for one input size.")
        return shape

    def _elements(self, name: str) -> int:
        return math.prod(self._shape(name))
