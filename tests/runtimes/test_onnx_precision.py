from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from small_networks import Depthwise, Residual, randomise

from edgeprune import registry
from edgeprune.contracts import BuildRequest
from edgeprune.network.export import export_network
from edgeprune.network.onnx_run import run_samples
from edgeprune.network.parity import check_parity
from edgeprune.runtimes._onnx_precision import AFFINE, SYMMETRIC, write_half, write_half_weights, write_int8

SAMPLES = [(torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).numpy(),) for seed in range(24)]


@pytest.fixture(scope="module", params=[Residual, Depthwise])
def full(request, tmp_path_factory):
    """A file at full precision, with batch norms that are still to be folded."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    return export_network(randomise(request.param()), (torch.zeros(1, 3, 16, 16),), folder, simplify=False).onnx


def constants(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def snr_db(full, lowered):
    return check_parity(run_samples(full, SAMPLES), run_samples(lowered, SAMPLES), "lowered", "int8").snr_db


def ends(path):
    graph = onnx.load(path).graph
    return [(end.name, end.type.tensor_type.elem_type) for end in (*graph.input, *graph.output)]


def test_half_precision_computes_in_float16_between_float32_ends(full, tmp_path):
    write_half(full, tmp_path / "half.onnx")
    floats = [array for array in constants(tmp_path / "half.onnx").values() if array.dtype.kind == "f"]
    assert floats
    assert {array.dtype.name for array in floats} == {"float16"}
    assert ends(tmp_path / "half.onnx") == ends(full)
    assert snr_db(full, tmp_path / "half.onnx") > 45


def test_half_weights_are_half_the_bytes_and_float32_arithmetic(full, tmp_path):
    write_half_weights(full, tmp_path / "half.onnx")
    before, after = constants(full), constants(tmp_path / "half.onnx")
    wide = [name for name, array in before.items() if array.ndim >= 2]
    assert wide
    for name in wide:
        np.testing.assert_array_equal(after[f"{name}.half"], before[name].astype(np.float16))
    assert ends(tmp_path / "half.onnx") == ends(full)
    assert snr_db(full, tmp_path / "half.onnx") > 45


def test_the_engine_widens_half_weights_when_it_loads(full, tmp_path):
    write_half_weights(full, tmp_path / "half.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "seen.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(tmp_path / "half.onnx", options, providers=["CPUExecutionProvider"])
    assert "Cast" not in {node.op_type for node in onnx.load(tmp_path / "seen.onnx").graph.node}


def test_symmetric_int8_is_what_tensorrt_takes(full, tmp_path):
    write_int8(full, tmp_path / "int8.onnx", SAMPLES, SYMMETRIC)
    found = constants(tmp_path / "int8.onnx")
    zero_points = [array for name, array in found.items() if name.endswith("zero_point")]
    assert zero_points
    assert all(array.dtype == np.int8 and not array.any() for array in zero_points)
    assert not [name for name, array in found.items() if array.dtype == np.int32 and array.size > 1]  # biases
    assert ends(tmp_path / "int8.onnx") == ends(full)
    assert snr_db(full, tmp_path / "int8.onnx") > 20


def test_affine_int8_becomes_integer_kernels_on_the_processor(full, tmp_path):
    write_int8(full, tmp_path / "int8.onnx", SAMPLES, AFFINE)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "seen.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(tmp_path / "int8.onnx", options, providers=["CPUExecutionProvider"])
    seen = {node.op_type for node in onnx.load(tmp_path / "seen.onnx").graph.node}
    assert "QLinearConv" in seen
    assert "Conv" not in seen
    assert snr_db(full, tmp_path / "int8.onnx") > 20


def test_ranges_come_from_the_samples(full, tmp_path):
    write_int8(full, tmp_path / "right.onnx", SAMPLES, SYMMETRIC)
    write_int8(full, tmp_path / "wrong.onnx", [(SAMPLES[0][0] * 1e-2,)], SYMMETRIC)
    reference = run_samples(full, SAMPLES)
    noise = [
        np.abs(run_samples(tmp_path / name, SAMPLES)[0] - reference[0]).max() for name in ("right.onnx", "wrong.onnx")
    ]
    assert noise[1] > 5 * noise[0]


def test_what_cannot_be_lowered_is_a_value_error(full, tmp_path):
    with pytest.raises(ValueError, match="give --calibration or --data"):
        write_int8(full, tmp_path / "out.onnx", [], SYMMETRIC)
    model = onnx.load(full)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(np.full(weight.dims, 1e5, np.float32), weight.name))
    onnx.save(model, tmp_path / "large.onnx")
    for write in (write_half, write_half_weights):
        with pytest.raises(ValueError, match=r"1e\+05, and fp16 ends at 65504; use fp32"):
            write(tmp_path / "large.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("precision", "settings", "kind"),
    [
        ("fp32", {}, "float32"),
        ("fp16", {}, "float16 weights"),
        ("fp16", {"providers": ["CUDAExecutionProvider"]}, "float16"),
        ("int8", {}, "uint8"),
        ("int8", {"providers": ["TensorrtExecutionProvider"]}, "int8"),
    ],
)
def test_onnxruntime_builds_what_its_provider_computes_in(full, tmp_path, precision, settings, kind):
    runtime, out = registry.load("runtimes", "onnxruntime")(), tmp_path / "built.onnx"
    runtime.build(BuildRequest(None, full, SAMPLES, precision, settings), out)
    types = {array.dtype.name for array in constants(out).values()}
    kinds = {
        "float32": types <= {"float32", "int64"},
        "float16 weights": {"float16", "float32"} <= types,
        "float16": "float16" in types and "float32" not in types,
        "uint8": "uint8" in types,
        "int8": "int8" in types and "uint8" not in types,
    }
    assert kinds[kind]


def test_a_provider_that_is_not_there_is_refused_not_replaced(full):
    runtime = registry.load("runtimes", "onnxruntime")()
    with pytest.raises(ValueError, match=r"CUDAExecutionProvider is asked for.*has .*CPUExecutionProvider"):
        runtime.open(str(full), {"providers": ["CUDAExecutionProvider"]})
    session = runtime.open(str(full), {"providers": ["CPUExecutionProvider"]})
    assert session.run(SAMPLES[0])
    assert list(session.facts["operators"]) == ["CPUExecutionProvider"]
    assert session.facts["operators"]["CPUExecutionProvider"] > 0
    assert runtime.unavailable() == ""
