"""Board half of the ssh transport: starts Python, and ends everything that it started.

The standard library of Python 3.8 is enough for this file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE_S = 3.0  # a process may put back what it changed before it is killed
READ_BYTES = 1 << 16
LAST_WORDS_BYTES = 4096
MARK = "EDGEPRUNE_SESSION"
# What a process needs to start; anything else (OMP_NUM_THREADS, PYTHONPATH, ...) could change what is measured.
# Jetson users preload libraries that find no room for their thread-local data otherwise.
ENVIRONMENT = ("HOME", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH")


def now_s() -> float:
    """Return seconds that neither a changed wall clock nor a suspended board disturbs."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def started_at(pid: int) -> str:
    """Return when a process was started, in ticks since boot; "" where none runs. Tells a process from its heir."""
    try:
        # NOTE: an emulated program sees something else in /proc/PID/stat of its own than others see there.
        state, *fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state == "Z" else fields[18]


def kill_marked(session: str) -> None:
    """Kill every process of this user that was started for a session."""
    wanted = f"{MARK}={session}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def end_with_parent() -> None:
    """Ask Linux to end this process with the keeper, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Child:
    """One run of Python, in a folder and a process group of its own."""

    def __init__(self, request: dict[str, Any], folder: Path, session: str) -> None:
        """Start it; `descriptors` are those from which more can come."""
        self.folder, self.session = folder, session
        self.last_words, self._line = b"", b""
        folder.mkdir(mode=0o700, exist_ok=True)
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment.update({MARK: session, "TMPDIR": str(folder), "XDG_CACHE_HOME": str(folder)})
        self._process = subprocess.Popen(
            # Without the environment's Python settings, but with the packages that a user installed for himself.
            [sys.executable, "-E", "-B", *request["arguments"]],
            cwd=str(folder),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509  # the keeper has one thread
        )
        self._pipes = [pipe for pipe in (self._process.stdout, self._process.stderr) if pipe]
        self.descriptors = [pipe.fileno() for pipe in self._pipes]
        self._complaints = self.descriptors[1]
        self.deadline_s = now_s() + request["timeout_s"]

    def read(self, descriptor: int) -> list[bytes]:
        """Return the whole lines of output that came; what came of complaints is kept."""
        data = os.read(descriptor, READ_BYTES)
        if not data:
            self.descriptors.remove(descriptor)
        if descriptor == self._complaints:
            self.last_words = (self.last_words + data)[-LAST_WORDS_BYTES:]
            return []
        *lines, self._line = (self._line + data).split(b"\n")
        return lines

    def has_exited(self) -> bool:
        """Say whether the process itself is over; others that it started may still hold its output."""
        return self._process.poll() is not None

    def end(self, meanwhile: Callable[[], None]) -> int:
        """End everything that was started, after the grace by force, and return the status."""
        deadline_s = now_s() + GRACE_S
        if not self.has_exited():
            self._signal_group(signal.SIGTERM)
        while not self.has_exited() and now_s() < deadline_s:
            meanwhile()
            time.sleep(0.01)
        self._signal_group(signal.SIGKILL)
        kill_marked(self.session)
        return self._process.wait()

    def rest(self) -> list[bytes]:
        """Return the lines that were still in the pipes, and leave nothing open and no folder."""
        lines = []
        while self.descriptors:
            ready, _, _ = select.select(self.descriptors, [], [], 0)
            if not ready:
                break
            lines += [line for descriptor in ready for line in self.read(descriptor)]
        for pipe in self._pipes:
            pipe.close()
        shutil.rmtree(str(self.folder), ignore_errors=True)
        return [*lines, self._line] if self._line else lines

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
