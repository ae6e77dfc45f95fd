"""The command line of ssh for one board, and what its complaints mean to a person."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import BoardError, LinkLostError, UsageError

_ADDRESS = re.compile(r"ssh://(?:([^:@/]+)@)?(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_][\w.-]*))(?::([0-9]{1,5}))?/?")
_USER = re.compile(r"[A-Za-z0-9_][\w.-]*")
_MASTER_IDLE_S = 30
# Everything else (keys, agent, jump hosts, names of hosts) is the user's own configuration.
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "3",
    "ServerAliveCountMax": "3",
    "ControlMaster": "auto",
    "ControlPersist": str(_MASTER_IDLE_S),
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}
# NOTE: no single quote in these two, so that every login shell hands them on as they are.
_START = (
    'p="$HOME/.local/share/edgeprune/venv/bin/python3"; [ -x "$p" ] || p=python3; p="${2:-$p}"; '
    'case "$p" in "~"/*) p="$HOME/${p#??}";; esac; exec "$p" -I -c "$0" "$1"'
)
_FIRST = (
    "import sys; v = sys.version_info[:2]; "
    'v >= (3, 8) or sys.exit("edgeprune: Python %d.%d is too old" % v); '
    "exec(sys.stdin.buffer.read(int(sys.argv[1])))"
)


@dataclass(frozen=True)
class Address:
    """Where a board is; user and port are None where the user's configuration of ssh says them."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}{f':{self.port}' if self.port else ''}"

    def words(self) -> list[str]:
        """Return the address as arguments of ssh."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, f"{self.user}@{self.host}" if self.user else self.host]

    def ssh(self, control: Path) -> list[str]:
        """Return the command up to what is to be run on the board."""
        options = [f"-o{name}={value}" for name, value in {**_OPTIONS, "ControlPath": str(control)}.items()]
        *port, destination = self.words()
        return ["ssh", "-T", *options, *port, "--", destination]


def parse_address(text: str) -> Address:
    """Read `ssh://[user@]host[:port]`; raises UsageError, also for a password."""
    before, at, after = text.partition("://")[2].rpartition("@")
    if at and ":" in before:
        user = before.partition(":")[0]
        raise UsageError(
            f"The address of {user}@{after} holds a password, which anyone could read there. Leave it out and use a "
            f"key: ssh-copy-id {user}@{after.partition(':')[0]}"
        )
    found = _ADDRESS.fullmatch(text)
    if found is None or (found[1] is not None and not _USER.fullmatch(found[1])):
        raise UsageError(f"{text!r} is no address of ssh. Write it like ssh://USER@HOST or ssh://USER@HOST:PORT.")
    return Address(found[2] or found[3], found[1], int(found[4]) if found[4] else None)


def remote_command(size_bytes: int, python: str | None) -> str:
    """Return what the board's shell runs: Python, which executes the first bytes of its input."""
    return shlex.join(["/bin/sh", "-c", _START, _FIRST, str(size_bytes), *([python] if python else [])])


def control_path(address: Address) -> Path:
    """Return the socket that the connections of this process share, in a folder for this user alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    own = Path(runtime, "edgeprune") if Path(runtime, ".").is_dir() and runtime else None
    folder = own or Path(tempfile.gettempdir(), f"edgeprune-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if seen.st_uid != os.getuid() or not stat.S_ISDIR(seen.st_mode) or stat.S_IMODE(seen.st_mode) != 0o700:
        raise BoardError(f"The folder {folder} for connections is not yours alone. Remove it: rm -r {folder}")
    # NOTE: a socket's path may have about 100 bytes, and ssh appends to it for a moment.
    return folder / f"{os.getpid()}-{hashlib.sha256(str(address).encode()).hexdigest()[:12]}"


def explain(address: Address, complaints: str, junk: Sequence[str]) -> BoardError:
    """Return what to tell when a connection could not be opened; LinkLostError where it may work later."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    last = lines[-1] if lines else (junk[-1] if junk else "the connection ended without a word")
    by_hand = shlex.join(["ssh", *address.words()])
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in complaints:
        forget = next((line for line in lines if line.startswith("ssh-keygen ")), f"ssh-keygen -R {address.host}")
        return BoardError(
            f"The board at {address} has another host key than before. If it was set up anew, forget the old one with "
            f"{forget} and connect once by hand with {by_hand}; if not, somebody may be listening."
        )
    if "Host key verification failed" in complaints or "host key is known" in complaints:
        return BoardError(
            f"The host key of {address} is not known. Connect once by hand with {by_hand} and compare the fingerprint "
            "with that on the board: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
        )
    if "Permission denied" in complaints or "Too many authentication failures" in complaints:
        return BoardError(f"{address} refused the login: {_sentence(last)} Bring your key there: {_copy_id(address)}")
    if old := re.fullmatch(r"edgeprune: (Python [\d.]+ is too old)", last):
        return BoardError(f"{old[1]} on {address}: Python 3.8 or newer is needed there.")
    # NOTE: the board's shell puts the whole program before what it complains of.
    if missing := re.search(r"([^\s:]*python[^\s:]*): (?:not found|No such file.*)$", last):
        return BoardError(f"There is no Python on {address}: no {missing[1]}. Run there: sudo apt install python3")
    if "Could not resolve hostname" in complaints:
        return BoardError(f"{_sentence(last)} Correct the address {address}.")
    return LinkLostError(f"{address} cannot be reached: {_sentence(last)} Is the board on, and on this network?")


def _copy_id(address: Address) -> str:
    return shlex.join(["ssh-copy-id", *address.words()])


def _sentence(line: str) -> str:
    return f"{line.removeprefix('ssh: ').rstrip('.')}."
