from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.bench import statistics
from edgeprune.bench.measurement import Block, ProcessRun


def run_of(*blocks_ms, telemetry=None):
    blocks = tuple(Block(tuple(round(ms * 1e6) for ms in block), telemetry or {}) for block in blocks_ms)
    return ProcessRun(open_ms=1.0, first_ms=1.0, warmup_ns=(), blocks=blocks, peak_memory_bytes=0)


def steady_runs(processes=3, blocks=4, samples=20, ms=2.0, **kwargs):
    noise = np.random.default_rng(0)
    return [
        run_of(*(ms * (1 + 0.001 * noise.standard_normal(samples)) for _ in range(blocks)), **kwargs)
        for _ in range(processes)
    ]


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_nearest_rank_is_a_sample_that_enough_samples_do_not_exceed(values, part):
    samples = np.array(values)
    found = statistics.nearest_rank(samples, part)
    assert found in samples
    assert (samples <= found).mean() >= part - 1e-12
    assert (samples < found).mean() < part


def test_quantiles_need_their_samples():
    samples = np.arange(1.0, 64.0)
    assert statistics.supported_quantile(samples, 0.9, statistics.P90_SAMPLES) is None
    samples = np.arange(1.0, 65.0)
    assert statistics.supported_quantile(samples, 0.9, statistics.P90_SAMPLES) == 58.0
    assert statistics.supported_quantile(samples, 0.99, statistics.P99_SAMPLES) is None


def test_the_interval_knows_that_processes_differ():
    alike = [run_of([2.0] * 200, [2.0] * 200) for _ in range(5)]
    apart = [run_of([ms] * 200, [ms] * 200) for ms in (1.9, 1.95, 2.0, 2.05, 2.1)]
    assert statistics.median_interval_ms(alike) == pytest.approx((2.0, 2.0))
    low, high = statistics.median_interval_ms(apart)
    assert low <= 1.95
    assert high >= 2.05
    assert statistics.median_interval_ms(apart) == (low, high)  # seeded


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=40))
def test_the_number_that_is_reported_lies_in_its_interval(samples_ns):
    runs = [run_of([ns / 1e6 for ns in samples_ns])]
    low, high = statistics.median_interval_ms(runs)
    assert low <= statistics.nearest_rank(statistics.pooled_ms(runs), 0.5) <= high


def test_the_interval_of_a_measurement_covers_the_truth_as_often_as_it_says():
    noise = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        levels = 2.0 * np.exp(noise.normal(0.0, 0.0126, size=5))
        runs = [run_of(*(level * np.exp(noise.normal(0.0, 0.026, (3, 11))))) for level in levels]
        low, high = statistics.median_interval_ms(runs)
        inside += low <= 2.0 <= high
    assert 0.92 <= inside / 300 <= 0.98


@pytest.mark.parametrize("count", [3, 5, 7, 12, 30])
@pytest.mark.parametrize("within", [0.001, 0.01, 0.03])
def test_the_interval_covers_the_truth_with_few_units_and_with_noisy_blocks(count, within):
    noise = np.random.default_rng(count)
    inside = 0
    for _ in range(1500):
        blocks = noise.normal(0.0, 0.0126, (count, 1)) + noise.normal(0.0, within, (count, 4))
        low, high = statistics.mean_interval(blocks)
        inside += low <= 0.0 <= high
    assert 0.93 <= inside / 1500 <= 0.97


def test_a_single_process_answers_for_its_blocks_alone():
    low, high = statistics.mean_interval(np.array([[1.0, 2.0, 3.0]]))
    assert low < 2.0 < high
    assert statistics.mean_interval(np.array([[2.0]])) == (2.0, 2.0)


def test_differences_are_of_pairs_and_cancel_what_both_saw():
    drifting = [run_of([level] * 5) for level in (1.0, 1.1, 1.3)]
    slower = [run_of([1.05 * level] * 5) for level in (1.0, 1.1, 1.3)]
    assert np.exp(statistics.log_differences(drifting, slower)) == pytest.approx(1.05)


def test_the_smallest_detectable_effect_is_found_in_80_of_100():
    noise = np.random.default_rng(0)
    effect = np.log1p(statistics.smallest_detectable(0.018, 20))
    differences = noise.normal(effect, 0.018, (3000, 20, 1))
    found = np.mean([statistics.mean_interval(each)[0] > 0 for each in differences])
    assert found == pytest.approx(0.8, abs=0.05)


def test_the_plain_median_is_inside():
    runs = [run_of([1.0] * 10, [5.0] * 500), run_of([1.0] * 10, [1.0] * 10)]
    low, high = statistics.median_interval_ms(runs)
    assert low <= float(np.median(statistics.pooled_ms(runs))) <= high


def test_steady_samples_raise_no_doubt():
    quiet = {"other_load": 0.01, "waiting": 0.01, "clock_mhz": 2600.0, "temperature_c": None}
    assert statistics.doubts(steady_runs(telemetry=quiet)) == ()


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([run_of(*([2.0 + 0.1 * step] * 20 for step in range(6)))], "19.5% slower while measuring"),
        (steady_runs(telemetry={"other_load": 0.8}), "up to 0.8 cores busy during 12 of 12 blocks"),
        (steady_runs(telemetry={"waiting": 0.48}), "waited 48% of the time for a core"),
        (steady_runs(telemetry={"throttled": ["under-voltage"]}), "(under-voltage) during 12 of 12 blocks"),
        ([run_of([3.0] * 5 + [2.0] * 45)] * 3, "first timed inferences were 50% slower than the rest"),
        ([run_of([1.0, 3.0] * 10), run_of([1.0, 3.0] * 10)], "spreads over 100% of the median"),
        ([run_of([1.0] * 20), run_of([1.0] * 20), run_of([1.5] * 20)], "more processes make it sharper"),
    ],
)
def test_doubts_are_said_with_their_numbers(runs, said):
    assert any(said in doubt for doubt in statistics.doubts(runs)), statistics.doubts(runs)


def test_a_moving_clock_is_said():
    runs = [run_of([2.0] * 20, telemetry={"clock_mhz": mhz}) for mhz in (1500.0, 1200.0)]
    assert any("between 1200 and 1500 MHz" in doubt for doubt in statistics.doubts(runs))


def test_drift_is_seen_within_processes_not_between_them():
    assert statistics.drift([run_of([1.0] * 9, [1.0] * 9, [1.1] * 9)] * 3) == pytest.approx(1.1)
    assert statistics.drift([run_of([1.0] * 9, [1.0] * 9), run_of([2.0] * 9, [2.0] * 9)]) == 1.0
