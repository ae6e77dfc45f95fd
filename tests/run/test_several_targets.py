"""One network for several targets, on two emulated boards of which neither tells what the other takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import edgeprune as ep
from edgeprune.bench.target import load_target
from edgeprune.errors import UsageError
from edgeprune.files import sha256_of
from edgeprune.gating.gate import GateRequest, run_gate
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.run.job import check_targets
from edgeprune.verdict.budget import Share
from edgeprune.verdict.result import Result, read_result
from tests.jobs import JobFiles, write_job_files

_ROOT = Path(__file__).parents[2]
FIRST, SECOND = "emulated-raspberry-pi-5-onnxruntime", "emulated-raspberry-pi-4"
LIMITS = ("--latency", "95%", "--latency", "90%")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> JobFiles:
    return write_job_files(tmp_path_factory.mktemp("job"))


def compress(files: JobFiles, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    targets = ("--target", FIRST, "--target", SECOND)
    command = [sys.executable, "-m", "edgeprune.cli", *files.arguments(out, *targets, *more)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=_ROOT)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(
    files: JobFiles, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str], Result]:
    out = tmp_path_factory.mktemp("runs") / "both"
    done = compress(files, out, *LIMITS, "--epochs", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done, read_result(out / "result.json")


def rounds_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_one_network_meets_the_budget_of_each_target(finished) -> None:
    _, _, result = finished
    (second,) = result.further
    assert (result.target, second.target, result.verdict) == (FIRST, SECOND, "pass")
    for ends, part in ((result, 0.95), (second, 0.9)):
        assert ends.budget.latency_ms == pytest.approx(part * ends.original.latency_p50_ms)
        assert ends.final.latency_interval_ms[1] <= ends.budget.latency_ms
    assert result.final.macs == second.final.macs < result.original.macs
    assert second.original.latency_p50_ms > 1.5 * result.original.latency_p50_ms


@pytest.mark.slow
def test_every_round_is_measured_on_each_target(finished) -> None:
    out, _, result = finished
    rounds = rounds_of(out)
    assert len(rounds) == result.rounds + 2
    for found in rounds:
        (elsewhere,), (other,) = found["elsewhere"], found["outcome"]["others"]
        assert found["measurement"]["target"] == FIRST
        assert elsewhere["target"] == elsewhere["measurement"]["target"] == SECOND
        measured_ms = elsewhere["measurement"]["latency_p50_ms"]
        assert other["latency_ms"] == pytest.approx(measured_ms / elsewhere["drift"])


@pytest.mark.slow
def test_both_artifacts_and_both_tables_are_there(finished) -> None:
    out, done, result = finished
    (second,) = result.further
    manifest = json.loads((out / "manifest.json").read_text())
    assert second.artifact == f"model.{SECOND}.onnx"
    assert manifest["files"][second.artifact] == sha256_of(out / second.artifact)
    assert manifest["further_boards"][0]["fingerprint"] != manifest["board"]["fingerprint"]
    pages = [(out / name).read_text() for name in ("report.html", "report.md")]
    assert f"On {SECOND}" in pages[0]
    for text in (*pages, done.stdout):
        assert f"On {SECOND} it takes" in text


@pytest.mark.slow
def test_a_gate_judges_the_network_on_each_target_by_its_own_samples(finished, tmp_path: Path) -> None:
    out, _, result = finished
    (second,) = result.further
    between_ms = (result.final.latency_p50_ms + second.final.latency_p50_ms) / 2
    limits = tmp_path / "gate.toml"
    limits.write_text(f'[limits]\nlatency_p50 = "<= {between_ms:.6f}ms"\n')
    request = GateRequest((out,), limits, stored_only=True, store=None)
    judged = run_gate(request).judgements
    assert [(one.candidate.target, one.verdict) for one in judged] == [(FIRST, "pass"), (SECOND, "fail")]
    (alone,) = run_gate(replace(request, target=SECOND)).judgements
    assert alone.candidate.measurement.latency_p50_ms == second.final.latency_p50_ms
    assert alone.candidate.artifact_path == out / second.artifact
    with pytest.raises(UsageError, match=f"{FIRST} and {SECOND}, and --target says emulated-jetson-nano"):
        run_gate(replace(request, target="emulated-jetson-nano"))


@pytest.mark.slow
def test_a_resumed_run_measures_nothing_again(finished, files: JobFiles) -> None:
    out, _, result = finished
    before = (out / "trials.jsonl").read_text()
    done = compress(files, out, *LIMITS, "--epochs", "0", "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert (out / "trials.jsonl").read_text() == before
    again = read_result(out / "result.json")
    assert {**asdict(again), "seconds": None, "command": None} == {**asdict(result), "seconds": None, "command": None}


@pytest.mark.slow
def test_a_target_on_which_no_network_is_fast_enough_fails_them_all(files: JobFiles, tmp_path: Path) -> None:
    done = compress(files, tmp_path / "run", "--latency", "95%", "--latency", "1%", "--epochs", "0", "--json")
    assert done.returncode == 1, done.stderr
    violations = json.loads(done.stdout)["violations"]
    assert any(sentence.startswith(f"On {SECOND}: The median latency") for sentence in violations)
    assert not any(sentence.startswith(f"On {FIRST}: ") for sentence in violations)
    assert any(f"{SECOND} still takes" in sentence for sentence in violations)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--latency", "9ms", "--latency", "8ms", "--latency", "7ms"), "3 latencies for 2 targets"),
        (("--target", FIRST, "--latency", "8ms"), f"{FIRST} is named 2 times"),
        (("--target", "hostt", "--latency", "8ms"), "Did you mean 'host'"),
    ],
)
def test_targets_and_latencies_that_do_not_fit_are_refused(
    files: JobFiles, tmp_path: Path, more: tuple[str, ...], message: str, typed: Callable[..., tuple[int, str]]
) -> None:
    code, output = typed(files.arguments(tmp_path / "run", "--target", FIRST, "--target", SECOND, *more))
    assert code == 2
    assert message in output
    assert not (tmp_path / "run").exists()


@pytest.fixture
def typed() -> Callable[[list[str]], tuple[int, str]]:
    from typer.testing import CliRunner

    from edgeprune.cli import build_app

    def run(arguments: list[str]) -> tuple[int, str]:
        done = CliRunner().invoke(build_app(), arguments)
        return done.exit_code, " ".join(done.output.split())

    return run


def test_a_budget_in_python_names_a_latency_for_each() -> None:
    budget = ep.Budget(latency_ms=Share(0.9), other_latencies_ms=(4.0,))
    check_targets([load_target(FIRST), load_target(SECOND)], budget)
    with pytest.raises(UsageError, match="2 latencies for 1 targets"):
        check_targets([load_target(FIRST)], budget)


def test_no_target_at_all_is_refused(tmp_path: Path) -> None:
    network, inputs = torch.nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8)
    data = Data([], [], cross_entropy, top1, "none", (3, 8, 8))
    with pytest.raises(UsageError, match="name at least one"):
        ep.compress(network, inputs, data=data, target=[], budget=ep.Budget(macs=1e6), out=tmp_path)
