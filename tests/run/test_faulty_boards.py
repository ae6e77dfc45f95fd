"""Whole runs on emulated boards that fail now and then, and for budgets that no network meets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_networks import Residual, randomise

from edgeprune.bench.target import Target, list_families, load_target
from edgeprune.progress import Silent
from edgeprune.run.profiling import profile_network
from tests.jobs import JobFiles, write_job_files

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
BOARD = "emulated-raspberry-pi-5-onnxruntime"


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board of which one process in ten falls silent."""
    text = list_families()[BOARD].path.read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("targets") / "weak.toml"
    path.write_text(text.replace("units = 4\n", "units = 4\nfailures = 0.1\n", 1))
    assert load_target(path).settings["emulated"]["failures"] == 0.1
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> JobFiles:
    return write_job_files(tmp_path_factory.mktemp("job"))


def compress(files: JobFiles, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeprune.cli", *files.arguments(out, *more, "--epochs", "0", "--json")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=_ROOT)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def rounds_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]


def test_a_board_that_fails_one_run_in_ten_loses_no_round(files: JobFiles, weak: Path, tmp_path: Path) -> None:
    done = compress(files, tmp_path / "run", "--target", str(weak), "--latency", "95%")
    assert done.returncode == 0, done.stderr
    rounds = rounds_of(tmp_path / "run")
    result = json.loads(done.stdout)
    assert [found["index"] for found in rounds if found["stage"] == "search"] == list(range(1, result["rounds"] + 1))
    for found in rounds:
        blocks = {len(run["blocks"]) for run in found["measurement"]["runs"]}
        assert len(blocks) == 1, f"round {found['index']} of {found['stage']} lost a block"
    everything = [*result["warnings"], *(note for found in rounds for note in found["measurement"]["warnings"])]
    assert any("dropped" in note for note in everything)


def test_a_weak_board_is_profiled_like_a_sound_one(weak: Path) -> None:
    import torch

    def profiled(target: Target) -> set[str]:
        found = profile_network(randomise(Residual()), (torch.zeros(1, 3, 8, 8),), target, None, Silent())
        assert all(len(medians) >= 2 for medians in found.table.layers.values())
        return set(found.costs.layers)

    assert profiled(load_target(weak)) == profiled(load_target(BOARD))


def test_a_budget_that_no_network_meets_is_exit_1_with_the_floor_and_the_best(files: JobFiles, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = compress(files, out, "--target", BOARD, "--latency", "1%")
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "fail"
    searched = [found for found in rounds_of(out) if found["stage"] == "search"]
    floor_ms = min(found["outcome"]["latency_ms"] for found in searched)
    assert any(f"still takes {floor_ms:.4g} ms" in sentence for sentence in result["violations"])
    assert result["final"]["latency_p50_ms"] < result["original"]["latency_p50_ms"]
    assert all((out / name).is_file() for name in ("model.onnx", "plan.json", "weights.safetensors", "report.html"))
