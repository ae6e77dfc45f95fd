from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from edgeprune.cli import build_app
from edgeprune.transports._ssh_command import parse_address


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, exit_code=0):
        result = CliRunner().invoke(build_app(), ["targets", *map(str, arguments)])
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        return result.output

    return run


def test_a_board_is_added_shown_listed_and_removed(run, tmp_path):
    assert "Add a board of your own: edgeprune targets add" in run()
    said = run("add", "lab", "--like", "raspberry-pi-5", "--address", "ssh://pi@board", "--python", "~/venv/bin/python")
    assert str(tmp_path / "config" / "edgeprune" / "targets.toml") in said
    assert run().startswith("lab ")
    assert "Add a board" not in run("list")
    shown = json.loads(run("show", "lab", "--json"))
    assert (shown["address"], shown["python"]) == ("ssh://pi@board", "~/venv/bin/python")
    assert shown["board"]["models"][0] in run("show", "lab")
    run("remove", "lab")
    assert not [entry for entry in json.loads(run("list", "--json")) if entry["yours"]]


def test_a_project_has_targets_of_its_own(run, tmp_path):
    run("add", "lab", "--like", "jetson", "--address", "ssh://orin", "--project")
    assert 'address = "ssh://orin"' in (tmp_path / "edgeprune-targets.toml").read_text()
    assert not (tmp_path / "config").exists()


@pytest.mark.parametrize(
    ("name", "like", "address", "said"),
    [
        ("lab", "jetsn", "ssh://orin", "Did you mean 'jetson'"),
        ("lab", "jetson", "ssh://pi:secret@orin", "holds a password"),
        ("lab", "jetson", "orin", "is no address"),
        ("My Lab", "jetson", "ssh://orin", "may hold small letters"),
        ("host", "jetson", "ssh://orin", "There is a target 'host' already"),
    ],
)
def test_what_cannot_be_a_target_is_not_written(run, tmp_path, name, like, address, said):
    assert said in run("add", name, "--like", like, "--address", address, exit_code=2)
    assert not list(tmp_path.rglob("*.toml"))


def test_a_board_that_is_not_real_says_so(run):
    run("add", "lab", "--like", "linux-arm64", "--address", "ssh://board", "--kind", "icount")
    assert json.loads(run("show", "lab", "--json"))["kind"] == "icount"
    assert "kind" in run("add", "other", "--like", "linux-arm64", "--address", "ssh://b", "--kind", "toy", exit_code=2)


@pytest.mark.parametrize(
    ("name", "family", "instead"),
    [
        ("jetson", "jetson-orin-nano", ", or try it without a board: --target emulated-jetson-orin-nano"),
        ("raspberry-pi", "raspberry-pi-5", ", or try it without a board: --target emulated-raspberry-pi-5"),
        ("raspberry-pi-zero-2w", "raspberry-pi-zero-2w", ""),
    ],
)
def test_a_family_without_an_address_says_in_one_line_how_to_add_one(tmp_path, name, family, instead):
    arguments = ["compress", str(tmp_path / "model.pt"), "--target", name, "--latency", "8ms"]
    result = CliRunner().invoke(build_app(), arguments)
    add = f"edgeprune targets add my-board --like {family} --address ssh://USER@HOST"
    assert result.exit_code == 2
    assert result.output == f"Error: Target {family} needs an address. Add your own board with: {add}{instead}\n"


def test_cleaning_empties_the_board(run, board, tmp_path):
    from edgeprune import registry

    transport = registry.load("transports", "ssh")(board.url)
    (tmp_path / "file.bin").write_bytes(b"x" * 1_234_567)
    transport.put(tmp_path / "file.bin")
    transport.close()
    run("add", "lab", "--like", "linux-x86_64", "--address", board.url)
    assert json.loads(run("clean", "lab", "--json"))["bytes"] >= 1_234_567
    assert not [path for path in board.files() if path.parent.name == "files"]
    assert "Removed 0.0 MB from lab." in run("clean", "lab")


def test_a_board_that_is_off_ends_with_exit_code_4(run, board):
    port = parse_address(board.url).port
    run("add", "lab", "--like", "linux-x86_64", "--address", board.url.replace(str(port), "1"))
    assert "cannot be reached" in run("clean", "lab", exit_code=4)


def test_settings_of_a_project_do_not_reach_the_commands_of_a_group(run, tmp_path):
    from typer.main import get_command

    from edgeprune.settings import default_map

    (tmp_path / "edgeprune.toml").write_text('target = "host"\n')
    assert default_map(tmp_path / "edgeprune.toml", get_command(build_app()))["bench"] == {"target": "host"}
