"""The agent as a board runs it: a bare interpreter, another folder, nothing of edgeprune to import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgeprune import registry
from edgeprune.bench import agent, telemetry

AGENT, TELEMETRY = Path(agent.__file__), Path(telemetry.__file__)
ENGINE = registry.entries("runtimes")["onnxruntime"].path
# A runtime of three lines that needs no engine: what is looked at is the agent.
FAKE = """
import time

class Sleeper:
    def open(self, artifact, settings):
        print("engines print to standard output")
        self.version, self.input_shapes, self.input_types = "1", [(1, 2)], ["float32"]
        self.left = settings.get("slow_runs", 0)
        return self

    def run(self, inputs):
        time.sleep(0.001 + 0.02 * max(self.left, 0))
        self.left -= 1
        return [inputs[0] * 2]

    def profile(self, artifact, settings, inputs):
        return {"layer": 1.5}
"""


def start(folder, mode, runtime=ENGINE, artifact=ENGINE, **flags):
    """Start the agent isolated: -I ignores PYTHONPATH and the folder, so edgeprune cannot be imported."""
    given = [part for key, value in flags.items() for part in (f"--{key}", value)]
    command = [sys.executable, "-I", str(AGENT), mode, "--runtime", str(runtime), "--artifact", str(artifact), *given]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events_of(process):
    out, complaints = process.communicate(timeout=60)
    assert "Traceback" not in complaints
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def sleeper(tmp_path):
    path = tmp_path / "sleeper.py"
    path.write_text(FAKE, encoding="utf-8")
    return path


def test_a_bare_interpreter_cannot_import_edgeprune(tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import edgeprune"], cwd=tmp_path, capture_output=True, check=False
    )
    if done.returncode == 0:
        pytest.skip("edgeprune is installed into this interpreter")
    assert b"No module named" in done.stderr


def test_measure_streams_every_stage(tmp_path, exported):
    options = json.dumps({"blocks": 2, "block_runs": 4, "block_s": 0.001, "warmup_s": 0.01})
    events = events_of(start(tmp_path, "measure", artifact=exported.onnx.resolve(), options=options))
    assert [event["event"] for event in events] == ["board", "opened", "warmup", "block", "block", "done"]
    said = {event["event"]: event for event in events}
    assert said["opened"]["open_ms"] > said["opened"]["first_ms"] > 0
    assert len(said["warmup"]["samples_ns"]) >= agent.DEFAULTS["warmup_runs"]
    assert len(said["block"]["samples_ns"]) >= 4
    assert said["done"]["peak_memory_bytes"] > 10e6
    assert said["board"]["facts"]["cores"] == os.cpu_count()


def test_facts_hold_no_host_or_user(tmp_path, exported):
    (facts, *_) = events_of(start(tmp_path, "measure", artifact=exported.onnx.resolve()))
    text = json.dumps(facts)
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text


def test_what_an_engine_prints_does_not_disturb_the_lines(tmp_path, sleeper):
    assert [event["event"] for event in events_of(start(tmp_path, "profile", runtime=sleeper))] == ["profile", "done"]


def test_blocks_last_for_count_and_duration(tmp_path, sleeper):
    options = json.dumps({"blocks": 1, "block_runs": 3, "block_s": 0.1, "warmup_s": 0.01})
    (block,) = [
        e for e in events_of(start(tmp_path, "measure", runtime=sleeper, options=options)) if e["event"] == "block"
    ]
    assert sum(block["samples_ns"]) > 0.09e9
    assert block["telemetry"] == {}
    options = json.dumps({"blocks": 1, "block_runs": 50, "block_s": 0.0, "warmup_s": 0.01})
    (block,) = [
        e for e in events_of(start(tmp_path, "measure", runtime=sleeper, options=options)) if e["event"] == "block"
    ]
    assert len(block["samples_ns"]) == 50


def test_the_board_is_looked_at_beside_each_block(tmp_path, sleeper):
    options = json.dumps({"blocks": 2, "block_runs": 3, "block_s": 0.05, "warmup_s": 0.01})
    flags = {"telemetry": str(TELEMETRY), "options": options}
    events = events_of(start(tmp_path, "measure", runtime=sleeper, **flags))
    looks = [event["telemetry"] for event in events if event["event"] == "block"]
    assert len(looks) == 2
    for look, event in zip(looks, (e for e in events if e["event"] == "block"), strict=True):
        assert look["wall_s"] >= sum(event["samples_ns"]) / 1e9
        assert look["other_load"] is None or look["other_load"] >= 0


def test_a_measurement_can_go_on_with_the_blocks_that_are_missing(tmp_path, sleeper):
    options = json.dumps({"blocks": 0, "warmup_s": 0.01})
    events = events_of(start(tmp_path, "measure", runtime=sleeper, options=options))
    assert [event["event"] for event in events] == ["board", "opened", "warmup", "done"]


def test_warm_up_goes_on_until_the_median_stops_falling(tmp_path, sleeper):
    options = {"blocks": 1, "block_runs": 1, "block_s": 0.0, "warmup_runs": 2, "warmup_s": 0.0, "warmup_limit_s": 9.0}
    # Each of the first runs is faster than the one before, so only a warm-up that looks at them goes past all.
    flags = {"settings": json.dumps({"slow_runs": 8}), "options": json.dumps(options)}
    warmup = next(e for e in events_of(start(tmp_path, "measure", runtime=sleeper, **flags)) if e["event"] == "warmup")
    assert len(warmup["samples_ns"]) > 8
    assert agent.is_steady(warmup["samples_ns"])


def test_warm_up_ends_at_its_limit(tmp_path, sleeper):
    options = {"blocks": 1, "block_runs": 1, "block_s": 0.0, "warmup_runs": 10**9, "warmup_limit_s": 0.1}
    events = events_of(start(tmp_path, "measure", runtime=sleeper, options=json.dumps(options)))
    assert [event["event"] for event in events][-1] == "done"


@pytest.mark.parametrize(
    ("samples", "steady"),
    [([9, 8, 7, 6, 5, 4, 3, 2], False), ([9, 5, 5, 5, 5, 5, 5, 5], True), ([5, 5, 5, 5, 9, 9, 9, 9], True)],
)
def test_steady_means_not_falling(samples, steady):
    assert agent.is_steady(samples) is steady


def test_run_answers_given_inputs_in_order(tmp_path, sleeper):
    given = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    np.savez(tmp_path / "in.npz", input_0=given)
    events = events_of(start(tmp_path, "run", runtime=sleeper, inputs=str(tmp_path / "in.npz")))
    assert [event["event"] for event in events] == ["outputs"] * 3 + ["done"]
    assert events[2]["arrays"][0] == agent.encode(given[2] * 2)


@pytest.mark.parametrize("kind", ["float32", "uint8", "int64"])
def test_noise_is_seeded_and_fits_the_session(kind):
    class Session:
        input_shapes, input_types = ((2, 3), (1,)), (kind, kind)

    first, second = agent.make_inputs(Session(), None, 7), agent.make_inputs(Session(), None, 7)
    assert [array.shape for array in first] == [(2, 3), (1,)]
    assert all(str(array.dtype) == kind for array in first)
    assert all((one == other).all() for one, other in zip(first, second, strict=True))
    assert (first[0] != agent.make_inputs(Session(), None, 8)[0]).any()


@pytest.mark.parametrize(
    ("content", "stage", "said"),
    [
        ("class A:\n    pass\n\nclass B:\n    pass\n", "load", "must define exactly one public class"),
        ("import no_such_engine\n\nclass A:\n    pass\n", "load", "no_such_engine"),
        ("def broken(:\n", "load", "SyntaxError"),
    ],
)
def test_a_broken_runtime_file_is_one_error_line(tmp_path, content, stage, said):
    path = tmp_path / "broken.py"
    path.write_text(content, encoding="utf-8")
    (error,) = [e for e in events_of(start(tmp_path, "measure", runtime=path)) if e["event"] == "error"]
    assert error["stage"] == stage
    assert said in error["message"]


def test_a_missing_module_is_named(tmp_path):
    path = tmp_path / "lacks.py"
    path.write_text(
        "class A:\n    def open(self, artifact, settings):\n        import no_such_engine\n", encoding="utf-8"
    )
    (error,) = [e for e in events_of(start(tmp_path, "measure", runtime=path)) if e["event"] == "error"]
    assert (error["stage"], error["missing"], error["python"]) == ("open", "no_such_engine", sys.executable)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_the_agent_dies_with_a_killed_parent(tmp_path, sleeper):
    options = json.dumps({"blocks": 1, "block_s": 60.0})
    command = [
        sys.executable,
        "-I",
        str(AGENT),
        "measure",
        "--runtime",
        str(sleeper),
        "--artifact",
        "x",
        "--options",
        options,
    ]
    code = f"import subprocess, sys; p = subprocess.Popen({command!r}); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    lines = iter(parent.stdout.readline, "")
    child = int(next(lines))
    assert any("warmup" in line for line in lines)  # it is inside the long block now
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
