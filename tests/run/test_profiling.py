"""Profiling a real network: on an emulated board whose truth is known, and through this machine's engine."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_networks import Depthwise, Residual, randomise

from edgeprune import registry
from edgeprune.bench.emulated_board import board_from_settings, emulate
from edgeprune.bench.latency_table import read_table, write_table
from edgeprune.bench.layer_shape import LayerShape
from edgeprune.bench.target import load_target
from edgeprune.bench.work import macs_of, works_of_onnx
from edgeprune.contracts import BuildRequest
from edgeprune.errors import UsageError
from edgeprune.network.layer_network import input_shapes, layer_samples, write_layer_onnx, write_layer_program
from edgeprune.network.layer_shapes import layer_shapes
from edgeprune.network.structure import network_structure
from edgeprune.progress import Silent
from edgeprune.run.profiling import profile_network
from edgeprune.runtimes.onnxruntime import OnnxRuntime

INPUTS = (torch.zeros(1, 3, 8, 8),)
BOARD = "emulated-raspberry-pi-4"
SHAPES = [
    LayerShape("conv", 8, 12, (9, 9), (3, 3), (2, 2), (1, 1), (1, 1)),
    LayerShape("conv", 8, 12, (9, 9), (3, 3), (1, 1), (1, 1), (1, 1), groups=4),
    LayerShape("conv", 8, 6, (5, 5), (2, 2), (2, 2), (0, 0), (1, 1), transposed=True),
    LayerShape("depthwise", 8, 8, (9, 9), (3, 3), (1, 1), (1, 1), (1, 1), groups=8),
    LayerShape("linear", 20, 10, (7,)),
    LayerShape("attention", 2, 2, (5, 6, 4)),
]


@pytest.fixture(autouse=True)
def _nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that other tests measured would not be measured again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_files_of_a_layer_hold_all_its_copies(shape: LayerShape, tmp_path: Path) -> None:
    write_layer_onnx(shape, tmp_path / "layer.onnx")
    write_layer_program(shape, tmp_path / "layer.pt2")
    inputs = [torch.randn(sizes) for sizes in input_shapes(shape)]
    program = torch.export.load(tmp_path / "layer.pt2").module()
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    feed = {end.name: tensor.numpy() for end, tensor in zip(session.get_inputs(), inputs, strict=True)}
    assert session.run(None, feed)[0].shape == tuple(program(*inputs).shape)
    works = works_of_onnx(tmp_path / "layer.onnx")
    assert sum(work.macs > 0 for work in works) == shape.copies * (2 if shape.operator == "attention" else 1)
    onnx.checker.check_model(onnx.load(tmp_path / "layer.onnx"), full_check=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_layer_can_be_calibrated(shape: LayerShape, tmp_path: Path) -> None:
    write_layer_onnx(shape, tmp_path / "layer.onnx")
    request = BuildRequest(None, tmp_path / "layer.onnx", layer_samples(shape), "int8", {"threads": 1})
    OnnxRuntime().build(request, tmp_path / "layer.int8.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "layer.int8.onnx").graph.node]
    assert operators.count("QuantizeLinear") >= shape.copies


@pytest.mark.parametrize("shape", [*SHAPES[:2], *SHAPES[3:]], ids=str)
def test_litert_gets_a_layer_without_its_converter(shape: LayerShape, tmp_path: Path) -> None:
    path, out = tmp_path / "layer.onnx", tmp_path / "layer.tflite"
    write_layer_onnx(shape, path)
    inputs = layer_samples(shape)[0]
    litert = registry.load("runtimes", "litert")()
    litert.build(BuildRequest(None, path, (), "fp32", {}), out)
    (answer,) = litert.open(str(out), {"threads": 1}).run(inputs)
    session = onnxruntime.InferenceSession(path)
    (reference,) = session.run(None, {end.name: array for end, array in zip(session.get_inputs(), inputs, strict=True)})
    np.testing.assert_allclose(answer, reference, atol=1e-5 * np.abs(reference).max())


def test_litert_refuses_what_only_its_converter_knows(tmp_path: Path) -> None:
    write_layer_onnx(SHAPES[2], tmp_path / "layer.onnx")
    request = BuildRequest(None, tmp_path / "layer.onnx", (), "fp32", {})
    with pytest.raises(ValueError, match=r"model\.pt2, and this network has none .* ConvTranspose is not known"):
        registry.load("runtimes", "litert")().build(request, tmp_path / "layer.tflite")


@pytest.mark.parametrize("kind", [Residual, Depthwise])
def test_every_layer_is_seen_with_its_channels(kind: type) -> None:
    network = randomise(kind())
    shapes = layer_shapes(network, INPUTS)
    for layer in network_structure(network, INPUTS).layers:
        weight = network.get_submodule(layer.name).weight
        assert shapes[layer.name].outputs == weight.shape[0]
        assert layer.macs == pytest.approx(shapes[layer.name].macs, rel=0.01)


def test_the_layers_of_an_emulated_board_are_near_its_truth(tmp_path: Path) -> None:
    network, target = randomise(Residual()), load_target(BOARD)
    profile = profile_network(network, INPUTS, target, tmp_path / "table.json", Silent())
    board = board_from_settings(target.settings)
    for name, shape in profile.shapes.items():
        write_layer_onnx(shape, tmp_path / "layer.onnx")
        works = works_of_onnx(tmp_path / "layer.onnx")
        true_ms = sum(kernel.latency_ms for kernel in emulate(works, board).kernels) / shape.copies
        assert macs_of(works) > 0
        assert profile.costs.layers[name].whole_ms == pytest.approx(true_ms, rel=0.1, abs=0.002)


class Heard(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_second_profile_measures_nothing_again(tmp_path: Path) -> None:
    network, first, second = randomise(Residual()), Heard(), Heard()
    path = profile_network(network, INPUTS, load_target(BOARD), None, first).path
    before = path.read_bytes()
    profile_network(network, INPUTS, load_target(BOARD), None, second)
    assert path.read_bytes() == before
    assert re.fullmatch(r"about \d+ layers are to be measured; that takes about \d+ (s|min)", first.lines[0])
    assert second.lines == [f"{len(read_table(path).layers)} layers of this board are known, from {path.name}"]


def test_a_profile_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    network = randomise(Residual())
    whole = profile_network(network, INPUTS, load_target(BOARD), None, Silent())
    known = dict(list(whole.table.layers.items())[: len(whole.table.layers) // 2])
    write_table(dataclasses.replace(whole.table, layers=known), whole.path)
    again = profile_network(network, INPUTS, load_target(BOARD), None, Silent()).table
    assert again.layers.keys() > known.keys()
    assert all(again.layers[shape] == medians for shape, medians in known.items())


def test_a_shared_table_is_taken_in_and_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, shared = randomise(Residual()), tmp_path / "shared.json"
    profile_network(network, INPUTS, load_target(BOARD), shared, Silent())
    before = shared.read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "colleague"))
    heard = Heard()
    found = profile_network(network, INPUTS, load_target(BOARD), shared, heard)
    assert len(heard.lines) == 1
    assert shared.read_bytes() == before
    assert read_table(shared).layers == found.table.layers


def test_the_table_of_another_board_is_refused(tmp_path: Path) -> None:
    network, path = randomise(Residual()), tmp_path / "table.json"
    profile_network(network, INPUTS, load_target(BOARD), path, Silent())
    with pytest.raises(UsageError, match=r"another board or engine \(emulated-raspberry-pi-4"):
        profile_network(network, INPUTS, load_target("emulated-raspberry-pi-5"), path, Silent())


def test_layers_are_timed_on_this_machine(tmp_path: Path) -> None:
    profile = profile_network(randomise(Depthwise()), INPUTS, load_target("host"), tmp_path / "table.json", Silent())
    assert profile.table.kind == "real"
    assert all(cost.whole_ms > 0 for cost in profile.costs.layers.values())
