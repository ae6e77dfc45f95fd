from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from edgeprune.cli import build_app
from tests.waiting import until


@pytest.fixture
def run():
    def run(*arguments, exit_code=0):
        result = CliRunner().invoke(build_app(), ["doctor", *map(str, arguments)])
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        return result.output

    return run


@pytest.fixture
def governor(tmp_path):
    path = tmp_path / "governor"
    path.write_text("ondemand\n")
    return path


@pytest.fixture
def lab(board, governor, tmp_path):
    """A target file of a board over ssh, one of whose settings is a plain file here."""
    path = tmp_path / "lab.toml"
    path.write_text(
        f'name = "lab"\ndescription = "a board"\nruntime = "onnxruntime"\ntransport = "ssh"\naddress = "{board.url}"\n'
        f'[board]\nsource = "a test"\n[[board.files]]\nname = "governor"\nfiles = ["{governor}"]\n'
        'value = "performance"\nsource = "a test"\n'
    )
    return path


def test_every_finding_has_its_line_and_its_remedy(run, lab, board):
    lines = run(lab).splitlines()
    assert lines[0].startswith(f"ok       connection        {board.url}, Python starts in ")
    warning = next(number for number, line in enumerate(lines) if line.startswith("warning  governor"))
    assert lines[warning + 1].split() == ["Run:", "edgeprune", "doctor", "lab", "--fix"]
    said = json.loads(run(lab, "--json"))
    assert said["healthy"]
    assert [found["severity"] for found in said["findings"] if found["check"] == "governor"] == ["warning"]


def test_a_board_that_cannot_be_reached_is_exit_code_4(run, lab, board):
    lab.write_text(lab.read_text().replace(board.url, "ssh://127.0.0.1:1"))
    assert run(lab, exit_code=4).startswith("error    connection  ssh://127.0.0.1:1 cannot be reached")


def test_a_setting_is_changed_for_the_examination_and_put_back(run, lab, governor):
    said = json.loads(run(lab, "--fix", "--json"))
    assert said["fixed"] == {"changed": ["governor"], "problems": []}
    assert [found["severity"] for found in said["findings"] if found["check"] == "governor"] == ["ok"]
    until(lambda: governor.read_text() == "ondemand")


def test_a_command_runs_while_the_settings_are_held(run, lab, governor, tmp_path):
    code = f"import pathlib, sys; pathlib.Path({str(tmp_path / 'seen')!r}).write_text(open({str(governor)!r}).read())"
    assert "put back: governor." in run(lab, "--fix", "--", sys.executable, "-c", f"{code}; sys.exit(7)", exit_code=7)
    assert (tmp_path / "seen").read_text() == "performance"
    until(lambda: governor.read_text() == "ondemand")


def test_a_command_is_only_run_where_settings_are_held(run, lab):
    assert "A command is only run with --fix" in run(lab, "--", "true", exit_code=2)
    assert "'no-such-program' cannot be run" in run(lab, "--fix", "--", "no-such-program", exit_code=2)


def test_a_board_that_is_data_has_nothing_to_be_examined(run):
    said = run("emulated-raspberry-pi-5")
    assert "The board is data on this machine, specimen 1." in said
    assert "note     kind" in said
    assert "Held for this time and put back: nothing." in run("emulated-jetson-nano", "--fix")


def test_an_unknown_target_is_a_mistake_of_the_user(run):
    assert "Did you mean 'host'" in run("hosst", exit_code=2)
