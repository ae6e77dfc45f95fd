"""Starts the arm64 boards of deploy/emulated for tests and benchmarks, and says why where this machine cannot."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loopback_board import environment

_SCRIPTS = Path(__file__).parents[1] / "deploy" / "emulated"
_INSTALL = "run: sudo deploy/emulated/install.sh"
_SYSTEM_FOLDERS = "/usr/sbin:/sbin"
# What each kind of board is made from and run with.
_BUILT = {"arm64": "userland", "icount": "icount"}
_PROGRAMS = {"arm64": ("qemu-aarch64-static",), "icount": ("qemu-system-aarch64", "mke2fs", "cpio")}


@dataclass(frozen=True)
class EmulatedBoard:
    """A running board: its name in `ssh_config`, its port, and the folder in which its files lie."""

    name: str
    port: int
    state: Path

    @property
    def url(self) -> str:
        """The address as a target has it; `ssh` of `on_path` knows its keys."""
        return f"ssh://pi@127.0.0.1:{self.port}"

    @property
    def files(self) -> Path:
        """What was changed on an arm64 board, as this machine sees it; the board sees changes made here too."""
        return self.state / "upper"

    def ssh(self, *command: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command on the board."""
        arguments = ["ssh", "-F", str(self.state / "ssh_config"), self.name, *command]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=timeout_s)

    def send(self, *paths: Path) -> None:
        """Copy files into the home folder of the board's user."""
        sources = [str(path) for path in paths]
        command = ["scp", "-q", "-F", str(self.state / "ssh_config"), *sources, f"{self.name}:"]
        subprocess.run(command, check=True)

    def on_path(self) -> AbstractContextManager[None]:
        """Let `ssh` be the one that knows this board."""
        return environment({"PATH": f"{self.state / 'bin'}:{os.environ['PATH']}"})


@functools.cache
def why_not(kind: str) -> str | None:
    """Return why a board of this kind ("arm64" or "icount") cannot run here, or None."""
    for name in ("ssh", "sshd", "mmdebstrap", *_PROGRAMS[kind]):
        if shutil.which(name, path=f"{os.environ['PATH']}:{_SYSTEM_FOLDERS}") is None:
            return f"{name} is not installed; {_INSTALL}"
    if os.geteuid() != 0:
        return "the board's file system and device files are made as root"
    if kind == "arm64" and not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        return f"the kernel does not run arm64 programs (binfmt_misc); {_INSTALL}"
    built = subprocess.run([_SCRIPTS / "build.sh", _BUILT[kind]], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        return f"the board's file system cannot be made here: {built.stderr.strip().splitlines()[-1]}"
    return None


@contextmanager
def running(kind: str, folder: Path, cpu: str) -> Iterator[EmulatedBoard]:
    """Run a board with the core of that name, such as "cortex-a72"."""
    board = EmulatedBoard(cpu, _free_port(), folder)
    script = _SCRIPTS / f"{kind}.sh"
    try:
        subprocess.run([script, "start", folder, board.name, cpu, str(board.port)], check=True, stdout=2)
        yield board
    finally:
        subprocess.run([script, "stop", folder], check=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
