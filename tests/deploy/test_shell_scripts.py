"""Everything that a shell runs is clean by shellcheck."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SCRIPTS = sorted([*(_ROOT / "deploy").rglob("*.sh"), _ROOT / ".ci" / "run"])


def shellcheck(*arguments):
    program = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert program, "the development extra brings shellcheck: pip install -e '.[dev]'"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", _SCRIPTS, ids=lambda path: path.relative_to(_ROOT).as_posix())
def test_shellcheck_finds_nothing(path):
    done = shellcheck("--external-sources", str(path))
    assert done.returncode == 0, done.stdout


def test_shellcheck_would_find_something(tmp_path):
    path = tmp_path / "bad.sh"
    path.write_text("#!/bin/sh\nrm -rf $1/*\n")
    assert "SC2086" in shellcheck(str(path)).stdout


@pytest.mark.parametrize("path", _SCRIPTS, ids=lambda path: path.relative_to(_ROOT).as_posix())
def test_a_script_stops_at_its_first_error(path):
    text = path.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text or 'common.sh"' in text
