"""What stands before a command."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

import edgeprune
from edgeprune.cli import build_app

FOLDER = Path(edgeprune.__file__).parent / "commands"


def test_the_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(build_app(), ["--version"])
    assert (result.exit_code, result.output) == (0, f"edgeprune {edgeprune.__version__}\n")


def test_every_command_is_listed_and_has_its_own_help() -> None:
    listed = CliRunner().invoke(build_app(), ["--help"]).output.split("Commands:")[1]
    for name in ("compress", "bench", "doctor", "inspect"):
        assert (FOLDER / f"{name}.py").exists()
        assert f"\n  {name} " in listed
        assert CliRunner().invoke(build_app(), [name, "--help"]).exit_code == 0
