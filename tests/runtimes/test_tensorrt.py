"""The board half with a stand-in for trtexec; the host half, and builds, with NVIDIA's own TensorRT for RTX."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_networks import Residual, randomise

from edgeprune import registry
from edgeprune.bench.measure import MeasureOptions, measure, profile_on_target, run_on_target
from edgeprune.bench.target import load_target
from edgeprune.contracts import BuildRequest
from edgeprune.errors import BuildError
from edgeprune.network.export import export_network
from edgeprune.network.onnx_run import run_samples
from edgeprune.network.parity import check_parity
from edgeprune.runtimes import _tensorrt_engines as engines
from edgeprune.runtimes import _tensorrt_trtexec as trtexec
from edgeprune.runtimes._onnx_precision import AFFINE, write_int8
from edgeprune.runtimes._tensorrt_bindings import Bindings
from edgeprune.runtimes._tensorrt_onnx import inputs_of

STAND_IN = Path(__file__).with_name("stand_in_trtexec.py")
BANNERS = ["8201", "8502", "100300", "11.1.0.106"]
PRECISIONS = ["fp32", "fp16", "int8"]
SAMPLES = [(torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).numpy(),) for seed in range(8)]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    return export_network(randomise(Residual()), (torch.zeros(1, 3, 16, 16),), folder, simplify=False).onnx


@pytest.fixture
def runtime():
    return registry.load("runtimes", "tensorrt")()


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A board with trtexec of a version, and the file in which each of its starts leaves a line."""
    monkeypatch.setattr(trtexec, "PLACES", ())
    journal = tmp_path / "journal"
    journal.touch()

    def install(banner="100300", memory_mib=100_000):
        program = tmp_path / "bin" / "trtexec"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" {banner} {memory_mib} "{journal}" "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return journal

    return install


@pytest.fixture
def settings(tmp_path):
    return {"threads": 1, "precision": "fp32", "engines": str(tmp_path / "engines")}


def lowered(runtime, full, precision, folder):
    out = folder / f"{precision}.onnx"
    runtime.build(BuildRequest(None, full, SAMPLES, precision, {}), out)
    return out


def builds(journal):
    return [line for line in journal.read_text().splitlines() if "--saveEngine" in line]


# ---------------------------------------------------------------- the board half, through trtexec


@pytest.mark.parametrize(
    ("banner", "precision"), [*((banner, "int8") for banner in BANNERS), ("8502", "fp32"), ("11.1.0.106", "fp16")]
)
def test_every_version_gets_flags_that_it_has(runtime, board, settings, full, tmp_path, banner, precision):
    journal = board(banner)
    artifact = lowered(runtime, full, precision, tmp_path)
    session = runtime.open(str(artifact), {**settings, "precision": precision})
    assert session.version.endswith("(trtexec)")
    assert (session.input_shapes, session.input_types) == ([(1, 3, 16, 16)], ["float32"])
    (outputs,) = session.run(SAMPLES[0])
    np.testing.assert_allclose(outputs, run_samples(artifact, SAMPLES[:1])[0], rtol=1e-5, atol=1e-6)
    (flags,) = builds(journal)
    old = banner != BANNERS[-1]
    assert ("--fp16" in flags) == (old and precision != "fp32")
    assert ("--int8" in flags) == (old and precision == "int8")
    assert ("--noTF32" in flags) == (precision == "fp32")


@pytest.mark.parametrize("banner", BANNERS)
def test_it_times_itself_and_its_layers(runtime, board, settings, full, banner):
    journal = board(banner)
    session = runtime.open(str(full), settings)
    times_ns = session.times_ns(SAMPLES[0], 5, 0.0)
    assert len(times_ns) == 5
    assert all(isinstance(value, int) and value > 0 for value in times_ns)
    layers_ms = runtime.profile(str(full), settings, SAMPLES[0])
    assert "conv1" in layers_ms or "stem" in layers_ms, layers_ms
    assert ("--separateProfileRun" in journal.read_text()) == (banner != BANNERS[-1])
    assert ("--includeDataTransfers" in journal.read_text()) == (banner == BANNERS[-1])


def test_an_engine_is_built_once(runtime, board, settings, full):
    journal = board()
    for _ in range(2):
        runtime.open(str(full), settings)
    assert len(builds(journal)) == 1


@pytest.mark.parametrize("change", ["precision", "power mode", "TensorRT", "network", "engine", "record"])
def test_an_engine_is_not_used_for_anything_else(runtime, board, settings, full, tmp_path, monkeypatch, change):
    journal, artifact = board(), tmp_path / "copy.onnx"
    artifact.write_bytes(full.read_bytes())
    runtime.open(str(artifact), settings)
    if change == "precision":
        settings["precision"] = "fp16"
    elif change == "power mode":
        monkeypatch.setattr(engines, "_power_mode", lambda: "2")
    elif change == "TensorRT":
        board("8502")
    elif change == "network":
        model = onnx.load(artifact)
        model.producer_version = "another"
        onnx.save(model, artifact)
    elif change == "engine":
        (engine,) = Path(settings["engines"]).glob("*.engine")
        engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    else:
        (record,) = Path(settings["engines"]).glob("*.json")
        record.write_text(json.dumps({**json.loads(record.read_text()), "precision": "int8"}))
    runtime.open(str(artifact), settings)
    assert len(builds(journal)) == 2


def test_a_folder_that_others_can_write_to_is_refused(runtime, board, settings, full):
    board()
    place = Path(settings["engines"])
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(ValueError, match=r"others may write to .*, and an engine is code; run: chmod 700"):
        runtime.open(str(full), settings)


def test_its_own_folder_is_private(runtime, board, settings, full):
    board()
    runtime.open(str(full), settings)
    assert stat.S_IMODE(Path(settings["engines"]).stat().st_mode) == 0o700


def test_the_oldest_engines_go(runtime, board, settings, full, monkeypatch):
    board()
    runtime.open(str(full), settings)
    monkeypatch.setattr(engines, "LIMIT_BYTES", full.stat().st_size + 1)
    runtime.open(str(full), {**settings, "precision": "fp16"})
    left = list(Path(settings["engines"]).glob("*.engine"))
    assert len(left) == 1
    assert json.loads(left[0].with_suffix(".json").read_text())["precision"] == "fp16"


def test_a_small_board_gets_less_scratch_memory(runtime, board, settings, full):
    journal = board("100300", memory_mib=300)
    session = runtime.open(str(full), {**settings, "workspace_mib": 1024})
    assert [line.split("workspace:")[1].split()[0] for line in builds(journal)] == ["1024", "256"]
    assert "--builderOptimizationLevel=2" in builds(journal)[1]
    assert session.facts["workspace_mib"] == 256


def test_a_board_without_memory_says_what_to_do(runtime, board, settings, full):
    board("8201", memory_mib=0)
    with pytest.raises(ValueError, match=r"ran out of memory while building.*OutOfMemory.*add swap.*`workspace_mib`"):
        runtime.open(str(full), {**settings, "workspace_mib": 64})
    assert list(Path(settings["engines"]).glob("*.engine")) == []


def det(folder):
    """A network with an operator that TensorRT does not have."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 3, 3] x) => (float[2] y) { y = Det(x) }'
    path = folder / "det.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_what_trtexec_refuses_has_a_reason_and_a_remedy(runtime, board, settings, tmp_path):
    board()
    with pytest.raises(ValueError, match=r"trtexec: .*Det.*; write that operator with standard operators"):
        runtime.open(str(det(tmp_path)), settings)


def test_the_whole_way_over_a_transport(board, settings, full):
    journal = board()
    target = replace(load_target("host-tensorrt"), settings={"engines": settings["engines"]}, precision="fp32")
    outputs = run_on_target(full, target, SAMPLES[:2])
    report = check_parity(run_samples(full, SAMPLES[:2]), outputs, "stand-in", "fp32")
    assert report.samples == 2
    found = measure(full, target, MeasureOptions(processes=1, blocks=2, block_runs=5, warmup_runs=2))
    assert found.runtime_version == "10.3.0 (trtexec)"
    assert [len(block.samples_ns) for run in found.runs for block in run.blocks] == [5, 5]
    assert found.environment["engine"]["workspace_mib"] >= 64
    assert profile_on_target(full, target)
    assert len(builds(journal)) == 1


def test_a_board_with_nothing_says_what_to_install(runtime, settings, full, monkeypatch):
    monkeypatch.setattr(trtexec, "find_trtexec", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys.modules[type(runtime).__module__], "find_spec", lambda name: None)
    assert "sudo apt-get install tensorrt" in runtime.unavailable()
    with pytest.raises(ModuleNotFoundError) as caught:
        runtime.open(str(full), settings)
    assert caught.value.name == "tensorrt"


@pytest.mark.parametrize("name", ["model.onnx", "two.onnx"])
def test_inputs_are_read_without_the_onnx_package(full, tmp_path, name):
    if name == "two.onnx":
        text = (
            '<ir_version: 8, opset_import: ["" : 17]> '
            "g (float[1, 4] left, int64[1, 300] right, float[4] bias) => (float[1, 4] y) "
            "<float[4] bias = {1, 2, 3, 4}> { y = Add(left, bias) }"
        )
        onnx.save(onnx.parser.parse_model(text), tmp_path / name)
        assert inputs_of(str(tmp_path / name)) == [("left", (1, 4), "float32"), ("right", (1, 300), "int64")]
    else:
        assert inputs_of(str(full)) == [("input", (1, 3, 16, 16), "float32")]


def test_inputs_without_fixed_sizes_are_refused(tmp_path):
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "any.onnx")
    with pytest.raises(ValueError, match=r"the input 'x' has no fixed sizes .* export it for one input size"):
        inputs_of(str(tmp_path / "any.onnx"))
    (tmp_path / "cut.onnx").write_bytes(b"\x3a\xff")
    with pytest.raises(ValueError, match="this is no ONNX file"):
        inputs_of(str(tmp_path / "cut.onnx"))


# ---------------------------------------------------------------- NVIDIA's parser and builder, without a GPU


@pytest.fixture
def rtx():
    return Bindings(pytest.importorskip("tensorrt_rtx", reason="pip install 'edgeprune[tensorrt-rtx]'"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nvidia_builds_an_engine_of_what_we_write(rtx, runtime, full, tmp_path, precision):
    artifact = lowered(runtime, full, precision, tmp_path)
    _, network, _ = rtx.parse(str(artifact))
    layers = [network.get_layer(position) for position in range(network.num_layers)]
    convolutions = [layer for layer in layers if layer.type.name == "CONVOLUTION"]
    assert convolutions
    assert {layer.get_output(0).dtype.name for layer in convolutions} == {"HALF" if precision == "fp16" else "FLOAT"}
    assert any(layer.type.name == "DEQUANTIZE" for layer in layers) == (precision == "int8")
    engine = tmp_path / "net.engine"
    rtx.build(engines.Order(str(artifact), precision, 256, str(tmp_path / "timing")), engine)
    assert engine.stat().st_size > 1000


def test_the_host_half_refuses_what_nvidia_refuses(rtx, runtime, tmp_path):
    request = BuildRequest(None, det(tmp_path), (), "fp32", {})
    with pytest.raises(
        ValueError, match=r"parser refuses Det at node 0: UNSUPPORTED_NODE: .*; write Det with standard operators"
    ):
        runtime.build(request, tmp_path / "out.onnx")


def test_asymmetric_numbers_are_refused_with_the_remedy(rtx, full, tmp_path):
    write_int8(full, tmp_path / "affine.onnx", SAMPLES, AFFINE)
    with pytest.raises(ValueError, match=r"parser refuses DequantizeLinear '.*Int32.*--precision int8 does"):
        rtx.parse(str(tmp_path / "affine.onnx"))
    with pytest.raises(ValueError, match=r"^((?!cudaError 35).)*$"):
        rtx.parse(str(tmp_path / "affine.onnx"))


def test_without_a_gpu_an_engine_is_not_run(rtx, runtime, full, settings):
    if not runtime.unavailable():
        pytest.skip("this machine has a GPU")
    assert "NVIDIA" in runtime.unavailable()
    target = replace(load_target("host-tensorrt"), settings={"engines": settings["engines"]}, precision="fp32")
    with pytest.raises(BuildError, match=r"tensorrt on target host-tensorrt cannot open .*there is no NVIDIA driver"):
        run_on_target(full, target, SAMPLES[:1])
