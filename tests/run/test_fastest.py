"""`compress --max-drop` without a latency: real search and real training on an emulated board."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgeprune import registry
from edgeprune.bench.target import load_target
from edgeprune.network.batches import FirstBatches
from edgeprune.network.data import load_data
from edgeprune.network.training import Guides, RecoverySettings, recover
from edgeprune.progress import Silent
from edgeprune.run.fastest import shortened
from edgeprune.run.job import Choices, Job
from edgeprune.verdict.budget import Budget
from tests.jobs import JobFiles, network, write_job_files

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_BOARD = ("--target", "emulated-raspberry-pi-5-onnxruntime")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> JobFiles:
    """Pictures, and a network that was trained on them for a moment."""
    folder = tmp_path_factory.mktemp("job")
    files = write_job_files(folder)
    torch.manual_seed(0)
    trained = network()
    settings = RecoverySettings(epochs=12, learning_rate=0.05, warmup_steps=2)
    recover(trained, load_data(str(files.data)), settings, Guides(), folder / "checkpoint", Silent())
    save_file(trained.state_dict(), files.weights)
    return files


def arguments(files: JobFiles, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "edgeprune.cli", *files.arguments(out, *_BOARD, *more)]


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=_ROOT)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def kill_when(command: Sequence[str], reached: Callable[[], bool]) -> None:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=_ROOT
    )
    while not reached():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def lines_of(out: Path, stage: str) -> list[dict[str, Any]]:
    path = out / "trials.jsonl"
    whole = path.read_text().split("\n")[:-1] if path.exists() else []  # the last line may be half written
    lines = [json.loads(line) for line in whole]
    return [line for line in lines if line["stage"] == stage]


DROP = ("--max-drop", "10pt", "--epochs", "4")


@pytest.fixture(scope="module")
def finished(files: JobFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run(arguments(files, out, *DROP, "--json"))
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_the_result_is_the_fastest_recovered_network_inside_the_limit(finished: tuple[Path, dict[str, Any]]) -> None:
    out, result = finished
    attempts = lines_of(out, "recovery")
    inside = [attempt for attempt in attempts if attempt["whole"] and attempt["feasible"]]
    assert inside
    best = min(inside, key=lambda attempt: attempt["part"])
    chosen = lines_of(out, "search")[best["trial"] - 1]
    assert chosen["index"] == best["trial"]
    assert result["allocation"] == chosen["allocation"]
    assert result["final"]["accuracy"] == best["accuracy"] >= result["original"]["accuracy"] - 0.1
    assert result["final"]["latency_p50_ms"] < result["original"]["latency_p50_ms"]
    assert result["stages"]["recovered"] == best["accuracy"]


def test_short_recoveries_come_first(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    attempts = lines_of(out, "recovery")
    assert not attempts[0]["whole"]
    assert [attempt["index"] for attempt in attempts] == list(range(1, len(attempts) + 1))


def test_no_allocation_is_measured_twice(finished: tuple[Path, dict[str, Any]]) -> None:
    out, result = finished
    allocations = [json.dumps(trial["allocation"], sort_keys=True) for trial in lines_of(out, "search")]
    assert len(set(allocations)) == len(allocations) == result["rounds"]


def test_a_killed_search_resumes_to_the_same_end(
    files: JobFiles, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = arguments(files, out, *DROP, "--resume")
    kill_when(command, lambda: len(lines_of(out, "search")) >= 2)
    kill_when(command, lambda: any((out / "work").glob("attempt-*/recovery.checkpoint")))
    kill_when(command, lambda: any(attempt["whole"] for attempt in lines_of(out, "recovery")))
    before = (out / "trials.jsonl").read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    done = run([*command, "--json"])
    assert done.returncode == 0, done.stderr
    assert (out / "trials.jsonl").read_bytes().startswith(before)
    whole, _ = finished
    assert [(a["part"], a["accuracy"]) for a in lines_of(out, "recovery")] == [
        (a["part"], a["accuracy"]) for a in lines_of(whole, "recovery")
    ]
    assert (out / "plan.json").read_text() == (whole / "plan.json").read_text()
    assert (out / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_attempts_are_judged_at_the_precision_that_is_built(files: JobFiles, tmp_path: Path) -> None:
    done = run(arguments(files, tmp_path / "int8", "--precision", "int8", "--max-drop", "20pt", "--epochs", "1"))
    attempts = [attempt for attempt in lines_of(tmp_path / "int8", "recovery") if attempt["accuracy"] is not None]
    assert attempts
    assert (done.stdout + done.stderr).count("accuracy at int8") == len(attempts) + 1  # and the result at the end
    result = json.loads((tmp_path / "int8" / "result.json").read_text())
    assert result["final"]["accuracy"] == result["stages"]["exported"]


@pytest.mark.parametrize(("epochs", "short"), [(1, (1, 1)), (3, (1, 3)), (20, (2, 10)), (100, (10, 10))])
def test_a_short_recovery_is_a_tenth_of_the_steps(files: JobFiles, epochs: int, short: tuple[int, int]) -> None:
    model = registry.load("methods", "magnitude")()
    data = replace(load_data(str(files.data)), train=[None] * 10)
    target, budget = load_target("emulated-raspberry-pi-5-onnxruntime"), Budget(accuracy_drop=0.01)
    whole = Job(None, (), data, target, budget, Choices(epochs=epochs), Path(), ())  # type: ignore[arg-type]
    job = shortened(whole, model)
    assert isinstance(job.data.train, FirstBatches)
    assert (job.choices.epochs, len(job.data.train)) == short
