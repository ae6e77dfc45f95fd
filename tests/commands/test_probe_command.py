from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from edgeprune.bench.emulated_board import board_from_settings
from edgeprune.bench.target import load_target
from edgeprune.cli import build_app
from tests.jobs import wide_network
from tests.small_networks import randomise

BOARD = "emulated-raspberry-pi-5-onnxruntime"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("model") / "weights.safetensors"
    save_file(randomise(wide_network()).state_dict(), path)
    return [str(path), "--arch", "tests.jobs:wide_network", "--input-size", "3x32x32"]


def run(*arguments):
    result = CliRunner().invoke(build_app(), ["probe", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def probed(model, tmp_path_factory):
    """A budget that cannot be met."""
    out = tmp_path_factory.mktemp("probe") / "probe.json"
    return run(*model, "--target", BOARD, "--latency", "2%", "--out", out, "--json"), out


def test_an_unreachable_budget_is_exit_1_with_the_floor_and_what_limits_it(probed):
    result, _ = probed
    data = json.loads(result.stdout)
    assert result.exit_code == 1
    assert data["budget"]["verdict"] == "not satisfiable"
    assert data["budget"]["nearest_ms"] == data["floor_interval_ms"][1]
    assert "Ask for" in data["budget"]["sentence"]


def test_the_curve_is_measured_and_the_floor_adds_up(probed):
    result, _ = probed
    data = json.loads(result.stdout)
    latencies = [variant["latency_p50_ms"] for variant in data["variants"]]
    assert [variant["how"] for variant in data["variants"]][:5] == ["original", *["uniform"] * 3, "smallest"]
    assert data["floor_ms"] == min(latencies) < data["original_ms"] == latencies[0]
    assert sum(part["latency_ms"] for part in data["floor"]) == pytest.approx(data["floor_ms"], rel=0.01)
    engine_ms = next(part["latency_ms"] for part in data["floor"] if part["what"].startswith("the engine"))
    board = board_from_settings(load_target(BOARD).settings)
    assert engine_ms == pytest.approx(board.overhead.inference_us / 1e3, rel=0.4)
    planned = [variant for variant in data["variants"] if variant["how"] == "planned"]
    assert planned
    assert all(variant["expected_ms"] == pytest.approx(variant["latency_p50_ms"], rel=0.25) for variant in planned)


def test_out_holds_the_numbers_and_a_picture(probed):
    result, out = probed
    assert json.loads(out.read_text()) == json.loads(result.stdout)
    assert ElementTree.parse(out.with_suffix(".svg")).getroot().tag.endswith("svg")


def test_wrong_names_are_refused_before_anything_is_measured(model, tmp_path):
    assert "Did you mean 'knapsack'" in run(*model, "--controller", "knapsak").output
    assert "needs data" in run(*model, "--target", BOARD, "--method", "taylor").output
    assert run(*model, "--out", tmp_path / "probe.txt").exit_code == 2
