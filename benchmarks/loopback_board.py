"""A board over real ssh on this machine: its own sshd, host key, login key and home; for tests and benchmarks.

`ssh` as this process finds it is a script that reads the board's configuration instead of the user's, so that nothing
of the user is used or changed.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def missing_program() -> str | None:
    """Return the first program that a loopback board needs and this machine lacks, or None."""
    return next((name for name in ("ssh", "ssh-keygen", "sshd") if _which(name) is None), None)


class LoopbackBoard:
    """An sshd on 127.0.0.1; `inside` is put before its command, `environment` is what a login there finds."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> None:
        """Make keys and configuration; nothing runs yet."""
        self.folder, self.host, self._inside = folder, address, inside
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.port = _free_port()
        self.environment = {"HOME": str(self.home), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        self._server: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "login_key"):
            self.make_key(name)
        shutil.copyfile(folder / "login_key.pub", folder / "authorized_keys")
        self.trust()
        _write_wrapper(folder)

    @property
    def url(self) -> str:
        """The address as a target has it."""
        return f"ssh://{getpass.getuser()}@{self.host}:{self.port}"

    @property
    def lock_path(self) -> Path:
        """A lock of this board alone."""
        return self.folder / "lock"

    def make_key(self, name: str) -> None:
        """Make a key pair, in place of an older one."""
        for path in (self.folder / name, self.folder / f"{name}.pub"):
            path.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)

    def trust(self) -> None:
        """Put the present host key among the known ones."""
        kind, key, *_ = (self.folder / "host_key.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"[{self.host}]:{self.port} {kind} {key}\n")

    def start(self) -> None:
        """Start sshd and wait until it listens."""
        config = self.folder / "sshd_config"
        variables = " ".join(f'"{name}={value}"' for name, value in self.environment.items())
        config.write_text(
            f"Port {self.port}\nListenAddress {self.host}\nHostKey {self.folder / 'host_key'}\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nPidFile none\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            f"PrintMotd no\nLoginGraceTime 30\nMaxStartups 100\nSetEnv {variables}\n"
        )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [*self._inside, str(_which("sshd")), "-D", "-e", "-f", str(config)]
        with (self.folder / "sshd.log").open("ab") as log:
            self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        deadline_s = time.monotonic() + 10
        while f"listening on {self.host} port {self.port}" not in self.log().rpartition("=start=")[2]:
            if time.monotonic() > deadline_s or self._server.poll() is not None:
                raise RuntimeError(f"sshd did not start: {self.log()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop listening and end every connection, the hard way."""
        if self._server is not None:
            for pid in [*_descendants(self._server.pid), self._server.pid]:
                if _name_of(pid) == "sshd":
                    os.kill(pid, signal.SIGKILL)
            self._server.wait()
            self._server = None
        with (self.folder / "sshd.log").open("a") as log:
            log.write("=start=\n")

    def log(self) -> str:
        """Return what sshd said."""
        path = self.folder / "sshd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self, part: str = "") -> list[int]:
        """Return the processes of sessions on this board whose command line holds a text."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"HOME={self.home}".encode() in environment and part in command and state != "Z":
                found.append(int(folder.name))
        return sorted(found)

    def files(self) -> list[Path]:
        """Return what lies in the board's home."""
        return sorted(path for path in self.home.rglob("*") if path.is_file())

    @contextmanager
    def on_path(self) -> Iterator[None]:
        """Let `ssh` be the one that knows this board."""
        with environment({"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}):
            yield


@contextmanager
def running_board(folder: Path) -> Iterator[LoopbackBoard]:
    """Run a board on the loopback interface, with `ssh` set up for it."""
    board = LoopbackBoard(folder)
    board.start()
    try:
        with board.on_path():
            yield board
    finally:
        board.stop()


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Let this process have other environment variables for a while."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write_wrapper(folder: Path) -> None:
    config = folder / "ssh_config"
    config.write_text(
        f"UserKnownHostsFile {folder / 'known_hosts'}\nGlobalKnownHostsFile none\n"
        f"IdentityFile {folder / 'login_key'}\nIdentitiesOnly yes\nIdentityAgent none\n"
    )
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(str(_which("ssh")))} -F {shlex.quote(str(config))} "$@"\n')
    wrapper.chmod(0o755)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _descendants(pid: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        children += [int(text) for text in task.read_text().split()]
    return [found for child in children for found in (*_descendants(child), child)]


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
