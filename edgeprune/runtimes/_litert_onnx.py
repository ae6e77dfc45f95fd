"""Writes `.tflite` straight from an ONNX of a few operators, in milliseconds where the converter takes seconds.

Enough for the networks of one layer that a latency table is made of. Convolutions run channels last, as the converter
has them; the inputs and outputs of the file stay channels first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # where the axes of channels first go, and back


def write_tflite(onnx_path: Path, out: Path) -> None:
    """Translate every operator; raises ValueError for what is not known here, and for sizes that are not fixed."""
    import onnx

    model = onnx.load(str(onnx_path))
    writer = _Writer(model.graph)
    for node in model.graph.node:
        try:
            writer.translate(node)
        except (KeyError, IndexError) as error:
            raise ValueError(f"{node.op_type} {node.name!r} is written otherwise than expected: {error!r}") from error
    out.write_bytes(writer.finished())


class _Writer:
    """Collects tensors and operators of one subgraph; `_last` names the channels-last twin of a value."""

    def __init__(self, graph: Any) -> None:
        import ai_edge_litert.schema_py_generated as schema
        from onnx import numpy_helper

        self._schema = schema
        self._graph = graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        ends = (*graph.input, *graph.value_info, *graph.output)
        self._shapes = {end.name: tuple(d.dim_value for d in end.type.tensor_type.shape.dim) for end in ends}
        self._tensors: list[Any] = []
        self._buffers = [schema.BufferT()]
        self._codes: list[int] = []
        self._operators: list[Any] = []
        self._index: dict[str, int] = {}
        for end in graph.input:
            self._value(end.name, self._shapes[end.name])

    def translate(self, node: Any) -> None:
        """Add the operators of one ONNX node."""
        translations = {
            "Conv": self._convolution,
            "Gemm": self._linear,
            "Add": self._sum,
            "MatMul": self._product,
            "Softmax": self._softmax,
            "Transpose": self._transposition,
        }
        if node.op_type not in translations:
            raise ValueError(f"the operator {node.op_type} is not known here")
        translations[node.op_type](node, {item.name: item for item in node.attribute})

    def finished(self) -> bytes:
        """Return the file."""
        import flatbuffers

        schema = self._schema
        outputs = [self._first(end.name) for end in self._graph.output]
        subgraph = schema.SubGraphT()
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs, subgraph.outputs = [self._index[end.name] for end in self._graph.input], outputs
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [subgraph], self._buffers
        model.operatorCodes = [self._code(number) for number in self._codes]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _convolution(self, node: Any, attributes: Mapping[str, Any]) -> None:
        schema = self._schema
        weight, groups = self._constants[node.input[1]], attributes["group"].i
        strides, dilations, pads = (list(attributes[name].ints) for name in ("strides", "dilations", "pads"))
        if weight.ndim != 4:
            raise ValueError(f"{node.name!r} is a convolution over {weight.ndim - 2} axes, only two are known here")
        depthwise = groups > 1 and weight.shape[1] == 1 and weight.shape[0] == groups
        data, same = self._padded(self._channels_last(node.input[0]), pads, weight.shape[2:], (strides, dilations))
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        options.strideH, options.strideW = strides
        options.dilationHFactor, options.dilationWFactor = dilations
        if depthwise:
            options.depthMultiplier = 1
        kernel = self._constant(node.input[1], weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1)))
        bias = self._constant(node.input[2], self._constants[node.input[2]])
        outputs = self._shapes_of(node)
        result = self._value(_last(node.output[0]), [outputs[axis] for axis in _LAST])
        name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        self._add(name, (data, kernel, bias), result, (kind, options))

    def _padded(
        self, data: int, pads: Sequence[int], kernel: Sequence[int], steps: tuple[Sequence[int], Sequence[int]]
    ) -> tuple[int, bool]:
        """Return the data with its padding, and whether the operator is to pad by itself, which is rounded its way."""
        import numpy as np

        shape = [int(size) for size in self._tensors[data].shape]
        if not any(pads):
            return data, False
        needed = []
        for size, width, stride, dilation in zip(shape[1:3], kernel, *steps):
            total = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
            needed.append((total // 2, total - total // 2))
        if needed == [(pads[0], pads[2]), (pads[1], pads[3])]:
            return data, True
        rows = np.array([[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]], np.int32)
        result = self._value(f"padded.{len(self._tensors)}", [n + int(sum(row)) for n, row in zip(shape, rows)])
        self._add("PAD", (data, self._constant(f"pads.{rows.tolist()}", rows)), result, ("PadOptions", None))
        return result, False

    def _linear(self, node: Any, attributes: Mapping[str, Any]) -> None:
        if not attributes["transB"].i:
            raise ValueError(f"{node.name!r} is a Gemm without transB")
        weight, bias = (self._constant(name, self._constants[name]) for name in node.input[1:3])
        result = self._value(node.output[0], self._shapes_of(node))
        options = ("FullyConnectedOptions", self._schema.FullyConnectedOptionsT())
        self._add("FULLY_CONNECTED", (self._first(node.input[0]), weight, bias), result, options)

    def _sum(self, node: Any, _: Mapping[str, Any]) -> None:
        """Add channels last where both are at hand so, else as they are."""
        shape = self._shapes_of(node)
        options = ("AddOptions", self._schema.AddOptionsT())
        if all(_last(name) in self._index for name in node.input):
            result = self._value(_last(node.output[0]), [shape[axis] for axis in _LAST])
            self._add("ADD", [self._index[_last(name)] for name in node.input], result, options)
        else:
            self._add("ADD", [self._first(name) for name in node.input], self._value(node.output[0], shape), options)

    def _product(self, node: Any, _: Mapping[str, Any]) -> None:
        result = self._value(node.output[0], self._shapes_of(node))
        options = ("BatchMatMulOptions", self._schema.BatchMatMulOptionsT())
        self._add("BATCH_MATMUL", [self._first(name) for name in node.input], result, options)

    def _softmax(self, node: Any, _: Mapping[str, Any]) -> None:
        options = self._schema.SoftmaxOptionsT()
        options.beta = 1.0
        result = self._value(node.output[0], self._shapes_of(node))
        self._add("SOFTMAX", [self._first(node.input[0])], result, ("SoftmaxOptions", options))

    def _transposition(self, node: Any, attributes: Mapping[str, Any]) -> None:
        result = self._value(node.output[0], self._shapes_of(node))
        self._transpose(self._first(node.input[0]), tuple(attributes["perm"].ints), result)

    def _channels_last(self, name: str) -> int:
        if _last(name) not in self._index:
            shape = self._shapes[name]
            self._transpose(self._index[name], _LAST, self._value(_last(name), [shape[axis] for axis in _LAST]))
        return self._index[_last(name)]

    def _first(self, name: str) -> int:
        if name not in self._index:
            self._transpose(self._index[_last(name)], _FIRST, self._value(name, self._shapes[name]))
        return self._index[name]

    def _transpose(self, data: int, order: Sequence[int], result: int) -> None:
        import numpy as np

        permutation = self._constant(f"order.{order}", np.array(order, np.int32))
        self._add("TRANSPOSE", (data, permutation), result, ("TransposeOptions", self._schema.TransposeOptionsT()))

    def _shapes_of(self, node: Any) -> Sequence[int]:
        shape = self._shapes.get(node.output[0], ())
        if not shape or not all(shape):
            raise ValueError(f"the size of {node.output[0]!r} is not fixed")
        return shape

    def _value(self, name: str, shape: Sequence[int]) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name.encode(), list(shape), 0, 0  # float32
        self._tensors.append(tensor)
        self._index[name] = len(self._tensors) - 1
        return self._index[name]

    def _constant(self, name: str, array: Any) -> int:
        import numpy as np

        key = f"constant.{name}"
        if key not in self._index:
            buffer = self._schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
            self._buffers.append(buffer)
            index = self._value(key, array.shape)
            self._tensors[index].buffer = len(self._buffers) - 1
            if array.dtype == np.int32:
                self._tensors[index].type = self._schema.TensorType.INT32
        return self._index[key]

    def _add(self, name: str, inputs: Sequence[int], output: int, options: tuple[str, Any]) -> None:
        number = getattr(self._schema.BuiltinOperator, name)
        if number not in self._codes:
            self._codes.append(number)
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._codes.index(number)
        operator.inputs, operator.outputs = list(inputs), [output]
        kind, value = options
        operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, kind)
        operator.builtinOptions = getattr(self._schema, f"{kind}T")() if value is None else value
        self._operators.append(operator)

    def _code(self, number: int) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.version = number, 1
        code.deprecatedBuiltinCode = min(number, 127)
        return code


def _last(name: str) -> str:
    return f"{name}.channels-last"
