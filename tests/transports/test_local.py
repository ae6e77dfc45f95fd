from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeprune import registry
from edgeprune.errors import BoardError, UsageError

Local = registry.load("transports", "local")
HOLD = """
import sys, time
from edgeprune import registry
cls = registry.load("transports", "local")
cls.lock_path = __import__("pathlib").Path(sys.argv[1])
with cls(None).lock():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def local(tmp_path, monkeypatch):
    monkeypatch.setattr(Local, "lock_path", tmp_path / "lock")
    return Local(None)


def stream(local, code, timeout_s=20.0):
    return list(local.stream(["-c", code], timeout_s))


def test_lines_come_while_the_process_runs(local):
    lines = local.stream(["-c", "import time; print('one', flush=True); time.sleep(30)"], 60.0)
    started = time.monotonic()
    assert next(lines) == "one"
    lines.close()  # ends the process too
    assert time.monotonic() - started < 10


def test_the_process_is_isolated(local, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    seen = stream(local, "import os, sys; print(sorted(os.environ)); print(sys.flags.isolated); print(os.listdir())")
    assert "OMP_NUM_THREADS" not in seen[0]
    assert "PYTHONPATH" not in seen[0]
    assert seen[1:] == ["1", "[]"]


def test_its_folder_is_gone_afterwards(local):
    (folder,) = stream(local, "import os; print(os.getcwd()); open('left', 'w').close()")
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('out of order')", "ended with status 1: out of order"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was killed by signal 11"),
    ],
)
def test_a_failure_says_how_it_ended(local, code, said):
    with pytest.raises(BoardError, match=said):
        stream(local, code)


def test_a_process_that_takes_too_long_is_killed(local):
    started = time.monotonic()
    with pytest.raises(BoardError, match=r"killed by signal 15 after its 0\.5 s"):
        stream(local, "import time; time.sleep(60)", timeout_s=0.5)
    assert time.monotonic() - started < 10


def test_files_stay_where_they_are(local, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    assert local.put(path) == str(path)
    with pytest.raises(BoardError, match="no file"):
        local.put(tmp_path / "gone")


def test_an_address_is_refused():
    with pytest.raises(UsageError, match="takes no address; found 'ssh://board'"):
        Local("ssh://board")


def test_one_benchmark_at_a_time(local, monkeypatch):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(local.lock_path), "60"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(Local, "lock_limit_s", 0.3)
        with pytest.raises(BoardError, match=rf"Another benchmark \(process {holder.pid}\)"), local.lock():
            pass
    finally:
        holder.kill()
        holder.wait()
    with local.lock():  # a killed holder holds nothing
        assert local.lock_path.read_text().strip() == str(os.getpid())


def test_a_lock_that_is_freed_in_time_is_waited_for(local):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(local.lock_path), "1"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with local.lock():
        assert holder.wait(timeout=10) == 0


def test_a_link_in_place_of_the_lock_is_refused(local, tmp_path):
    local.lock_path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BoardError, match="cannot be opened"), local.lock():
        pass
    assert not (tmp_path / "elsewhere").exists()
