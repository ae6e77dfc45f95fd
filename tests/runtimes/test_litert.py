from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import Concatenated, Depthwise, Residual, randomise
from torch import nn

from edgeprune import registry
from edgeprune.contracts import BuildRequest
from edgeprune.network.export import export_network
from edgeprune.runtimes import _litert_profile
from edgeprune.runtimes._litert_convert import fold_batch_norms
from edgeprune.runtimes._litert_converter import Converter

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
