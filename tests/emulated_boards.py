"""Starts the boards of deploy/emulated for tests, and says why where this machine cannot."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_SCRIPTS = Path(__file__).parents[1] / "deploy" / "emulated"
_INSTALL = "run: sudo deploy/emulated/install.sh"


@dataclass(frozen=True)
class EmulatedBoard:
    """A running board: its name in `ssh_config`, its port, and the folder in which its files lie."""

    name: str
    port: int
    state: Path

    @property
    def ssh_config(self) -> Path:
        return self.state / "ssh_config"

    @property
    def files(self) -> Path:
        """What was changed on an arm64 board, as this machine sees it; the board sees changes made here too."""
        return self.state / "upper"

    def ssh(self, *command: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        arguments = ["ssh", "-F", str(self.ssh_config), self.name, *command]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=timeout_s)

    def send(self, *paths: Path) -> None:
        """Copy files into the home folder of the board's user."""
        sources = [str(path) for path in paths]
        subprocess.run(["scp", "-q", "-F", str(self.ssh_config), *sources, f"{self.name}:"], check=True)


@contextmanager
def arm64_board(folder: Path, cpu: str) -> Iterator[EmulatedBoard]:
    """Run the board with real arm64 programs, whose times mean nothing."""
    _need_programs("mmdebstrap", "qemu-aarch64-static")
    if os.geteuid() != 0:
        pytest.skip("the arm64 board needs root, for its chroot and device files")
    if not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        pytest.skip(f"the kernel does not run arm64 programs (binfmt_misc): {_INSTALL}")
    yield from _running("arm64.sh", "userland", folder, cpu)


@contextmanager
def icount_board(folder: Path, cpu: str) -> Iterator[EmulatedBoard]:
    """Run the board whose clock counts instructions."""
    _need_programs("mmdebstrap", "qemu-system-aarch64", "mke2fs", "cpio")
    if os.geteuid() != 0:
        pytest.skip("making the disk of the icount board needs root")
    yield from _running("icount.sh", "icount", folder, cpu)


def _need_programs(*names: str) -> None:
    for name in ("ssh", "sshd", *names):
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{name} is not installed; {_INSTALL}")


def _running(script: str, kind: str, folder: Path, cpu: str) -> Iterator[EmulatedBoard]:
    built = subprocess.run([_SCRIPTS / "build.sh", kind], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        pytest.skip(f"the board's file system cannot be made here: {built.stderr.strip().splitlines()[-1]}")
    board = EmulatedBoard(cpu, _free_port(), folder)
    start = [_SCRIPTS / script, "start", folder, board.name, cpu, str(board.port)]
    try:
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
        yield board
    finally:
        subprocess.run([_SCRIPTS / script, "stop", folder], check=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
