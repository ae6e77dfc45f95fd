from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import Depthwise, Residual, randomise

from edgeprune import registry
from edgeprune.contracts import BuildRequest
from edgeprune.network.export import export_network


@pytest.fixture
def runtime():
    return registry.load("runtimes", "onnxruntime")()


def request_for(exported, precision="fp32"):
    return BuildRequest(exported.exported_program, exported.onnx, (), precision, {"threads": 1})


def test_the_artifact_is_the_onnx(tmp_path, runtime):
    exported = export_network(randomise(Residual()), (torch.zeros(1, 3, 8, 8),), tmp_path, simplify=False)
    before = exported.onnx.read_bytes()
    runtime.build(request_for(exported), tmp_path / "built.onnx")
    runtime.build(request_for(exported), exported.onnx)  # in place
    assert (tmp_path / "built.onnx").read_bytes() == exported.onnx.read_bytes() == before


@pytest.mark.parametrize(("precision", "said"), [("int4", "not 'int4'"), ("fp32", "bad.onnx")])
def test_what_it_cannot_build_is_a_value_error(tmp_path, runtime, precision, said):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no network")
    request = BuildRequest(None, bad, (), precision, {})
    with pytest.raises(ValueError, match=said):
        runtime.build(request, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_the_profile_sums_to_about_the_latency_and_names_layers(tmp_path, runtime):
    network = randomise(Depthwise())
    exported = export_network(network, (torch.zeros(1, 3, 32, 32),), tmp_path, simplify=False)
    inputs = [np.zeros((1, 3, 32, 32), np.float32)]
    layers_ms = runtime.profile(str(exported.onnx), {"threads": 1}, inputs)
    weighted = [
        name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert [name for name in layers_ms if name in weighted] == weighted  # in execution order
    assert set(layers_ms) <= {*weighted, "(layout)"}


def test_operations_of_one_layer_count_together(tmp_path, runtime):
    class Products(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ x.transpose(1, 2)).softmax(-1) @ x

    network = torch.nn.Sequential(torch.nn.Linear(8, 8), Products())
    exported = export_network(network, (torch.zeros(1, 4, 8),), tmp_path, simplify=False)
    layers_ms = runtime.profile(str(exported.onnx), {"threads": 1}, [np.zeros((1, 4, 8), np.float32)])
    assert [name for name in layers_ms if name != "(layout)"] == ["0", "1"]


def test_threads_are_taken_from_the_settings(tmp_path, runtime):
    exported = export_network(randomise(Residual()), (torch.zeros(1, 3, 8, 8),), tmp_path, simplify=False)
    for threads in (1, 2):
        session = runtime.open(str(exported.onnx), {"threads": threads})
        assert session._session.get_session_options().intra_op_num_threads == threads
