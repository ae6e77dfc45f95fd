from __future__ import annotations

import collections
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.bench.comparison import CompareOptions, compare, comparison_to_dict, describe_effect, judge
from edgeprune.bench.emulated_board import board_from_settings, true_latency_ms
from edgeprune.bench.measure import MeasureOptions
from edgeprune.bench.measurement import Block, ProcessRun
from edgeprune.bench.target import load_target
from edgeprune.bench.work import works_of_onnx
from edgeprune.errors import UsageError
from edgeprune.network.export import export_network

SHORT = CompareOptions(measure=MeasureOptions(blocks=2, block_s=0.02, warmup_s=0.02))


def runs_of(levels_ms):
    return [
        ProcessRun(1.0, 1.0, (), (Block((round(level * 1e6),) * 5), Block((round(level * 1e6),) * 5)), 0)
        for level in levels_ms
    ]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Two networks of which the second takes 3.3 % longer on every board used here."""
    files = []
    for width in (192, 208):
        torch.manual_seed(0)
        layers = [nn.Conv2d(96, 96, 3, padding=1) for _ in range(3)]
        network = nn.Sequential(nn.Conv2d(3, 96, 3, padding=1), *layers, nn.Conv2d(96, width, 3, padding=1))
        folder = tmp_path_factory.mktemp(str(width))
        files.append(export_network(network, (torch.zeros(1, 3, 16, 16),), folder, simplify=False).onnx)
    return files


def truth(artifacts, target):
    board = board_from_settings(target.settings)
    first, second = (true_latency_ms(works_of_onnx(path), board) for path in artifacts)
    return second / first


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [
        ([1.0, 1.001, 0.999, 1.0, 1.002, 0.998], "no difference"),
        ([1.03, 1.031, 1.029, 1.03, 1.032, 1.028], "slower"),
        ([0.97, 0.971, 0.969, 0.97, 0.972, 0.968], "faster"),
        ([0.9, 1.1, 0.95, 1.05, 1.0, 1.02], "inconclusive"),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_margin(factors, verdict):
    levels = np.linspace(2.0, 3.0, len(factors))  # drift meets both
    effect = judge(runs_of(levels), runs_of(levels * factors), CompareOptions())
    assert effect.verdict == verdict
    assert effect.latency_factor == pytest.approx(np.exp(np.mean(np.log(factors))), rel=1e-4)
    assert effect.interval[0] < effect.latency_factor < effect.interval[1]
    assert effect.pairs == 6
    assert verdict in describe_effect(effect)


def test_every_look_is_held_to_its_share_of_the_error():
    assert CompareOptions(looks=(6,)).level == pytest.approx(0.95)
    assert CompareOptions().level == pytest.approx(0.99)
    levels, factors = np.ones(6), np.array([1.002, 1.03, 1.008, 1.02, 1.011, 1.017])
    once = judge(runs_of(levels), runs_of(factors), CompareOptions(margin=0.005, looks=(6,)))
    often = judge(runs_of(levels), runs_of(factors), CompareOptions(margin=0.005, looks=tuple(range(2, 42))))
    assert (once.verdict, often.verdict) == ("slower", "inconclusive")


@pytest.mark.parametrize("name", ["emulated-jetson-nano", "emulated-raspberry-pi-5"])
def test_identical_artifacts_do_not_differ_and_3_percent_are_found(artifacts, name):
    target = load_target(name)
    same, other = collections.Counter(), collections.Counter()
    for number in range(12):
        board = dataclasses.replace(target, address=str(number))
        same[compare(artifacts[0], artifacts[0], board, SHORT).effect.verdict] += 1
        other[compare(*artifacts, board, SHORT).effect.verdict] += 1
    assert same["no difference"] >= 11, same
    assert other["slower"] >= 11, other


def test_the_true_difference_is_inside_the_interval(artifacts):
    target = load_target("emulated-raspberry-pi-4")
    found = compare(*artifacts, target, SHORT)
    low, high = found.effect.interval
    assert low < truth(artifacts, target) < high
    assert found.kind == "emulated"
    assert len(found.first.runs) == len(found.second.runs) == found.effect.pairs
    assert found.effect.pairs in SHORT.looks
    data = json.loads(json.dumps(comparison_to_dict(found), allow_nan=False))
    assert data["verdict"] == "slower"
    assert len(data["second"]["runs"]) == data["pairs"]


def test_a_board_that_scatters_too_much_is_inconclusive_after_the_cap(artifacts):
    target = load_target("emulated-raspberry-pi-5")
    wild = {**target.settings["emulated"], "noise": {"within": 0.02, "between": 0.15}}
    noisy = dataclasses.replace(target, settings={"emulated": wild})
    found = compare(artifacts[0], artifacts[0], noisy, dataclasses.replace(SHORT, looks=(4, 8)))
    assert found.effect.verdict == "inconclusive"
    assert found.effect.pairs == 8
    assert found.effect.detectable > 0.05


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"margin": 0.0}, "The margin is 0; it must lie between 0 and 1, such as 0.02 for 2 %"),
        ({"looks": ()}, "must be rising numbers of pairs"),
        ({"looks": (6, 4)}, "looks (6, 4) must be rising"),
        ({"looks": (1, 4)}, "of at least 2"),
    ],
)
def test_options_that_decide_nothing_are_refused(change, said):
    with pytest.raises(UsageError) as refused:
        CompareOptions(**change)
    assert said in str(refused.value)
