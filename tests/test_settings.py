from __future__ import annotations

from pathlib import Path

import pytest
import typer

from edgeprune.cli import build_app
from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.settings import default_map

COMMANDS = typer.main.get_command(build_app())


def settings(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edgeprune.toml"
    path.write_text(text)
    return path


def test_a_setting_reaches_every_command_that_has_the_flag(tmp_path: Path) -> None:
    found = default_map(settings(tmp_path, 'target = "host-litert"\nepochs = 7\n'), COMMANDS)
    assert found["compress"] == {"target": ["host-litert"], "epochs": 7}
    assert found["bench"] == {"target": "host-litert"}
    assert found["report"] == {}


def test_several_values_reach_the_commands_that_take_several_and_the_first_reaches_the_others(tmp_path: Path) -> None:
    found = default_map(settings(tmp_path, 'target = ["host", "host-litert"]\n'), COMMANDS)
    assert found["compress"] == {"target": ["host", "host-litert"]}
    assert found["bench"] == {"target": "host"}


def test_an_unknown_key_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'latency'\?"):
        default_map(settings(tmp_path, 'latncy = "8ms"'), COMMANDS)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"edgeprune\.toml cannot be read"):
        default_map(settings(tmp_path, "= nothing"), COMMANDS)


def test_without_a_file_there_are_no_settings(tmp_path: Path) -> None:
    assert default_map(tmp_path / "edgeprune.toml", COMMANDS) == {}
