"""The service that keeps other load away is one that systemd accepts."""

import shutil
import subprocess
from pathlib import Path

import pytest

_BOARD = Path(__file__).parents[2] / "deploy" / "board"
_PROGRAM = "/usr/local/sbin/edgeprune-quiet"


def verify(unit):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    return subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)


@pytest.fixture
def unit(tmp_path):
    """The unit with its program where it lies in this checkout."""
    path = tmp_path / "edgeprune-quiet.service"
    text = (_BOARD / path.name).read_text(encoding="utf-8")
    assert text.count(_PROGRAM) == 2
    path.write_text(text.replace(_PROGRAM, str(_BOARD / "quiet.sh")))
    return path


def test_systemd_accepts_the_unit(unit):
    done = verify(unit)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_find_a_mistake(unit):
    unit.write_text(unit.read_text().replace("RemainAfterExit=yes", "RemainAfterExit=maybe"))
    assert "Failed to parse boolean value, ignoring: maybe" in verify(unit).stderr


def test_the_program_says_how_it_is_used(tmp_path):
    done = subprocess.run([_BOARD / "quiet.sh", "loud"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "say active or inactive" in done.stderr
