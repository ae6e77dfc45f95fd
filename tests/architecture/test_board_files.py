"""What is carried to a board runs with the old Python that may be there."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_RUFF = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
_FILES = sorted(path for pattern in _RUFF["per-file-target-version"] for path in _ROOT.glob(pattern))
_OLDEST = (3, 8)


def oldest_python(*paths):
    """The oldest Python that has everything the files use, as vermin sees it."""
    program = shutil.which("vermin", path=str(Path(sys.executable).parent))
    assert program, "the development extra brings vermin: pip install -e '.[dev]'"
    said = subprocess.run([program, "--no-tips", *map(str, paths)], capture_output=True, text=True, check=True).stdout
    return 3, int(re.search(r"^Minimum required versions:.*\b3\.(\d+)", said, re.MULTILINE)[1])


def test_the_board_files_are_known():
    names = {path.name for path in _FILES}
    assert {"agent.py", "telemetry.py", "checkup.py", "_ssh_board.py", "onnxruntime.py", "litert.py"} <= names


def test_nothing_newer_than_the_oldest_python_is_used():
    assert oldest_python(*_FILES) <= _OLDEST


def test_something_newer_would_be_seen(tmp_path):
    path = tmp_path / "newer.py"
    path.write_text("print('edgeprune'.removeprefix('edge'))\n")
    assert oldest_python(path) == (3, 9)


def test_the_oldest_python_itself_reads_them():
    name = "python{}.{}".format(*_OLDEST)
    homes = Path.home().glob(".pyenv/versions/{}.{}*/bin/python3".format(*_OLDEST))
    program = next(map(str, homes), None) or shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    code = "import sys\nfor path in sys.argv[1:]: compile(open(path, encoding='utf-8').read(), path, 'exec')"
    done = subprocess.run([program, "-I", "-c", code, *map(str, _FILES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
