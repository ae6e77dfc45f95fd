from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from edgeprune.bench import statistics
from edgeprune.bench.measure import (
    MeasureOptions,
    measure,
    measure_pair,
    profile_on_target,
    run_on_target,
    turn_order,
)
from edgeprune.bench.measurement import Block, measurement_from_dict, measurement_to_dict
from edgeprune.bench.rendering import render_measurement
from edgeprune.bench.target import load_target
from edgeprune.errors import BoardError, BuildError, UnknownNameError, UsageError
from edgeprune.files import sha256_of


@pytest.fixture(scope="module")
def host():
    return load_target("host")


@pytest.fixture(scope="module")
def measured(exported, host):
    return measure(exported.onnx, host, MeasureOptions(processes=2, blocks=3, block_s=0.02, warmup_s=0.02))


def test_a_measurement_holds_its_samples_and_its_origin(measured, exported):
    assert len(measured.runs) == 2
    assert all(len(run.blocks) == 3 for run in measured.runs)
    samples_ms = [ns / 1e6 for run in measured.runs for block in run.blocks for ns in block.samples_ns]
    low, high = measured.latency_interval_ms
    assert min(samples_ms) == measured.latency_min_ms
    assert low <= measured.latency_p50_ms <= high
    assert measured.latency_p50_ms in samples_ms
    assert measured.artifact_sha256 == sha256_of(exported.onnx)
    assert measured.size_bytes == exported.onnx.stat().st_size
    assert (measured.target, measured.kind, measured.runtime) == ("host", "real", "onnxruntime")
    assert measured.environment["settings"] == {"threads": 1, "precision": "fp32"}


def test_a_measurement_survives_json(measured):
    text = json.dumps(measurement_to_dict(measured), allow_nan=False)
    assert measurement_from_dict(json.loads(text)) == measured


def test_the_fingerprint_changes_with_the_engine_not_with_the_file(measured, exported, host, short):
    again = measure(exported.onnx, host, short)
    other = measure(exported.onnx, dataclasses.replace(host, threads=2), short)
    assert again.fingerprint == measured.fingerprint
    assert other.fingerprint != measured.fingerprint


def test_a_pair_is_interleaved(exported, host, short):
    assert [turn_order(2, turn) for turn in range(4)] == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert [turn_order(1, turn) for turn in range(2)] == [[0], [0]]
    first, second = measure_pair(exported.onnx, exported.onnx, host, short)
    assert len(first.runs) == len(second.runs) == short.processes
    assert first.artifact_sha256 == second.artifact_sha256


def test_a_wider_network_takes_longer(tmp_path, host, short):
    from edgeprune.network.export import export_network

    files = []
    for width in (8, 64):
        network = torch.nn.Sequential(*(torch.nn.Conv2d(width, width, 3, padding=1) for _ in range(4)))
        files.append(
            export_network(network, (torch.zeros(1, width, 16, 16),), tmp_path / str(width), simplify=False).onnx
        )
    narrow, wide = measure_pair(*files, host, short)
    assert wide.latency_p50_ms > 2 * narrow.latency_p50_ms


def test_outputs_of_the_target_are_those_of_the_network(exported, network, host):
    inputs = torch.randn(5, 3, 8, 8)
    (outputs,) = run_on_target(exported.onnx, host, [(row[None].numpy(),) for row in inputs])
    with torch.no_grad():
        expected = network(inputs).numpy()
    assert outputs.shape == (5, 5)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_a_profile_names_the_layers_of_the_network(exported, network, host):
    layers_ms = profile_on_target(exported.onnx, host)
    named = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)}
    assert named <= set(layers_ms) <= named | {"(layout)"}
    assert all(value_ms > 0 for value_ms in layers_ms.values())


@pytest.mark.parametrize("content", [b"", b"this is no network", b"\x08\x07" * 500])
def test_a_corrupt_artifact_is_a_build_error_that_names_it(tmp_path, host, short, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BuildError, match=r"onnxruntime on target host cannot open broken.onnx"):
        measure(path, host, short)


def test_a_missing_artifact_is_refused(tmp_path, host):
    with pytest.raises(UsageError, match=r"no artifact .*gone.onnx"):
        measure(tmp_path / "gone.onnx", host)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"runtime": "onnxruntim"}, UnknownNameError, "Unknown runtime 'onnxruntim'. Did you mean 'onnxruntime'"),
        ({"transport": "carrier-pigeon"}, UnknownNameError, "Unknown transport 'carrier-pigeon'"),
        ({"kind": "emulated"}, UsageError, "calls itself 'emulated', but its transport 'local' reaches 'real' boards"),
        ({"address": "ssh://x"}, UsageError, "takes no address"),
    ],
)
def test_a_target_that_does_not_fit_is_refused(exported, host, change, error, said):
    with pytest.raises(error, match=said.replace("?", r"\?")):
        measure(exported.onnx, dataclasses.replace(host, **change))


def test_a_process_that_is_too_slow_is_ended(exported, host):
    options = MeasureOptions(processes=1, blocks=1, block_s=30.0, timeout_s=1.0)
    with pytest.raises(BoardError, match="killed by signal 15 after its 1 s"):
        measure(exported.onnx, host, options)


def test_a_missing_engine_comes_with_the_command_that_installs_it(exported, host, tmp_path):
    bare = tmp_path / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", bare], check=True)
    target = dataclasses.replace(host, python=str(bare / "bin" / "python"))
    remedy = rf"no module 'onnxruntime'. Run there: {bare}/bin/python -m pip install 'onnxruntime>=1.14' 'numpy'"
    with pytest.raises(BoardError, match=remedy):
        measure(exported.onnx, target)


def test_wrong_inputs_say_so(exported, host):
    with pytest.raises(BoardError, match="failed while it had to run"):
        run_on_target(exported.onnx, host, [(np.zeros((1, 7), np.float32),)])
    with pytest.raises(UsageError, match="no samples"):
        run_on_target(exported.onnx, host, [])


@pytest.mark.parametrize("name", ["processes", "blocks", "block_runs", "warmup_runs"])
def test_options_that_measure_nothing_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} is 0"):
        MeasureOptions(**{name: 0})


def test_measuring_needs_no_torch():
    code = "import sys, edgeprune.bench.measure; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_text_says_what_the_sample_supports(measured):
    count = sum(len(block.samples_ns) for run in measured.runs for block in run.blocks)
    text = render_measurement(dataclasses.replace(measured, latency_p99_ms=None, warnings=("Careful.",)))
    assert f"{measured.latency_p50_ms:.3f} ms" in text
    assert f"not shown: {count} samples, 662 are needed" in text
    assert "cold start" in text
    assert re.search(r"^operators    CPUExecutionProvider \d+$", text, re.MULTILINE)
    assert text.endswith("Careful.")


def test_the_text_says_which_difference_could_be_seen(measured):
    run = measured.runs[0]
    blocks = tuple(Block(tuple(2 * ns for ns in block.samples_ns), {}) for block in run.blocks)
    slower = dataclasses.replace(run, blocks=blocks)
    # The logarithms of the two lie ln 2 apart, so their standard deviation is ln 2 / sqrt 2.
    seen = statistics.smallest_detectable(math.log(2), 2)
    said = f"differences  from about {seen:.1%} on with 2 processes of each (by their own scatter)"
    assert said in render_measurement(dataclasses.replace(measured, runs=(run, slower))).splitlines()
    assert "differences" not in render_measurement(dataclasses.replace(measured, runs=(run,)))
