from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import Depthwise, Residual, randomise
from torch import nn

from edgeprune.bench.emulated_board import board_from_settings, emulate, fuse, true_latency_ms
from edgeprune.bench.target import list_targets, load_target
from edgeprune.bench.work import LayerWork, works_of_onnx
from edgeprune.errors import UsageError
from edgeprune.network.export import export_network

NAMES = [name for name in list_targets() if name.startswith("emulated-")]
SETTINGS = {
    "emulated": {
        "model": "Test",
        "engine": "test",
        "units": 2,
        "clock_mhz": 1000.0,
        "peak_gmacs": {"fp32": 10.0, "fp16": 20.0},
        "fuses": ["activation", "elementwise"],
        "memory": {"gb_per_s": 1.0, "cache_gb_per_s": 10.0, "cache_bytes": 1000, "base_bytes": 5000},
        "overhead": {"kernel_us": 100.0, "enqueue_us": 0.0, "inference_us": 500.0},
        "noise": {"within": 0.01, "between": 0.01},
        "heat": {"idle_c": 40.0, "busy_c": 60.0, "settle_s": 10.0, "throttle_c": 80.0, "throttled_part": 0.5},
        "start": {"process_s": 1.0, "open_ms": 10.0, "first_factor": 2.0, "felt_runs": 3.0},
        "ways": [
            {"kinds": ["conv"], "part": 1.0, "in_tile": 8, "out_tile": 16, "position_tile": 10, "needs_out": 8},
            {"kinds": ["conv", "linear"], "part": 0.5, "position_tile": 10},
            {"kinds": ["depthwise"], "part": 0.1, "out_tile": 4},
        ],
    }
}


@pytest.fixture(scope="module")
def board():
    return board_from_settings(SETTINGS)


def without_overhead(board):
    return dataclasses.replace(board, overhead=dataclasses.replace(board.overhead, kernel_us=0.0, inference_us=0.0))


def conv(inputs, outputs, **changes):
    work = LayerWork(
        name="conv",
        operator="Conv",
        kind="conv",
        reads=(),
        input_elements=100 * inputs,
        output_elements=100 * outputs,
        weight_elements=9 * inputs * outputs,
        in_channels=inputs,
        out_channels=outputs,
        kernel=9,
        positions=100,
    )
    return dataclasses.replace(work, **changes)


def test_time_is_whole_tiles_dealt_to_the_units_in_waves(board):
    bare = dataclasses.replace(
        without_overhead(board), memory=dataclasses.replace(board.memory, gb_per_s=1e6, cache_gb_per_s=1e6)
    )
    # 10 position tiles x 3 channel tiles on 2 units: 15 waves of 10 x 16 x 16 x 9 MACs at 5 GMAC/s.
    assert true_latency_ms([conv(12, 40)], bare) == pytest.approx(15 * 10 * 16 * 16 * 9 / 5e6)
    # 41 channels are no multiple of 8: the second way, without padding, at half the rate.
    assert true_latency_ms([conv(12, 41)], bare) == pytest.approx(5 * 41 * 10 * 12 * 9 / 2.5e6)


@given(st.integers(1, 96), st.integers(1, 96))
def test_wider_is_never_faster_on_tiles_alone(inputs, outputs):
    board = board_from_settings(SETTINGS)
    board = dataclasses.replace(board, ways=(dataclasses.replace(board.ways[0], needs_out=1),))
    base = true_latency_ms([conv(inputs, outputs)], board)
    assert true_latency_ms([conv(inputs + 1, outputs)], board) >= base
    assert true_latency_ms([conv(inputs, outputs + 1)], board) >= base


def test_cutting_to_an_odd_width_can_make_a_layer_slower(board):
    assert true_latency_ms([conv(64, 62)], board) > true_latency_ms([conv(64, 64)], board)
    assert true_latency_ms([conv(64, 48)], board) < true_latency_ms([conv(64, 64)], board)


def test_what_moves_data_takes_as_long_as_the_memory_needs(board):
    add = LayerWork("add", "Add", "elementwise", (), input_elements=2_000_000, output_elements=1_000_000)
    moved = 12e6
    expected_ms = 1000 / 10e6 + (moved - 1000) / 1e6
    assert true_latency_ms([add], without_overhead(board)) == pytest.approx(expected_ms)


def test_an_operator_joins_the_kernel_before_it_where_it_is_the_only_reader(board):
    relu = LayerWork("conv/Relu", "Relu", "activation", (0,), 800, 800)
    works = [conv(8, 8), relu, conv(8, 8, name="second", reads=(1,)), dataclasses.replace(relu, reads=(2,))]
    assert fuse(works, board) == [(0, 1), (2, 3)]
    add = LayerWork("add", "Add", "elementwise", (1, 3), 1600, 800)
    assert fuse([*works, add], board) == [(0, 1), (2, 3, 4)]
    shown = [dataclasses.replace(work, leaves=index == 2) for index, work in enumerate(works)]
    assert fuse(shown, board) == [(0, 1), (2,), (3,)]
    flat = LayerWork("flat", "Flatten", "view", (1,), 800, 800)
    assert fuse([*works[:2], flat], board) == [(0, 1)]


def test_a_network_is_not_the_sum_of_its_layers(board):
    slow = dataclasses.replace(board, overhead=dataclasses.replace(board.overhead, enqueue_us=5000.0))
    works = [conv(8, 8), conv(8, 8, name="second", reads=(0,))]
    together = true_latency_ms(works, board)
    alone = [true_latency_ms([dataclasses.replace(work, reads=())], board) for work in works]
    assert together < sum(alone)  # the inference's own overhead counts once
    assert true_latency_ms(works, slow) == pytest.approx(10.0 + 0.5)
    heavy = [dataclasses.replace(work, weight_elements=250) for work in works]  # each fits into the cache, both do not
    bare = without_overhead(board)
    fast = dataclasses.replace(bare, peak_gmacs={"fp32": 1e6}, memory=dataclasses.replace(board.memory, gb_per_s=0.01))
    weights_only = [dataclasses.replace(work, input_elements=0, output_elements=0) for work in heavy]
    assert true_latency_ms(weights_only, fast) > 1.5 * sum(true_latency_ms([work], fast) for work in weights_only)


def test_the_engine_picks_the_fastest_precision_that_it_may(board):
    free = dataclasses.replace(board, runs_as={"fp32": ("fp32", "fp16")})
    (kernel,) = emulate([conv(64, 64)], free).kernels
    assert kernel.precision == "fp16"
    assert true_latency_ms([conv(64, 64)], free) < true_latency_ms([conv(64, 64)], board)


def test_memory_is_what_is_held_at_the_worst_moment(board):
    works = [conv(8, 8), conv(8, 8, reads=(0,)), conv(8, 8, reads=(0, 1)), conv(8, 8, reads=(2,))]
    found = emulate(works, board)
    assert found.peak_memory_bytes == 5000 + 4 * 4 * 9 * 64 + 3 * 4 * 800


def test_what_the_engine_cannot_compute_is_said(board):
    with pytest.raises(UsageError, match="Test has no way to compute MatMul 'm' at fp32"):
        true_latency_ms([conv(8, 8, name="m", operator="MatMul", kind="matmul")], board)
    with pytest.raises(UsageError, match="no way to compute Conv 'conv' at int8"):
        true_latency_ms([conv(8, 8, precision="int8")], board)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "describes its board under [settings.emulated]; this one has none"),
        ({"emulated": {**SETTINGS["emulated"], "unit": 2}}, "settings.emulated.unit: Unexpected keyword argument"),
        ({"emulated": {**SETTINGS["emulated"], "units": "2"}}, "settings.emulated.units: Input should be a valid int"),
        ({"emulated": {**SETTINGS["emulated"], "memory": {}}}, "settings.emulated.memory.gb_per_s: Field required"),
    ],
)
def test_a_board_that_does_not_fit_is_refused_with_its_place(settings, said):
    with pytest.raises(UsageError) as refused:
        board_from_settings(settings)
    assert said in str(refused.value)


@pytest.fixture(scope="module", params=[Residual(), Depthwise()], ids=lambda network: type(network).__name__)
def exported(request, tmp_path_factory):
    network = randomise(request.param)
    folder = tmp_path_factory.mktemp("network")
    return network, export_network(network, (torch.zeros(1, 3, 8, 8),), folder, simplify=False).onnx


@pytest.mark.parametrize("name", NAMES)
def test_every_emulated_target_runs_networks_and_says_what_it_is(name, exported):
    network, onnx = exported
    target = load_target(name)
    assert (target.name, target.kind, target.transport) == (name, "emulated", "emulated")
    assert "Emulated" in target.description
    found = emulate(works_of_onnx(onnx), board_from_settings(target.settings))
    assert 0.01 < found.latency_ms < 10
    layers = {name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert set(found.layers_ms()) >= layers


def test_there_are_boards_of_every_kind():
    families = ("jetson-nano", "jetson-orin-nano", "jetson-agx-orin", "raspberry-pi-4", "raspberry-pi-5")
    for family in families:
        assert f"emulated-{family}" in NAMES
