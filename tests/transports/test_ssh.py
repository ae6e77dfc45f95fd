"""The transport against a real sshd; what it leaves on the board is looked at there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.ssh_faults import FAKETIME
from edgeprune import registry
from edgeprune.errors import BoardError, LinkLostError
from edgeprune.transports._ssh_command import parse_address
from edgeprune.transports._ssh_session import Session
from tests.waiting import until

Ssh = registry.load("transports", "ssh")
SLEEP = ["-c", "import time; print('awake', flush=True); time.sleep(600)"]


@pytest.fixture
def ssh(board):
    transport = Ssh(board.url)
    yield transport
    transport.close()
    until(lambda: not board.processes("edgeprune") and not list(board.home.rglob("work")))


def stored(board):
    return [path for path in board.files() if path.parent.name == "files"]


def run(transport, code, *arguments):
    return list(transport.stream(["-c", code, *arguments], 30.0))


def test_the_process_is_isolated_in_an_empty_folder_that_goes_away(ssh):
    code = (
        "import os, sys; print(sorted(os.environ)); print(sys.flags.ignore_environment, os.listdir())\n"
        "print(os.getcwd())"
    )
    names, state, folder = run(ssh, code)
    assert "OMP_NUM_THREADS" not in names
    assert "SSH_CONNECTION" not in names
    assert state == "1 []"
    assert not Path(folder).exists()


def test_what_lies_on_the_board_is_private(ssh, board, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"secret")
    ssh.put(tmp_path / "file.bin")
    folder = board.home / ".cache" / "edgeprune" / "board"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_is_sent_once_for_the_same_content(ssh, board, tmp_path):
    first, second = tmp_path / "one.onnx", tmp_path / "two.onnx"
    for path in (first, second):
        path.write_bytes(b"network" * 20_000)
    there = ssh.put(first)
    assert ssh.bytes_sent == first.stat().st_size
    assert ssh.put(second) == there
    later = Ssh(board.url)
    assert later.put(first) == there
    later.close()
    assert ssh.bytes_sent == first.stat().st_size
    assert later.bytes_sent == 0


def test_a_partial_upload_goes_on_where_it_was(ssh, board, tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(300_000))
    there = Path(ssh.put(path))
    there.rename(f"{there}.partial")
    os.truncate(f"{there}.partial", 200_000)
    sent = ssh.bytes_sent
    assert ssh.put(path) == str(there)
    assert there.read_bytes() == path.read_bytes()
    assert ssh.bytes_sent - sent == 100_000


def test_a_damaged_partial_upload_is_not_believed(ssh, tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(300_000))
    there = Path(ssh.put(path))
    there.unlink()
    partial = Path(f"{there}.partial")
    partial.write_bytes(b"x" * 200_000)
    with pytest.raises(BoardError, match="changed on its way"):
        ssh.put(path)
    assert not partial.exists()
    assert Path(ssh.put(path)).read_bytes() == path.read_bytes()


def test_old_files_make_room_for_new_ones(board, tmp_path, monkeypatch):
    monkeypatch.setattr(Ssh, "storage_limit_bytes", 250_000)
    names = [tmp_path / f"{number}.bin" for number in range(3)]
    for path in names:
        path.write_bytes(os.urandom(100_000))
        transport = Ssh(board.url)  # the files of one connection are in use
        there = transport.put(path)
        transport.close()
        os.utime(there, (1e9 + len(stored(board)), 1e9 + len(stored(board))))
    assert sum(path.stat().st_size for path in stored(board)) <= 250_000
    assert Path(there).exists()
    for path in stored(board):
        path.unlink()


def test_cleaning_removes_everything(ssh, board, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"x" * 1234)
    ssh.put(tmp_path / "file.bin")
    kept = sum(path.stat().st_size for path in stored(board))
    assert ssh.clean() == kept >= 1234
    ssh.close()
    until(lambda: not list(board.home.rglob("*edgeprune*/*")))


def test_nothing_of_a_name_or_an_argument_is_executed(ssh, board, tmp_path):
    for name in ("x;touch pwned", "$(touch pwned)", "-rf", "line\nbreak", "'\"`touch pwned`"):
        path = tmp_path / name
        path.write_text(name)
        assert run(ssh, "import sys; print(open(sys.argv[1]).read())", ssh.put(path)) == name.split("\n")
        assert run(ssh, "import sys; print(repr(sys.argv[1]))", name) == [repr(name)]
    assert not list(board.home.rglob("pwned"))


def test_the_lines_of_a_login_shell_do_not_disturb(board, tmp_path):
    profile = board.home / ".bashrc"
    profile.write_text("echo Welcome to the board\necho 'and have | fun'\n")
    try:
        said = subprocess.run(["ssh", *parse_address(board.url).words(), "true"], capture_output=True, check=True)
        if b"Welcome" not in said.stdout:
            pytest.skip("the login shell of this user does not read .bashrc")
        transport = Ssh(board.url)
        assert run(transport, "print('hello')") == ["hello"]
        transport.close()
    finally:
        profile.unlink()


def test_everything_that_a_process_started_ends_with_it(ssh, board):
    # A grandchild that left the process group, and holds the output open.
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600) # straggler'], start_new_session=True)\n"
        "print('done')"
    )
    started = time.monotonic()
    assert run(ssh, code) == ["done"]
    assert time.monotonic() - started < 20
    until(lambda: not board.processes("straggler"))


def test_a_process_that_does_not_listen_is_killed(ssh, board, monkeypatch):
    monkeypatch.setattr(Ssh, "lease_s", 1.0)  # shorter than the grace: the board must not fall silent meanwhile
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    with pytest.raises(BoardError, match=r"was killed by signal 9 after its 1 s"):
        list(ssh.stream(["-c", code], 1.0))
    assert not board.processes("time.sleep(600)")


def test_why_there_is_no_connection_is_said_also_where_ssh_ends_before_it_is_written_to(monkeypatch):
    write = Session._write

    def late(session, data):
        session._process.wait()
        write(session, data)

    monkeypatch.setattr(Session, "_write", late)
    with pytest.raises(LinkLostError, match=r"127\.0\.0\.1:1 cannot be reached: connect to host 127\.0\.0\.1 port 1"):
        Ssh("ssh://nobody@127.0.0.1:1").clean()


@pytest.mark.skipif(not Path(FAKETIME).exists(), reason="libfaketime is not installed (Debian: libfaketime)")
def test_a_board_whose_clock_goes_slowly_is_waited_for(board, tmp_path, monkeypatch):
    monkeypatch.setattr(Ssh, "lease_s", 1.5)
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\nLD_PRELOAD={FAKETIME} FAKETIME='+0 x0.05' exec {sys.executable} \"$@\"\n")
    slow.chmod(0o755)
    transport = Ssh(board.url, str(slow))
    assert run(transport, "import time; time.sleep(3); print('awake')") == ["awake"]
    transport.close()


def test_the_process_ends_with_the_connection(board):
    transport = Ssh(board.url)
    lines = transport.stream(SLEEP, 600.0)
    assert next(lines) == "awake"
    assert board.processes("sleep(600)")
    transport.close()
    until(lambda: not board.processes("sleep(600)") and not board.processes("edgeprune"))
    assert not list(board.home.rglob("sessions"))


def test_the_process_ends_with_a_workstation_that_is_killed(ssh, board):
    code = (
        "import sys\nfrom edgeprune import registry\nssh = registry.load('transports', 'ssh')\n"
        "ssh.lock_path = sys.argv[2]\nboard = ssh(sys.argv[1])\n"
        f"with board.lock():\n    for line in board.stream({SLEEP!r}, 600.0): print(line, flush=True)"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", code, board.url, board.lock_path], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout.readline() == "awake\n"
    client.kill()
    client.wait()
    until(lambda: not board.processes("sleep(600)"))
    with ssh.lock():
        pass


def test_one_benchmark_at_a_time(ssh, board, monkeypatch):
    other = Ssh(board.url)
    with other.lock():
        monkeypatch.setattr(Ssh, "lock_limit_s", 0.3)
        with pytest.raises(BoardError, match=r"Another benchmark \(process \d+ of .*@.*\) has held ssh://"), ssh.lock():
            pass
    with ssh.lock():
        pass
    other.close()


def test_a_lock_that_is_freed_in_time_is_waited_for(ssh, board):
    other = Ssh(board.url)
    order = []

    def second():
        with ssh.lock():
            order.append("second")

    with other.lock():
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.5)
        order.append("first")
    waiting.join(timeout=20)
    other.close()
    assert order == ["first", "second"]


def test_the_lock_is_that_of_benchmarks_started_on_the_board(ssh, board, monkeypatch):
    local_class = registry.load("transports", "local")
    assert Ssh.lock_path == str(board.lock_path)
    monkeypatch.setattr(local_class, "lock_path", board.lock_path)
    monkeypatch.setattr(local_class, "lock_limit_s", 0.2)
    with ssh.lock(), pytest.raises(BoardError, match=r"process \d+ of \S+@\S+\) has held this machine"):
        local_class(None).lock().__enter__()
    with local_class(None).lock():
        monkeypatch.setattr(Ssh, "lock_limit_s", 0.2)
        with pytest.raises(BoardError, match=rf"process {os.getpid()}\) has held ssh://"), ssh.lock():
            pass


def test_the_board_half_needs_python_3_8_alone(board, tmp_path):
    old = next(Path.home().glob(".pyenv/versions/3.8*/bin/python3"), None)
    if old is None:
        pytest.skip("no Python 3.8 under ~/.pyenv")
    (tmp_path / "file.bin").write_bytes(b"content")
    transport = Ssh(board.url, str(old))
    with transport.lock():
        code = "import sys; print(sys.version_info[:2], open(sys.argv[1]).read())"
        assert run(transport, code, transport.put(tmp_path / "file.bin")) == ["(3, 8) content"]
    transport.close()
