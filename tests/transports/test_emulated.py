from __future__ import annotations

import copy
import dataclasses
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import Residual, randomise

from edgeprune import registry
from edgeprune.bench import agent
from edgeprune.bench.emulated_board import board_from_settings, emulate
from edgeprune.bench.measure import MeasureOptions, measure, measure_pair, profile_on_target, run_on_target
from edgeprune.bench.rendering import render_measurement
from edgeprune.bench.target import load_target
from edgeprune.bench.work import works_of_onnx
from edgeprune.errors import BoardError, BuildError, UsageError
from edgeprune.network.export import export_network


@pytest.fixture(scope="module")
def target():
    return load_target("emulated-raspberry-pi-4")


@pytest.fixture(scope="module")
def network():
    return randomise(Residual())


@pytest.fixture(scope="module")
def artifact(network, tmp_path_factory):
    return export_network(network, (torch.zeros(1, 3, 8, 8),), tmp_path_factory.mktemp("net"), simplify=False).onnx


def truth_ms(artifact, target):
    return emulate(works_of_onnx(artifact), board_from_settings(target.settings)).latency_ms


def changed(target, part, **values):
    """Return the target with other values in one part of its board, or in the board itself where part is None."""
    target_settings = copy.deepcopy(dict(target.settings))
    place = target_settings["emulated"] if part is None else target_settings["emulated"][part]
    place.update(values)
    return dataclasses.replace(target, settings=target_settings)


def test_a_measurement_is_near_the_truth_and_says_emulated(artifact, target):
    found = measure(artifact, target, MeasureOptions(processes=9, blocks=4))
    assert found.latency_p50_ms == pytest.approx(truth_ms(artifact, target), rel=0.03)
    assert found.kind == "emulated"
    assert "emulated-raspberry-pi-4 (emulated)" in render_measurement(found)
    assert found.environment["cpu"] == "Raspberry Pi 4 Model B (emulated)"
    assert found.runs[0].first_ms > 2 * found.latency_p50_ms
    assert all(run.open_ms > 0 for run in found.runs)


def test_the_noise_is_what_the_board_says(artifact, target):
    quiet = changed(target, "noise", outliers=0.0)
    found = measure(artifact, quiet, MeasureOptions(processes=60, blocks=2, block_runs=100))
    medians = [math.log(statistics.median(run.blocks[-1].samples_ns)) for run in found.runs]
    inside = [
        statistics.stdev(map(math.log, run.blocks[-1].samples_ns))
        for run in found.runs
        if len(run.blocks[-1].samples_ns)
    ]
    assert statistics.stdev(medians) == pytest.approx(0.0126, rel=0.4)
    assert statistics.mean(inside) == pytest.approx(0.022, rel=0.15)


def test_the_same_calls_see_the_same_samples_and_another_board_sees_others(artifact, target):
    options = MeasureOptions(processes=2, blocks=1)
    first, again = measure(artifact, target, options), measure(artifact, target, options)
    other = measure(artifact, dataclasses.replace(target, address="2"), options)
    assert first.runs == again.runs
    assert first.runs != other.runs
    assert first.runs[0] != first.runs[1]
    a, b = measure_pair(artifact, artifact, target, options)
    assert a.runs[0] != b.runs[0]


def test_time_goes_on_from_process_to_process_until_the_board_throttles(artifact, target):
    warm = changed(target, "heat", settle_s=2.0)
    found = measure(artifact, warm, MeasureOptions(processes=1, blocks=12, block_s=1.0))
    blocks = found.runs[0].blocks
    clocks = [block.telemetry["clock_mhz"] for block in blocks]
    assert clocks[0] == 1800.0
    assert clocks[-1] == pytest.approx(0.67 * 1800, abs=1)
    assert statistics.median(blocks[-1].samples_ns) > 1.4 * statistics.median(blocks[0].samples_ns)
    assert any("clock" in warning for warning in found.warnings)
    board = changed(warm, "start", process_s=0.0)
    later = measure(artifact, board, MeasureOptions(processes=3, blocks=4, block_s=1.0)).runs
    temperatures = [run.blocks[0].telemetry["temperature_c"] for run in later]
    assert temperatures == sorted(temperatures)
    assert temperatures[-1] > temperatures[0] + 5


def test_outputs_are_real(artifact, network, target):
    inputs = torch.randn(3, 3, 8, 8)
    (outputs,) = run_on_target(artifact, target, [(row[None].numpy(),) for row in inputs])
    with torch.no_grad():
        np.testing.assert_allclose(outputs, network(inputs).numpy(), atol=1e-5)
    with pytest.raises(BoardError, match="failed while it had to run"):
        run_on_target(artifact, target, [(np.zeros((1, 7), np.float32),)])


def test_a_profile_is_the_kernels_times(artifact, network, target):
    layers_ms = profile_on_target(artifact, target)
    exact = emulate(works_of_onnx(artifact), board_from_settings(target.settings)).layers_ms()
    assert list(layers_ms) == list(exact)
    for name, value_ms in layers_ms.items():
        assert value_ms == pytest.approx(exact[name], rel=0.12)


def test_a_board_that_fails_one_process_in_ten_loses_no_block(artifact, target):
    weak = changed(target, None, failures=1.0)
    with pytest.raises(BoardError, match="emulated board 1 fell silent"):
        measure(artifact, weak, MeasureOptions(processes=1))
    found = measure(artifact, changed(target, None, failures=0.1), MeasureOptions(processes=20, blocks=3))
    assert [len(run.blocks) for run in found.runs] == [3] * 20
    assert any("dropped" in warning for warning in found.warnings)


@pytest.mark.parametrize("content", [b"", b"this is no network"])
def test_a_corrupt_artifact_is_a_build_error(tmp_path, target, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for ask in (measure, profile_on_target):
        with pytest.raises(BuildError, match=r"on target emulated-raspberry-pi-4 cannot open broken.onnx"):
            ask(path, target)


def test_what_a_board_as_data_cannot_do_is_refused(artifact, target):
    transport = registry.load("transports", "emulated")("1")
    with pytest.raises(BoardError, match="answers edgeprune's agent alone; it cannot run '-c' 'print"):
        list(transport.stream(["-c", "print(1)"], 1.0))
    with pytest.raises(BoardError, match="no file"):
        transport.put(Path("gone.onnx"))
    with pytest.raises(UsageError, match="needs an address, its serial number"):
        registry.load("transports", "emulated")(None)
    with pytest.raises(BoardError, match="ended after its 1 s"):
        measure(artifact, target, MeasureOptions(processes=1, block_s=30.0, timeout_s=1.0))


def test_lines_are_those_of_the_agent(artifact, target):
    transport = registry.load("transports", "emulated")("1")
    runtime = str(registry.entries("runtimes")[target.runtime].path)
    flags = ["--runtime", runtime, "--artifact", str(artifact), "--settings", json.dumps(target.engine_settings())]
    options = ["--options", json.dumps({"blocks": 2})]
    lines = [json.loads(line) for line in transport.stream([agent.__file__, "measure", *flags, *options], 60.0)]
    assert [line["event"] for line in lines] == ["board", "opened", "warmup", "block", "block", "done"]
    assert set(lines[3]["telemetry"]) >= {"wall_s", "other_load", "clock_mhz", "temperature_c"}
    assert all(isinstance(ns, int) for ns in lines[3]["samples_ns"])
