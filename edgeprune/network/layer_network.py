"""Networks of one layer, for measuring it alone; weights are noise, because latency does not depend on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F

from edgeprune.bench.layer_shape import LayerShape

_OPSET = 18
_IR_VERSION = 10
_CALIBRATION_RUNS = 2
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def input_shapes(shape: LayerShape) -> tuple[tuple[int, ...], ...]:
    """The shapes of the inputs that the layer's own network takes; every copy of an attention has inputs of its own."""
    if shape.operator == "linear":
        return ((*shape.size, shape.inputs),)
    if shape.operator == "attention":
        queries, keys, width = shape.size
        heads = shape.inputs
        return ((1, heads, queries, width), (1, heads, keys, width), (1, heads, keys, width)) * shape.copies
    return ((1, shape.inputs, *shape.size),)


def layer_samples(shape: LayerShape) -> tuple[tuple[np.ndarray[Any, Any], ...], ...]:
    """Return noise as the inputs of a few inferences, for a precision that is calibrated; ranges do not cost time."""
    generator = np.random.default_rng(0)
    shapes = input_shapes(shape)
    return tuple(
        tuple(generator.standard_normal(sizes, dtype=np.float32) for sizes in shapes) for _ in range(_CALIBRATION_RUNS)
    )


def write_layer_program(shape: LayerShape, path: Path) -> None:
    """Write the sum of the layer's copies as an exported program (`.pt2`)."""
    inputs = tuple(torch.zeros(sizes) for sizes in input_shapes(shape))
    with torch.no_grad():
        torch.export.save(torch.export.export(_Copies(shape).eval(), inputs), path)


class _Copies(nn.Module):
    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_module(shape) for _ in range(shape.copies))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        own = len(inputs) // len(self.layers)  # 0 where all copies read the same
        total: torch.Tensor = self.layers[0](*inputs[: own or None])
        for index, layer in enumerate(list(self.layers)[1:], start=1):
            total = layer(*inputs[index * own : (index + 1) * own or None]) + total
        return total


def _module(shape: LayerShape) -> nn.Module:
    if shape.operator == "linear":
        return nn.Linear(shape.inputs, shape.outputs)
    if shape.operator == "attention":
        return _Attention()
    kinds = _TRANSPOSED if shape.transposed else _CONVOLUTIONS
    return kinds[len(shape.kernel)](
        shape.inputs,
        shape.outputs,
        shape.kernel,  # type: ignore[arg-type]  # as many numbers as the convolution has dimensions
        shape.stride,  # type: ignore[arg-type]
        shape.padding,  # type: ignore[arg-type]
        dilation=shape.dilation,  # type: ignore[arg-type]
        groups=shape.groups,
    )


class _Attention(nn.Module):
    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value)


def write_layer_onnx(shape: LayerShape, path: Path) -> None:
    """Write the sum of the layer's copies as ONNX; engines fuse the additions, and no exporter is needed for them."""
    inputs = [_value(f"input_{index}", sizes) for index, sizes in enumerate(input_shapes(shape))]
    nodes: list[onnx.NodeProto] = []
    for copy in range(shape.copies):
        nodes += _NODES.get(shape.operator, _convolution_nodes)(shape, copy)
        if copy:
            addends = [f"copy_{copy}.out", f"total_{copy - 1}" if copy > 1 else "copy_0.out"]
            nodes.append(helper.make_node("Add", addends, [f"total_{copy}"], name=f"copy_{copy}/Add"))
    output = nodes[-1].output[0]
    graph = helper.make_graph(nodes, "layer", inputs, [_value(output, None)], _weights(shape))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)


def _value(name: str, sizes: Sequence[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)


def _weights(shape: LayerShape) -> list[onnx.TensorProto]:
    """All copies share their weights, for small files; other biases keep engines from leaving one out."""
    if shape.operator == "attention":
        return []
    sizes: tuple[int, ...] = (shape.outputs, shape.inputs // shape.groups, *shape.kernel)
    if shape.transposed:
        sizes = (shape.inputs, shape.outputs // shape.groups, *shape.kernel)
    biases = [_noise(f"bias_{copy}", (shape.outputs,), copy + 1) for copy in range(shape.copies)]
    return [_noise("weight", sizes, 0), *biases]


def _convolution_nodes(shape: LayerShape, copy: int) -> list[onnx.NodeProto]:
    node = helper.make_node(
        "ConvTranspose" if shape.transposed else "Conv",
        ["input_0", "weight", f"bias_{copy}"],
        [f"copy_{copy}.out"],
        name=f"copy_{copy}",
        kernel_shape=shape.kernel,
        strides=shape.stride,
        pads=(*shape.padding, *shape.padding),
        dilations=shape.dilation,
        group=shape.groups,
    )
    return [node]


def _linear_nodes(shape: LayerShape, copy: int) -> list[onnx.NodeProto]:
    name, operands = f"copy_{copy}", ["input_0", "weight", f"bias_{copy}"]
    return [helper.make_node("Gemm", operands, [f"{name}.out"], name=name, transB=1)]


def _attention_nodes(shape: LayerShape, copy: int) -> list[onnx.NodeProto]:
    name = f"copy_{copy}"
    query, key, value = (f"input_{3 * copy + index}" for index in range(3))
    turned, scores, weights = f"{name}.turned", f"{name}.scores", f"{name}.weights"
    return [
        helper.make_node("Transpose", [key], [turned], name=f"{name}/Transpose", perm=(0, 1, 3, 2)),
        helper.make_node("MatMul", [query, turned], [scores], name=name),
        helper.make_node("Softmax", [scores], [weights], name=f"{name}/Softmax", axis=-1),
        helper.make_node("MatMul", [weights, value], [f"{name}.out"], name=f"{name}/MatMul"),
    ]


def _noise(name: str, sizes: Sequence[int], seed: int) -> onnx.TensorProto:
    values = torch.randn(tuple(sizes), generator=torch.Generator().manual_seed(seed)) * 0.1
    return onnx.numpy_helper.from_array(values.numpy(), name)


_NODES = {"linear": _linear_nodes, "attention": _attention_nodes}
