from __future__ import annotations

import shlex
import subprocess

import pytest

from edgeprune.errors import BoardError, LinkLostError, UsageError
from edgeprune.transports import _ssh_command as command

BOARD = command.Address("10.0.0.5", "pi", 2200)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://pi@10.0.0.5", command.Address("10.0.0.5", "pi")),
        ("ssh://pi@10.0.0.5:2200/", BOARD),
        ("ssh://Lab-Orin", command.Address("Lab-Orin")),
        ("ssh://jane.doe@[fe80::1]:22", command.Address("fe80::1", "jane.doe", 22)),
    ],
)
def test_addresses_are_read(text, address):
    assert command.parse_address(text) == address
    assert command.parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.5",
        "http://board",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://pi@-board",
        "ssh://-pi@board",
        "ssh://pi@board/folder",
        "ssh://pi@board:port",
        "ssh://pi@bo ard",
        "ssh://pi@board;reboot",
        "ssh://$(reboot)@board",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match=r"is no address of ssh. Write it like ssh://USER@HOST"):
        command.parse_address(text)


@pytest.mark.parametrize("text", ["ssh://pi:secret@board", "ssh://pi:se@cret@board:22", "ssh://pi:@board"])
def test_a_password_is_refused_and_not_repeated(text):
    with pytest.raises(UsageError, match=r"holds a password.*ssh-copy-id pi@board") as refused:
        command.parse_address(text)
    assert "cret" not in str(refused.value)


def test_nothing_of_an_address_is_an_option():
    words = BOARD.ssh(command.control_path(BOARD))
    assert words[-2:] == ["--", "pi@10.0.0.5"]
    assert words[words.index("-p") + 1] == "2200"
    assert "-oBatchMode=yes" in words
    assert "-oStrictHostKeyChecking=yes" in words


def test_the_socket_lies_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = command.control_path(BOARD)
    assert path.parent == tmp_path / "edgeprune"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(str(path.name)) < 30
    path.parent.chmod(0o755)
    with pytest.raises(BoardError, match=r"is not yours alone. Remove it: rm -r"):
        command.control_path(BOARD)


@pytest.mark.parametrize("shell", ["sh", "bash", "dash"])
def test_every_shell_hands_the_program_on(shell, tmp_path):
    program = b"import sys; print(sys.argv[1], sys.flags.isolated)"
    line = command.remote_command(len(program), None)
    done = subprocess.run([shell, "-c", line], input=program + b"more", capture_output=True, check=False, timeout=30)
    assert (done.stdout, done.stderr) == (f"{len(program)} 1\n".encode(), b"")


def test_the_interpreter_can_be_named_and_lie_in_the_home(tmp_path):
    python = tmp_path / "a venv" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "here $0"; exec {shlex.quote(command.__file__)}\n')
    python.chmod(0o755)
    for named in (str(python), "~/a venv/python"):
        line = command.remote_command(0, named)
        done = subprocess.run(["sh", "-c", line], env={"HOME": str(tmp_path)}, capture_output=True, check=False)
        assert done.stdout == f"here {python}\n".encode()


@pytest.mark.parametrize(
    ("complaints", "error", "said"),
    [
        (
            "No ED25519 host key is known for [10.0.0.5]:2200 and you have requested strict checking.\n"
            "Host key verification failed.",
            BoardError,
            "Connect once by hand with ssh -p 2200 pi@10.0.0.5 and compare the fingerprint",
        ),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n  remove with:\n"
            '  ssh-keygen -f "/home/user/.ssh/known_hosts" -R "[10.0.0.5]:2200"\nHost key verification failed.',
            BoardError,
            'ssh-keygen -f "/home/user/.ssh/known_hosts" -R "[10.0.0.5]:2200"',
        ),
        ("pi@10.0.0.5: Permission denied (publickey).", BoardError, "ssh-copy-id -p 2200 pi@10.0.0.5"),
        ("/bin/sh: 1: exec: python3: not found", BoardError, "sudo apt install python3"),
        (
            'import sys; v >= (3, 8) or sys.exit("edgeprune: Python %d.%d is too old" % v); exec: 1: exec: '
            "/opt/venv/bin/python: No such file or directory",
            BoardError,
            "no /opt/venv/bin/python. Run there: sudo apt install python3",
        ),
        ("edgeprune: Python 3.6 is too old", BoardError, "Python 3.8 or newer is needed"),
        ("ssh: Could not resolve hostname board: Name or service not known", BoardError, "Correct the address"),
        ("ssh: connect to host 10.0.0.5 port 2200: Connection refused", LinkLostError, "Connection refused."),
        ("Connection closed by 10.0.0.5 port 2200", LinkLostError, "Is the board on, and on this network?"),
        ("", LinkLostError, "ended without a word"),
    ],
)
def test_complaints_become_one_line_with_the_remedy(complaints, error, said):
    found = command.explain(BOARD, complaints, [])
    assert type(found) is error
    assert said in str(found)
    assert "\n" not in str(found)
