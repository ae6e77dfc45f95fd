"""The whole of `edgeprune compress` on real components: a small network, this machine, real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import edgeprune as ep
from edgeprune.network.counting import count_macs
from edgeprune.verdict.result import Result, read_result
from tests.jobs import JobFiles, network, write_job_files

pytestmark = pytest.mark.slow

# Its clock costs no time; what only a real one can show is measured on the host.
_BOARD = "emulated-raspberry-pi-5-onnxruntime"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> JobFiles:
    return write_job_files(tmp_path_factory.mktemp("job"))


def job(files: JobFiles, out: Path, *more: str) -> list[str]:
    return files.arguments(out, "--target", _BOARD, *more)


def command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "edgeprune.cli", *arguments]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(arguments), check=False, capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(files: JobFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run to 60 % of the MACs, which every machine counts alike, so that its plan is always the same."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run(job(files, out, "--macs", "60%", "--epochs", "3", "--json"))
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_the_run_folder_holds_everything(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    names = {"result.json", "trials.jsonl", "plan.json", "weights.safetensors", "model.pt2", "model.onnx"}
    assert names | {"report.html", "report.md", "manifest.json"} <= {path.name for path in out.iterdir()}
    assert not [path for path in out.rglob("*") if path.name.endswith(".partial")]


def test_json_is_the_result(finished: tuple[Path, dict[str, Any]]) -> None:
    out, printed = finished
    assert printed == json.loads((out / "result.json").read_text())


def test_the_budget_is_met_by_what_was_exported(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    result = read_result(out / "result.json")
    assert result.verdict == "pass"
    assert 0.75 * result.budget.macs <= result.final.macs <= result.budget.macs  # type: ignore[operator]
    exported = torch.export.load(out / "model.pt2").module()
    assert sum(parameter.numel() for parameter in exported.parameters()) == result.final.parameters


def test_the_plan_replayed_on_the_original_gives_the_exported_shapes(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    plan = ep.Plan.from_json((out / "plan.json").read_text())
    replayed = ep.apply(plan, network(), torch.zeros(1, 3, 8, 8))
    shapes = {name: tensor.shape for name, tensor in replayed.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in load_file(out / "weights.safetensors").items()}
    assert count_macs(replayed, torch.zeros(1, 3, 8, 8)) == read_result(out / "result.json").final.macs


def test_every_cut_and_every_file_was_proven(finished: tuple[Path, dict[str, Any]]) -> None:
    out, printed = finished
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    searched = [trial for trial in trials if trial["stage"] == "search"]
    assert len(searched) == printed["rounds"] >= 1
    for trial in searched:
        cut, parity = trial["proofs"]
        assert cut["exact"]
        assert cut["max_rel"] < 1e-7
        assert parity["max_rel"] < 1e-3
        assert parity["samples"] == 4
        assert all(
            sample > 0
            for run in trial["measurement"]["runs"]
            for block in run["blocks"]
            for sample in block["samples_ns"]
        )


def test_nothing_names_the_user_or_the_machine(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    host = os.uname().nodename
    for path in (*out.glob("*.json*"), out / "report.html", out / "report.md"):
        text = path.read_text()
        assert str(Path.home()) not in text, path
        assert f'"{host}"' not in text, path


def kill_when(arguments: list[str], reached: Callable[[], bool]) -> None:
    """Start a run and kill it, with all its processes, as soon as it has got somewhere."""
    process = subprocess.Popen(
        command(arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(__file__).parent.parent,
    )
    deadline = time.monotonic() + 180
    while not reached():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_run_resumes_to_the_same_end(
    files: JobFiles, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Killed in the search and in the training: no trial or epoch is repeated, plan and weights are the same."""
    out = tmp_path / "killed"
    arguments = job(files, out, "--macs", "60%", "--epochs", "3", "--resume")
    trials = out / "trials.jsonl"
    kill_when(arguments, lambda: trials.exists() and trials.read_bytes().count(b"\n") >= 2)
    before = trials.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    kill_when(arguments, lambda: any((out / "work").glob("recovery*")))
    assert trials.read_bytes().startswith(before)
    done = run([*arguments, "--json"])
    assert done.returncode == 0, done.stderr
    whole, printed = finished
    result = json.loads(done.stdout)
    assert (out / "plan.json").read_text() == (whole / "plan.json").read_text()
    assert (out / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    for key in ("allocation", "rounds", "stages", "recovery"):
        assert result[key] == printed[key], key


def shaped_arguments(files: JobFiles, out: Path) -> list[str]:
    """A method that trains: of three epochs two go before the cut."""
    return [*job(files, out, "--macs", "60%", "--epochs", "3", "--resume", "--json"), "--method", "growing-reg"]


@pytest.fixture(scope="module")
def shaped(files: JobFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("shaped") / "whole"
    done = run(shaped_arguments(files, out))
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_a_method_that_trains_shapes_the_network_before_the_cut(shaped: tuple[Path, dict[str, Any]]) -> None:
    out, printed = shaped
    assert [len(printed[key]) for key in ("shaping", "recovery")] == [2, 1]
    stages = printed["stages"]
    assert all(stages[key] is not None for key in ("original", "shaped", "cut", "recalibrated", "recovered"))
    assert stages["shaped"] == printed["shaping"][-1]["accuracy"]
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    kept = {edit.group: len(edit.keep) for edit in ep.Plan.from_json((out / "plan.json").read_text()).edits}
    measured = [ep.Plan.from_json(trial["plan"]) for trial in trials if trial["stage"] == "search"]
    assert kept in [{edit.group: len(edit.keep) for edit in plan.edits} for plan in measured]
    assert printed["final"]["macs"] in [trial["outcome"]["macs"] for trial in trials]
    assert "shaped" in (out / "report.md").read_text()
    assert "Training before the cut" in (out / "report.html").read_text()


def test_a_run_killed_while_it_is_shaped_resumes_to_the_same_end(
    files: JobFiles, shaped: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    arguments = shaped_arguments(files, out)
    kill_when(arguments, lambda: (out / "work" / "shaping.checkpoint").exists())
    done = run(arguments)
    assert done.returncode == 0, done.stderr
    whole, printed = shaped
    result = json.loads(done.stdout)
    assert (out / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    for key in ("allocation", "stages", "shaping", "recovery"):
        assert result[key] == printed[key], key


def test_what_a_method_fitted_to_data_is_replayed_from_the_run_folder(files: JobFiles, tmp_path: Path) -> None:
    out = tmp_path / "fitted"
    done = run([*job(files, out, "--macs", "70%", "--epochs", "0", "--json"), "--method", "asymmetric-svd"])
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert stages["cut"] == stages["shaped"] is not None
    plan = ep.Plan.from_json((out / "plan.json").read_text())
    assert plan.factorisations
    whole, final = network(), load_file(out / "weights.safetensors")
    whole.load_state_dict(load_file(out / "shaped.safetensors"))
    replayed = dict(ep.apply(plan, whole, torch.zeros(1, 3, 8, 8)).named_parameters())
    assert set(replayed) < set(final)  # the batch norms were re-estimated after the cut
    assert all(torch.equal(tensor, final[name]) for name, tensor in replayed.items())


def test_epochs_before_the_cut_are_refused_where_the_method_only_scores(files: JobFiles, tmp_path: Path) -> None:
    done = run(job(files, tmp_path / "out", "--macs", "60%", "--epochs", "3", "--shape-epochs", "1"))
    assert done.returncode == 2
    assert "'magnitude' only scores" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_finished_run_resumed_measures_nothing_again(finished: tuple[Path, dict[str, Any]], files: JobFiles) -> None:
    out, printed = finished
    trials = (out / "trials.jsonl").read_bytes()
    done = run(job(files, out, "--macs", "60%", "--epochs", "3", "--resume", "--json"))
    assert done.returncode == 0, done.stderr
    assert (out / "trials.jsonl").read_bytes() == trials
    assert json.loads(done.stdout)["final"] == printed["final"]


def test_resuming_with_other_settings_is_refused(finished: tuple[Path, dict[str, Any]], files: JobFiles) -> None:
    out, _ = finished
    done = run(job(files, out, "--macs", "60%", "--epochs", "4", "--resume"))
    assert done.returncode == 2
    assert "another epochs: 3 then, 4 now" in done.stderr


def test_a_latency_that_cannot_be_met_fails_with_the_best_found_and_the_floor(files: JobFiles, tmp_path: Path) -> None:
    done = run(job(files, tmp_path / "out", "--latency", "1us", "--epochs", "1"))
    assert done.returncode == 1
    assert "No smaller network met the budget" in done.stdout
    result = read_result(tmp_path / "out" / "result.json")
    assert result.verdict == "fail"
    assert result.stages.recovered is None
    assert sum(result.allocation.values()) < sum(result.group_sizes.values())
    assert (tmp_path / "out" / "model.onnx").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds the first trials but not the whole run."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(files: JobFiles, small_disk: Path) -> None:
    out = small_disk / "out"
    arguments = job(files, out, "--macs", "60%", "--epochs", "1")
    full = run(arguments)
    assert full.returncode == 5
    assert "No space left on device" in full.stderr
    assert not [path for path in out.rglob("*") if path.name.endswith(".partial")]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert run([*arguments, "--resume"]).returncode == 0


def test_a_latency_budget_is_met_as_measured(tmp_path: Path) -> None:
    """From Python, with the caller's own network; wide margins, because this machine may be busy."""
    model = _wide_network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    written = write_job_files(tmp_path)
    result: Result = ep.compress(
        model,
        torch.zeros(1, 3, 8, 8),
        data=str(written.data),
        target="host",
        budget=ep.Budget(latency_ms=ep.Share(0.6)),
        method="magnitude",
        epochs=0,
        out=tmp_path / "out",
    )
    assert result.final.latency_p50_ms < 0.75 * result.original.latency_p50_ms
    assert result.kind == "real"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_memory_budget_is_met_as_measured(files: JobFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(job(files, out, "--memory", "70%", "--epochs", "0"))
    assert done.returncode == 0, done.stderr
    result = read_result(out / "result.json")
    original, final = result.original.memory_bytes, result.final.memory_bytes
    assert original is not None
    assert final is not None
    assert result.budget.memory_bytes == pytest.approx(0.7 * original)
    assert 0.4 * original < final <= 0.7 * original
    assert result.original.activation_bytes == 8 * 8 * (16 + 18 + 16) * 4
    assert "Memory at the peak" in (out / "report.md").read_text()


def _wide_network() -> torch.nn.Module:
    from tests.small_networks import Residual, randomise

    return randomise(Residual(width=96, classes=4))
