"""The board half of the doctor, as the program that it is on a board."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.bench import checkup, telemetry
from tests.waiting import until

CHECKUP = Path(checkup.__file__)


@pytest.fixture
def kernel(tmp_path):
    """Two governors, one of them as wanted already, and a GPU's clock with its highest value beside."""
    for name, text in {"policy0/governor": "ondemand", "policy4/governor": "performance", "gpu/min": "306"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "gpu/max").write_text("918\n")
    return tmp_path


@pytest.fixture
def mode_program(tmp_path):
    """A program that shows and changes a power mode, as nvpmodel does."""
    (tmp_path / "mode").write_text("2")
    program = tmp_path / "mode-program"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in -q) echo "NV Power Mode: 30W"; cat {tmp_path}/mode;; '
        f'-m) printf "%s" "$2" > {tmp_path}/mode; cat >> {tmp_path}/answers;; esac\n'
    )
    program.chmod(0o755)
    return str(program)


def board(kernel, program=None):
    files = [
        {"name": "governor", "files": [f"{kernel}/policy*/governor"], "value": "performance", "like": ""},
        {"name": "GPU clock", "files": [f"{kernel}/gpu/min"], "value": "", "like": "max"},
    ]
    show = {"name": "power mode", "show": [program, "-q"], "state": r"(?m)^([0-9]+)\s*$"}
    return {"files": files, "commands": [{**show, "wanted": "0", "set": [program, "-m", "{state}"]}] if program else []}


def values(kernel):
    return [(kernel / name).read_text().strip() for name in ("policy0/governor", "policy4/governor", "gpu/min")]


AS_IT_WAS, AS_WANTED = ["ondemand", "performance", "306"], ["performance", "performance", "918"]


def start(kernel, controls):
    home = kernel / "home"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-I", str(CHECKUP), "hold", "--board", json.dumps(controls)]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    return process, process.stdout.readline()


def leaves_nothing(kernel):
    until(lambda: not list((kernel / "home").rglob("*.json")))
    assert values(kernel) == AS_IT_WAS


@pytest.fixture
def heeded_signals():
    """Signals that whatever started the tests ignores, as nohup does, would be ignored by their processes too."""
    before = {name: signal.signal(name, signal.SIG_DFL) for name in (signal.SIGINT, signal.SIGHUP)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL", "SIGHUP"])
def test_settings_are_held_until_the_process_ends_however_it_ends(kernel, name):
    process, line = start(kernel, board(kernel))
    assert json.loads(line) == {"event": "held", "changed": ["governor", "GPU clock"], "problems": []}
    assert values(kernel) == AS_WANTED
    process.send_signal(getattr(signal, name))
    process.wait(timeout=20)
    leaves_nothing(kernel)
    process.communicate()


def test_a_lost_connection_ends_it(kernel):
    process, _ = start(kernel, board(kernel))
    process.stdout.close()
    process.wait(timeout=20)
    leaves_nothing(kernel)
    process.stderr.close()


def test_the_next_one_puts_back_what_a_board_without_power_could_not(kernel):
    process, _ = start(kernel, board(kernel))
    (guard,) = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    for pid in (guard, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert values(kernel) == AS_WANTED
    process, _ = start(kernel, {})
    assert values(kernel) == AS_IT_WAS
    process.terminate()
    process.communicate()
    leaves_nothing(kernel)


def test_one_at_a_time_holds_a_board(kernel):
    first, _ = start(kernel, board(kernel))
    second, line = start(kernel, board(kernel))
    assert line == ""
    assert "another process holds the settings" in second.communicate()[1]
    first.terminate()
    first.communicate()
    leaves_nothing(kernel)


def test_a_program_of_the_board_is_asked_and_told_no_to_a_restart(kernel, mode_program):
    process, line = start(kernel, board(kernel, mode_program))
    assert json.loads(line)["changed"] == ["governor", "GPU clock", "power mode"]
    assert (kernel / "mode").read_text() == "0"
    process.terminate()
    process.communicate()
    leaves_nothing(kernel)
    assert (kernel / "mode").read_text() == "2"
    assert (kernel / "answers").read_text() == "NO\nNO\n"


def test_what_may_not_be_changed_is_said(kernel):
    controls = board(kernel)
    controls["files"][0]["files"] = ["/proc/version"]  # nobody may write it, not even root
    process, line = start(kernel, controls)
    held = json.loads(line)
    assert held["changed"] == ["GPU clock"]
    assert held["problems"] == ["/proc/version cannot be written by this user", "governor is not as wanted yet"]
    process.terminate()
    process.communicate()


def test_facts_of_this_machine(kernel, mode_program):
    command = [sys.executable, "-I", str(CHECKUP), "look", "--telemetry", telemetry.__file__]
    command += ["--board", json.dumps(board(kernel, mode_program)), "--packages", '["numpy", "no-such-package"]']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)["facts"]
    assert facts["packages"]["no-such-package"] is None
    assert facts["packages"]["numpy"]
    assert facts["memory"]["MemTotal"] >= facts["memory"]["MemAvailable"] > 0
    assert [(control["name"], control["now"]) for control in facts["controls"]] == [
        ("governor", ["ondemand", "performance"]),
        ("GPU clock", ["306"]),
        ("power mode", ["2"]),
    ]
    assert facts["controls"][2]["changes"] == [["run", mode_program, "-m", "0"]]
    assert values(kernel) == AS_IT_WAS


def test_a_busy_process_is_named():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def worked_s(now):
        return sum(seconds for name, seconds in now.items() if name.endswith(f"({busy.pid})"))

    try:
        before = checkup.process_seconds()
        until(lambda: worked_s(checkup.process_seconds()) > worked_s(before) + 0.3)
        after = checkup.process_seconds()
    finally:
        busy.kill()
        busy.wait()
    only = {name: seconds for name, seconds in after.items() if name.endswith(f"({busy.pid})")}
    assert checkup.busiest(before, only) == list(only)


def test_a_program_may_stand_for_a_package():
    assert checkup.package_version(sys.executable) == "there"
    assert checkup.package_version("/no/such/program") is None
    assert checkup.package_version("pytest") == pytest.__version__
