"""Board half of the ssh transport: one benchmark at a time.

The standard library of Python 3.8 is enough for this file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal

from edgeprune.transports._ssh_board_processes import kill_marked, now_s, started_at


class Lock:
    """The board's lock: of the kernel, so that it ends with its holder, with a record of who holds it."""

    def __init__(self, path: str, owner: str, lease_s: float) -> None:
        """Remember where it is; nothing is opened yet."""
        self.path, self.owner, self.lease_s = path, owner, lease_s
        self.descriptor: int | None = None
        self.held = False

    def take(self) -> bool:
        """Try to take it; a holder that has not shown itself for its lease is ended."""
        if self.descriptor is None:
            self.descriptor = open_shared(self.path)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._end_stuck_holder()
            return False
        self.held = True
        self.beat()
        return True

    def beat(self) -> None:
        """Write down that the holder is alive."""
        if not self.held or self.descriptor is None:
            return
        pid = os.getpid()
        record = {"pid": pid, "started": started_at(pid), "beat_s": now_s(), "lease_s": self.lease_s}
        # NOTE: of one length, because a full disk takes no new bytes.
        line = f"{pid} of {self.owner}\n{json.dumps(record)}".ljust(400) + "\n"
        with contextlib.suppress(OSError):
            os.pwrite(self.descriptor, line.encode(), 0)

    def holder(self) -> str:
        """Return who holds it."""
        return self._read()[0].strip() or "unknown"

    def release(self) -> None:
        """Let go of it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor, self.held = None, False

    def _read(self) -> list[str]:
        text = os.pread(self.descriptor or 0, 4096, 0).decode(errors="replace")
        return [*text.splitlines(), "", ""]

    def _end_stuck_holder(self) -> None:
        try:
            record = json.loads(self._read()[1])
        except ValueError:
            return  # of another kind of holder, or being written
        stuck = now_s() - record["beat_s"] > record["lease_s"]
        if stuck and started_at(record["pid"]) == record["started"] != "":
            with contextlib.suppress(OSError):
                os.kill(record["pid"], signal.SIGKILL)
                kill_marked(f"{record['pid']}.{record['started']}")


def open_shared(path: str) -> int:
    """Open a lock file that belongs to whoever came first, and that every user may lock."""
    try:
        # NOTE: asking to create a file of another user fails in /tmp, even where one may write to it.
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        os.fchmod(descriptor, 0o666)
        return descriptor
