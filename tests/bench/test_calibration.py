"""What a target can show: a file against itself on a board whose scatter is known, kept for later benchmarks."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest

from edgeprune.bench.calibration import calibrate, keep_calibration, known_calibration
from edgeprune.bench.measure import MeasureOptions, measure
from edgeprune.bench.rendering import render_calibration, render_measurement
from edgeprune.bench.target import load_target
from edgeprune.errors import StorageError

BOARD = "emulated-raspberry-pi-5"


@pytest.fixture(autouse=True)
def own_calibrations(monkeypatch, tmp_path):
    """What these tests keep, and break, is no other test's."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def scattering(between: float):
    target = load_target(BOARD)
    settings = copy.deepcopy(dict(target.settings))
    settings["emulated"]["noise"]["between"] = between
    return dataclasses.replace(target, settings=settings)


@pytest.fixture(scope="module")
def artifact(exported):
    return exported.onnx


def test_the_scatter_of_the_board_is_found(artifact):
    found = calibrate(artifact, scattering(0.02), pairs=60)
    assert found.deviation == pytest.approx(0.02 * math.sqrt(2), rel=0.3)
    assert found.interval[0] < found.latency_factor < found.interval[1]
    assert found.detectable(40) < found.detectable(10)
    assert found.detectable(10) == pytest.approx(2.8 * found.deviation / math.sqrt(10), rel=0.05)


def test_it_is_kept_by_board_and_engine_and_told_with_later_benchmarks(artifact):
    target = scattering(0.0126)
    found = calibrate(artifact, target, pairs=10)
    path = keep_calibration(found)
    assert known_calibration(found.fingerprint) == found
    assert known_calibration("0" * 16) is None
    later = measure(artifact, target, MeasureOptions(processes=2, blocks=1))
    text = render_measurement(later, known_calibration(later.fingerprint))
    assert f"from {found.detectable(2):.1%} on with 2 processes of each (calibrated {found.measured_on})" in text
    path.write_text("{}")
    with pytest.raises(StorageError, match="calibrate again"):
        known_calibration(found.fingerprint)


def test_a_file_that_seems_to_differ_from_itself_is_named(artifact):
    found = calibrate(artifact, scattering(0.0126), pairs=10)
    unfair = dataclasses.replace(found, latency_factor=1.05, interval=(1.03, 1.07))
    assert "seemed to differ from itself" in render_calibration(unfair)
    assert "from itself" not in render_calibration(dataclasses.replace(found, interval=(0.99, 1.01)))
