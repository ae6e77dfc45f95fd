from __future__ import annotations

import json

import pytest
import torch
from small_networks import Residual, randomise
from typer.testing import CliRunner

from edgeprune.cli import build_app
from edgeprune.network.export import export_network

BOARD = "emulated-jetson-nano"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """A network and one of twice its width."""
    folder = tmp_path_factory.mktemp("networks")
    return [
        export_network(
            randomise(Residual(width)), (torch.zeros(1, 3, 32, 32),), folder / str(width), simplify=False
        ).onnx
        for width in (64, 128)
    ]


def run(*arguments):
    result = CliRunner().invoke(build_app(), ["compare", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result


def test_it_says_which_is_faster_and_what_was_measured(artifacts):
    result = run(*artifacts, "--target", BOARD)
    assert result.exit_code == 0
    assert "B is slower than A: it takes " in result.output
    assert f"{BOARD} (emulated)" in result.output
    assert "6 processes of each, in turns" in result.output
    assert "B is faster than A" in run(*reversed(artifacts), "--target", BOARD).output


def test_json_is_the_comparison_and_out_a_file(artifacts, tmp_path):
    out = tmp_path / "compared.json"
    result = run(artifacts[0], artifacts[0], "--target", BOARD, "--json", "--out", out)
    data = json.loads(result.stdout)
    assert result.exit_code == 0
    assert data["verdict"] == "no difference"
    assert data["kind"] == data["first"]["kind"] == "emulated"
    assert data["interval"][0] < 1 < data["interval"][1]
    assert json.loads(out.read_text()) == data


def test_too_much_scatter_for_the_margin_is_exit_3(artifacts):
    result = run(artifacts[0], artifacts[0], "--target", BOARD, "--margin", "0.05%")
    assert result.exit_code == 3
    assert "Inconclusive: this target scatters too much to say" in result.output
    assert "larger --margin than 0.05%" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gone.onnx", "gone.onnx"), "There is no artifact gone.onnx. Make one with: edgeprune export"),
        (("a", "b", "--margin", "2"), "The margin '2' is not between 0 and 100 %; write it like 2%"),
        (("a", "b", "--target", "emulated-jetson-nan"), "Did you mean 'emulated-jetson-nano'"),
    ],
)
def test_a_mistake_is_one_line(arguments, said):
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
