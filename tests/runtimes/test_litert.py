from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import Concatenated, Depthwise, Residual, randomise
from torch import nn

from edgeprune import registry
from edgeprune.contracts import BuildRequest
from edgeprune.network.export import export_network
from edgeprune.network.parity import check_parity
from edgeprune.runtimes import _litert_profile, litert
from edgeprune.runtimes._litert_convert import fold_batch_norms
from edgeprune.runtimes._litert_converter import Converter
from edgeprune.runtimes._litert_precision import lower

pytest.importorskip("litert_torch", reason="litert-torch is not installed: pip install 'edgeprune[litert]'")


class TwoEnds(nn.Module):
    """Two inputs, and outputs whose order a converter could mix up."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return a + b, a - b, (a * b).sum(1)


@pytest.fixture(scope="module")
def runtime():
    """One instance, so that one converter process serves all tests."""
    return registry.load("runtimes", "litert")()


def built(runtime, network, inputs, folder):
    exported = export_network(network, inputs, folder, simplify=False)
    out = folder / "model.tflite"
    runtime.build(BuildRequest(exported.exported_program, exported.onnx, (), "fp32", {}), out)
    return out


@pytest.mark.parametrize("kind", [Residual, Depthwise, Concatenated])
def test_outputs_are_those_of_pytorch(tmp_path, runtime, kind):
    network, inputs = randomise(kind()), torch.randn(1, 3, 16, 16)
    session = runtime.open(str(built(runtime, network, (inputs,), tmp_path)), {"threads": 1})
    (output,) = session.run([inputs.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(output, network(inputs).numpy(), atol=1e-5)
    assert (session.input_shapes, session.input_types) == ([(1, 3, 16, 16)], ["float32"])


def test_several_inputs_and_outputs_keep_their_order(tmp_path, runtime):
    inputs = (torch.randn(1, 4), torch.randn(1, 4))
    session = runtime.open(str(built(runtime, TwoEnds(), inputs, tmp_path)), {"threads": 1})
    found = session.run([tensor.numpy() for tensor in inputs])
    for output, expected in zip(found, TwoEnds()(*inputs), strict=True):
        np.testing.assert_allclose(output, expected.numpy(), atol=1e-6)


def test_a_profile_names_the_layers_in_execution_order(tmp_path, runtime):
    network = randomise(Depthwise())
    artifact = str(built(runtime, network, (torch.zeros(1, 3, 32, 32),), tmp_path))
    layers_ms = runtime.profile(artifact, {"threads": 1}, ())
    weighted = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [name for name in layers_ms if name in weighted] == weighted
    assert set(layers_ms) <= {*weighted, "(layout)", "input"}
    assert sum(layers_ms.values()) > 0
    interpreter = runtime.open(artifact, {"threads": 1}).interpreter
    assert _litert_profile.layers_ms(artifact, interpreter, "99.0.0") == {}


def test_kernels_count_for_the_layer_before_them():
    kernels = [
        ("Transpose (ND)", 1.0),
        ("Clamp", 2.0),
        ("Convolution IGEMM", 3.0),
        ("Add", 4.0),
        ("Fully Connected", 5.0),
    ]
    assert _litert_profile.by_layer(kernels, ["conv", "linear"]) == {
        "(layout)": 1.0,
        "input": 2.0,
        "conv": 7.0,
        "linear": 5.0,
    }


@pytest.mark.parametrize("names", [["conv"], ["conv", "linear", "more"], ["conv", ""]])
def test_kernels_that_do_not_match_the_layers_are_no_profile(names):
    assert _litert_profile.by_layer([("Convolution", 1.0), ("Fully Connected", 1.0)], names) == {}


def test_one_converter_serves_all_builds_of_an_instance(tmp_path, runtime):
    for name in "ab":
        built(runtime, randomise(Residual()), (torch.zeros(1, 3, 8, 8),), tmp_path / name)
        process = runtime._converter._process
    assert runtime._converter._process is process
    assert (tmp_path / "a" / "model.tflite").read_bytes() == (tmp_path / "b" / "model.tflite").read_bytes()


def test_the_converter_ends_with_its_owner():
    converter = Converter()
    process = converter._process
    assert converter.alive
    del converter
    assert process.poll() is not None


@pytest.mark.parametrize(
    ("precision", "said"),
    [("fp32", "litert-torch: "), ("int4", "not 'int4'")],
)
def test_what_it_cannot_build_is_a_value_error(tmp_path, runtime, precision, said):
    path = tmp_path / "broken.pt2"
    path.write_bytes(b"no program")
    with pytest.raises(ValueError, match=said):
        runtime.build(BuildRequest(path, tmp_path / "model.onnx", (), precision, {}), tmp_path / "out.tflite")
    assert not (tmp_path / "out.tflite").exists()


def test_a_converter_that_takes_too_long_is_ended_and_replaced(tmp_path):
    runtime = registry.load("runtimes", "litert")()
    assert runtime._converter is None  # nothing starts before it is needed
    runtime.convert_limit_s = 0.01
    request = BuildRequest(tmp_path / "model.pt2", tmp_path / "model.onnx", (), "fp32", {})
    processes = []
    for _ in range(2):
        with pytest.raises(ValueError, match=r"did not finish in 0\.01 s"):
            runtime.build(request, tmp_path / "out.tflite")
        processes.append(runtime._converter._process)
    assert all(process.poll() is not None for process in processes)
    assert processes[0] is not processes[1]


def test_a_converter_that_dies_says_its_last_words(tmp_path):
    converter = Converter()
    converter._process.kill()
    with pytest.raises(ValueError, match="the converter process ended: exit status -9"):
        converter.convert(tmp_path / "model.pt2", tmp_path / "out.tflite", 60.0)


def test_folding_keeps_the_function_and_leaves_what_it_must():
    class Shared(nn.Module):
        """One convolution is read twice, so its norm cannot be folded into it."""

        def __init__(self) -> None:
            super().__init__()
            self.folds, self.stays = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.stays(self.norm1(self.folds(x)))
            return self.norm2(y) + y

    network, inputs = randomise(Shared()), torch.randn(2, 3, 8, 8)
    program = torch.export.export(network, (inputs,)).module()
    folded = fold_batch_norms(program)
    norms = [node for node in folded.graph.nodes if node.target is torch.ops.aten.batch_norm.default]
    assert len(norms) == 1
    torch.testing.assert_close(folded(inputs), network(inputs))


@pytest.fixture(scope="module")
def precisions(runtime, tmp_path_factory):
    """A network, real inputs, and its file at each precision."""
    network, folder = randomise(Residual(32)), tmp_path_factory.mktemp("precisions")
    generator = torch.Generator().manual_seed(0)
    samples = [(torch.randn(1, 3, 16, 16, generator=generator).numpy(),) for _ in range(24)]
    exported = export_network(network, (torch.zeros(1, 3, 16, 16),), folder, simplify=False)
    files = {precision: folder / f"model.{precision}.tflite" for precision in runtime.precisions}
    for precision in ("fp32", "int8"):
        request = BuildRequest(exported.exported_program, exported.onnx, samples, precision, {})
        runtime.build(request, files[precision])
    lower(files["fp32"], "fp16", None, files["fp16"])  # as the converter does, without converting once more
    return network, samples, files


@pytest.mark.parametrize(("precision", "least_snr_db"), [("fp16", 45), ("int8", 15)])
def test_a_lower_precision_is_smaller_and_close(runtime, precisions, precision, least_snr_db):
    network, samples, files = precisions
    assert files[precision].stat().st_size < 0.8 * files["fp32"].stat().st_size
    session = runtime.open(str(files[precision]), {"threads": 1})
    assert (session.input_shapes, session.input_types) == ([(1, 3, 16, 16)], ["float32"])
    outputs = np.concatenate([session.run(sample)[0] for sample in samples])
    with torch.no_grad():
        expected = np.concatenate([network(torch.from_numpy(sample[0])).numpy() for sample in samples])
    assert outputs.dtype == np.float32
    report = check_parity([expected], [outputs], precision, precision)
    assert report.snr_db is not None
    assert report.snr_db > least_snr_db
    assert list(files[precision].parent.glob(".*")) == []


def test_int8_computes_in_integers(runtime, precisions):
    _, _, files = precisions
    for precision, kind in (("fp32", "float32"), ("int8", "int8")):
        interpreter = runtime.open(str(files[precision]), {"threads": 1}).interpreter
        types = {tensor["index"]: tensor["dtype"].__name__ for tensor in interpreter.get_tensor_details()}
        convolutions = [op for op in interpreter._get_ops_details() if op["op_name"].endswith("CONV_2D")]
        assert convolutions
        assert {types[op["inputs"][0]] for op in convolutions} == {kind}
        assert {types[op["inputs"][1]] for op in convolutions} == {kind}


def test_int8_without_real_inputs_is_refused(runtime, tmp_path):
    request = BuildRequest(tmp_path / "model.pt2", tmp_path / "model.onnx", (), "int8", {})
    with pytest.raises(ValueError, match="int8 takes its ranges from real inputs, and there are none; give --calib"):
        runtime.build(request, tmp_path / "out.tflite")


def test_a_lower_precision_is_not_written_from_an_onnx_alone(runtime, tmp_path):
    request = BuildRequest(None, tmp_path / "model.onnx", ((np.zeros((1, 3, 16, 16)),),), "int8", {})
    with pytest.raises(ValueError, match="an ONNX is written at fp32 only"):
        runtime.build(request, tmp_path / "out.tflite")


def test_a_session_says_how_many_operators_xnnpack_took(runtime, precisions):
    _, _, files = precisions
    session = runtime.open(str(files["fp32"]), {"threads": 1})
    counts = session.facts["operators"]
    listed = [op for op in session.interpreter._get_ops_details() if "DELEGATE" not in op["op_name"]]
    assert counts["XNNPACK"] > 0
    assert sum(counts.values()) == len(listed)


def test_operators_that_no_delegate_takes_run_on_built_in_kernels():
    def operator(index, name, inputs, outputs):
        return {"index": index, "op_name": name, "inputs": inputs, "outputs": outputs}

    class Interpreter:
        def get_output_details(self):
            return [{"index": 4}]

        def _get_ops_details(self):
            file = [operator(i, name, [i], [i + 1]) for i, name in enumerate(["CONV_2D", "RELU", "SLICE", "ADD"])]
            return [*file, operator(4, "DELEGATE", [0], [2]), operator(5, "TfLiteXNNPackDelegate", [3], [4])]

    assert litert._placement(Interpreter()) == {"XNNPACK": 3, "built-in kernels": 1}
