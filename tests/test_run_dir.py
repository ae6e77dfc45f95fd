from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.errors import StorageError, UsageError
from edgeprune.run_dir import RunDir, Stopwatch


def test_a_step_is_carried_out_once_and_then_remembered(tmp_path: Path) -> None:
    calls = []

    def step() -> float:
        calls.append(1)
        return 0.5

    assert RunDir(tmp_path).remember("step", step) == 0.5
    assert RunDir(tmp_path).remember("step", step) == 0.5
    assert len(calls) == 1


def test_a_failed_step_is_not_remembered(tmp_path: Path) -> None:
    def failing() -> float:
        raise UsageError("no")

    with pytest.raises(UsageError):
        RunDir(tmp_path).remember("step", failing)
    assert RunDir(tmp_path).remember("step", lambda: 1.0) == 1.0


def test_trials_come_back_in_order_by_stage(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    for index, stage in enumerate(["original", "search", "search"]):
        folder.append_trial({"stage": stage, "index": index})
    assert [trial["index"] for trial in folder.trials("search")] == [1, 2]


def test_a_torn_last_line_is_no_trial_and_is_cut_off_by_the_next(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.append_trial({"stage": "search", "index": 1})
    with folder.file("trials.jsonl").open("a") as file:
        file.write('{"stage": "search", "ind')
    assert len(folder.trials("search")) == 1
    folder.append_trial({"stage": "search", "index": 2})
    assert [trial["index"] for trial in folder.trials("search")] == [1, 2]


def test_damage_before_the_last_line_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.file("trials.jsonl").write_text('{"stage": \n{"stage": "search", "index": 2}\n')
    with pytest.raises(StorageError, match=r"trials\.jsonl is damaged"):
        folder.trials("search")


def test_an_old_run_is_not_overwritten(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin({"seed": 0}, {}, resume=False)
    with pytest.raises(UsageError, match="--resume"):
        folder.begin({"seed": 0}, {}, resume=False)


def test_a_run_is_resumed_with_the_same_request_only(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin({"seed": 0, "shape": (1, 3)}, {}, resume=False)
    folder.begin({"seed": 0, "shape": (1, 3)}, {}, resume=True)
    with pytest.raises(UsageError, match="another seed: 0 then, 1 now"):
        folder.begin({"seed": 1, "shape": (1, 3)}, {}, resume=True)


def test_facts_are_added_to_the_manifest(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin({"seed": 0}, {"versions": {"torch": "2"}}, resume=False)
    folder.add_facts({"files": {"a": "b"}})
    manifest = json.loads(folder.file("manifest.json").read_text())
    assert manifest == {"request": {"seed": 0}, "versions": {"torch": "2"}, "files": {"a": "b"}}


def test_two_processes_cannot_hold_one_folder(tmp_path: Path) -> None:
    program = """
import sys, pathlib
from edgeprune.run_dir import RunDir
with RunDir(pathlib.Path(sys.argv[1])).claimed():
    pass
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with RunDir(tmp_path).claimed():
        second = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "Another run is at work" in second.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_seconds_add_up_over_sessions(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.work.mkdir()
    (folder.work / "seconds.json").write_text(json.dumps({"training": 10.0, "measuring": 5.0, "total": 20.0}))
    watch = Stopwatch(folder)
    with watch("training"):
        pass
    seconds = watch.seconds()
    assert seconds["training"] >= 10
    assert seconds["measuring"] == 5
    assert 5 <= seconds["rest"] < 6
