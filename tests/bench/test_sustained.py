"""A long time under load, on boards that warm up."""

from __future__ import annotations

import copy
import dataclasses

import pytest

from edgeprune.bench.link import session
from edgeprune.bench.measure import MeasureOptions, measure
from edgeprune.bench.rendering import render_sustained
from edgeprune.bench.sustained import measure_sustained, sustained_to_dict
from edgeprune.bench.target import load_target

HOT = {"busy_c": 100.0, "throttle_c": 80.0, "settle_s": 20.0}


def board(**heat):
    """A board that takes ten milliseconds an inference, so that little has to be computed for minutes of its time."""
    target = load_target("emulated-raspberry-pi-4")
    settings = copy.deepcopy(dict(target.settings))
    settings["emulated"]["heat"].update(heat)
    settings["emulated"]["overhead"]["inference_us"] = 1e4
    return dataclasses.replace(target, settings=settings)


def test_a_board_that_gets_too_hot_slows_down_and_says_when(exported):
    found = measure_sustained(exported.onnx, board(**HOT), 120.0)
    assert len(found.points) == 120
    assert found.points[-1].at_s == pytest.approx(120.0, rel=0.05)
    assert found.settled_ms / found.first_ms > 1.3
    assert found.throttled_from_s is not None
    assert 10 < found.throttled_from_s < 60
    text = render_sustained(found)
    assert "slowed down  from 0." in text
    assert "2.0 min without a pause" in text
    data = sustained_to_dict(found)
    assert data["slowdown"] > 1.3
    assert [point["temperature_c"] for point in data["points"]] == sorted(p.temperature_c for p in found.points)


def test_a_board_that_stays_cool_never_does(exported):
    found = measure_sustained(exported.onnx, board(busy_c=60.0), 60.0)
    assert found.throttled_from_s is None
    assert found.settled_ms == pytest.approx(found.first_ms, rel=0.03)
    assert "slowed down  never" in render_sustained(found)


def test_samples_are_thinned_and_the_time_is_still_whole(exported):
    (run,) = measure(
        exported.onnx, board(), MeasureOptions(processes=1, blocks=2, block_s=10.0, block_kept=50, warmup_runs=1)
    ).runs
    assert [50 <= len(block.samples_ns) <= 100 for block in run.blocks] == [True, True]
    assert run.blocks[0].telemetry["wall_s"] == pytest.approx(10.0, rel=0.01)


def test_heat_stays_from_benchmark_to_benchmark_of_a_session_and_the_first_look_sees_it(exported):
    target = board(**HOT, hysteresis_c=40.0)
    options = MeasureOptions(processes=1, blocks=1, block_s=60.0)
    cool = measure(exported.onnx, target, MeasureOptions(processes=1, blocks=1))
    assert not any("Before the benchmark" in warning for warning in cool.warnings)
    with session():
        measure(exported.onnx, target, options)
        warm = measure(exported.onnx, target, MeasureOptions(processes=1, blocks=1))
    start_c = [found.runs[0].blocks[0].telemetry["temperature_c"] for found in (cool, warm)]
    assert start_c[1] > start_c[0] + 10
    assert any(warning.startswith("Before the benchmark: The board slows itself down now") for warning in warm.warnings)
    again = measure(exported.onnx, target, MeasureOptions(processes=1, blocks=1))
    assert again.runs == cool.runs
