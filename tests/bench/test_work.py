from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Concatenated, Depthwise, Plain, Residual
from torch import nn

from edgeprune.bench.work import LayerWork, macs_of, works_of_onnx
from edgeprune.errors import ModelError
from edgeprune.network.counting import count_macs
from edgeprune.network.export import export_network

_HEAD = '<ir_version: 8, opset_import: ["" : 17]> '


def works_of(text, tmp_path) -> tuple[LayerWork, ...]:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(_HEAD + text), path)
    return works_of_onnx(path)


@pytest.mark.parametrize("network", [Plain(), Residual(), Depthwise(), Concatenated()], ids=lambda n: type(n).__name__)
def test_the_work_of_a_network_is_what_the_network_counts(network, tmp_path):
    inputs = (torch.zeros(2, 3, 8, 8),)
    works = works_of_onnx(export_network(network.eval(), inputs, tmp_path, simplify=False).onnx)
    layers = {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert macs_of(works) == count_macs(network, inputs)
    assert {work.layer for work in works if work.macs} == layers
    assert [work.leaves for work in works] == [False] * (len(works) - 1) + [True]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the old exporter is quick, and ONNX all the same
@settings(max_examples=20, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    width=st.integers(1, 5),
    transposed=st.booleans(),
)
def test_a_convolution_multiplies_what_pytorch_does(tmp_path_factory, groups, kernel, stride, width, transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(8, 4 * width, kernel, stride, padding=kernel // 2, groups=groups)
    shape = (1, 8, 6, 6)
    path = tmp_path_factory.mktemp("conv") / "conv.onnx"
    torch.onnx.export(layer, (torch.zeros(shape),), str(path), dynamo=False)
    (work,) = works_of_onnx(path)
    positions = 36 if transposed else layer(torch.zeros(shape))[0, 0].numel()
    assert work.macs == layer.weight.numel() * positions
    assert work.weight_elements == layer.weight.numel()
    assert (work.kernel, work.groups, work.out_channels) == (kernel**2, groups, 4 * width)


def test_order_kinds_and_who_reads_whom(tmp_path):
    works = works_of(
        """agraph (float[2, 6, 4, 4] x) => (float[2, 6] y)
        <float[6, 1, 3, 3] w = {0}> {
            a = Conv<group = 6, pads = [1, 1, 1, 1]>(x, w)
            b = Relu(a)
            c = Add(b, x)
            d = GlobalAveragePool(c)
            y = Flatten(d)
        }""".replace("{0}", "{" + ", ".join(["0"] * 54) + "}"),
        tmp_path,
    )
    assert [work.kind for work in works] == ["depthwise", "activation", "elementwise", "pool", "view"]
    assert [work.reads for work in works] == [(), (0,), (1,), (2,), (3,)]
    assert works[0].macs == 9 * 6 * 2 * 16
    assert works[2].input_elements == 2 * 2 * 6 * 16
    assert works[3].output_elements == 12


def test_attention_multiplies_two_results(tmp_path):
    works = works_of(
        """agraph (float[1, 3, 5, 8] q, float[1, 3, 8, 7] k, float[8, 4] w)
        => (float[1, 3, 5, 7] y, float[1, 3, 5, 4] z)
        { s = MatMul(q, k)  y = Softmax(s)  z = MatMul(q, w) }""",
        tmp_path,
    )
    assert [(work.kind, work.macs, work.weight_elements) for work in works] == [
        ("matmul", 3 * 5 * 8 * 7, 0),
        ("softmax", 0, 0),
        ("matmul", 3 * 5 * 8 * 4, 0),
    ]


def test_what_depends_on_constants_alone_is_no_work(tmp_path):
    works = works_of(
        """agraph (float[2, 3] x) => (float[2, 3] y)
        <float[3] w = {1, 2, 3}> { s = Shape(x)  v = Exp(w)  r = Reshape(x, s)  y = Mul(r, v) }""",
        tmp_path,
    )
    assert [work.operator for work in works] == ["Reshape", "Mul"]
    assert works[1].kind == "activation"
    assert works[1].weight_elements == 3


@pytest.mark.parametrize(("quantised", "precision"), [(True, "int8"), (False, "fp32")])
def test_between_quantisers_a_product_is_int8(tmp_path, quantised, precision):
    step = "a = QuantizeLinear(x, s, z)  b = DequantizeLinear(a, s, z)" if quantised else "b = Identity(x)"
    works = works_of(
        f"""agraph (float[2, 3] x) => (float[2, 2] y)
        <float s = {{0.1}}, int8 z = {{0}}, int8[3, 2] w = {{1, 2, 3, 4, 5, 6}}>
        {{ {step}  v = DequantizeLinear(w, s, z)  y = MatMul(b, v) }}""",
        tmp_path,
    )
    assert (works[-1].kind, works[-1].precision, works[-1].weight_elements) == ("linear", precision, 6)
    assert works[-1].reads == (() if quantised else (0,))


def test_sizes_that_are_not_fixed_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"The size of '\w' in model.onnx is not fixed; export it for one input size"):
        works_of("agraph (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }", tmp_path)


@pytest.mark.parametrize("content", [b"", b"this is no network"])
def test_a_file_that_is_no_onnx_is_refused(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken.onnx"):
        works_of_onnx(path)
    with pytest.raises(ModelError, match=r"gone.onnx cannot be read"):
        works_of_onnx(Path(tmp_path / "gone.onnx"))
