"""`edgeprune apply`: the plan of a run, replayed on the original weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import edgeprune as ep
from edgeprune.cli import build_app
from edgeprune.network.model import load_model
from tests.jobs import ARCH, JobFiles, write_job_files

KEEP = (0, 2, 3, 7, 11)


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    return write_job_files(tmp_path)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(ep.Plan((ep.PruneChannels("blocks.0.conv1", KEEP),)).to_json())
    return path


@pytest.fixture
def run(files: JobFiles) -> Callable[..., Result]:
    def run(plan: Path, out: Path, *more: str) -> Result:
        arguments = [str(plan), str(files.weights), "--arch", ARCH, "--input-size", "3x8x8", "--out", str(out), *more]
        result = CliRunner().invoke(build_app(), ["apply", *arguments])
        assert "Traceback" not in result.output
        return result

    return run


def test_the_weights_that_stay_are_the_originals(
    run: Callable[..., Result], files: JobFiles, plan: Path, tmp_path: Path
) -> None:
    before, out = files.weights.read_bytes(), tmp_path / "small.safetensors"
    result = run(plan, out, "--json")
    assert result.exit_code == 0, result.output
    original, cut = load_file(files.weights), load_file(out)
    name = "blocks.0.conv1.weight"
    assert torch.equal(cut[name], original[name][list(KEEP)])
    assert torch.equal(cut["blocks.0.conv2.weight"], original["blocks.0.conv2.weight"][:, list(KEEP)])
    answer = json.loads(result.output)
    assert answer["parameters"] < sum(tensor.numel() for tensor in original.values())
    assert answer["exact"]
    assert answer["largest_difference"] < 1e-9
    assert files.weights.read_bytes() == before


def test_the_network_itself_can_be_loaded_again(run: Callable[..., Result], plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.pt2"
    result = run(plan, out)
    assert result.exit_code == 0, result.output
    assert "M MACs" in result.output
    assert "largest difference" in result.output
    network = load_model(out).module
    assert network.state_dict()["blocks.0.conv1.weight"].shape[0] == len(KEEP)
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("text", "out", "pattern"),
    [
        ("{}", "small.pt2", "no plan"),
        (ep.Plan((ep.PruneChannels("blocks.0.conv9", KEEP),)).to_json(), "small.pt2", "Did you mean 'blocks.0.conv1'"),
        (ep.Plan((ep.PruneChannels("blocks.0.conv1", (99,)),)).to_json(), "small.pt2", "units are 0 to 17"),
        (ep.Plan().to_json(), "small.onnx", r"must end in \.pt2 .* or \.safetensors"),
        (ep.Plan().to_json(), "weights.safetensors", "the model itself, which is never changed"),
    ],
)
def test_what_does_not_fit_is_one_line(  # fixtures
    run: Callable[..., Result], plan: Path, tmp_path: Path, text: str, out: str, pattern: str
) -> None:
    plan.write_text(text)
    result = run(plan, tmp_path / out)
    assert result.exit_code == 2, result.output
    assert re.search(pattern, " ".join(result.output.split()))


def test_a_missing_plan_is_named(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere.json", tmp_path / "small.pt2")
    assert result.exit_code == 2
    assert "nowhere.json cannot be read" in " ".join(result.output.split())
