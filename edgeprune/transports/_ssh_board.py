"""Board half of the ssh transport: answers one workstation for as long as its connection lasts.

Requests come on standard input, one JSON object a line. Answers go to standard output: a line of the process that
runs, after a `|`, or a JSON object. When the workstation falls silent for the lease or the connection ends, the process
is ended, the lock let go and the session's folder removed. The standard library of Python 3.8 is enough for this file.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.transports._ssh_board_files import RefusedError, Store, refusal_of
from edgeprune.transports._ssh_board_lock import Lock
from edgeprune.transports._ssh_board_processes import Child, kill_marked, now_s, started_at

if TYPE_CHECKING:
    from collections.abc import Callable

BEATS_A_LEASE = 5
LOCK_POLL_S = 0.1
EXIT_POLL_S = 0.01  # between the end of a process's output and its own
CHUNK_BYTES = 1 << 16


class GoneError(Exception):
    """The workstation is gone."""


def serve(options: dict[str, Any]) -> None:
    """Answer until the workstation goes or a signal comes; `options` are those of `Keeper`."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        keeper = Keeper(options)
    except OSError as error:
        os.write(1, (json.dumps({"say": "failed", **refusal_of(error, own_folder()).facts}) + "\n").encode())
        return
    try:
        keeper.loop()
    except GoneError:
        pass
    finally:
        keeper.close()


def own_folder() -> Path:
    """Return the folder of this user's files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edgeprune", "board")


class Keeper:
    """One connection; `client` tells the earlier connections of its workstation from those of others."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Make the session's folder, and end what earlier sessions left."""
        self.lease_s: float = options["lease_s"]
        self.name = f"{os.getpid()}.{started_at(os.getpid())}"
        self.folder = own_folder() / "sessions" / self.name
        self.folder.mkdir(mode=0o700, parents=True)
        own_folder().chmod(0o700)
        self.client: str = options["client"]
        (self.folder / "client").write_text(self.client)
        self.sweep()
        self.store = Store(own_folder() / "files", options["limit_bytes"])
        self.lock = Lock(options["lock"], options["owner"], self.lease_s)
        self.lock_until_s: float | None = None
        self.child: Child | None = None
        self.coming: dict[str, Any] | None = None  # whose bytes come next
        self.missing, self.input = 0, b""
        self.heard_s = self.beat_s = now_s()
        os.set_blocking(1, False)
        version = ".".join(map(str, sys.version_info[:3]))
        self.say("ready", python=version, executable=sys.executable, session=self.name)

    def sweep(self) -> None:
        """End earlier sessions of this workstation, and what is left of those that died."""
        for folder in self.folder.parent.iterdir():
            pid, _, started = folder.name.partition(".")
            is_alive = started_at(int(pid)) == started
            if folder == self.folder or (is_alive and client_of(folder) != self.client):
                continue
            with contextlib.suppress(OSError):
                if is_alive:
                    os.kill(int(pid), signal.SIGKILL)
            kill_marked(folder.name)
            shutil.rmtree(str(folder), ignore_errors=True)

    def close(self) -> None:
        """Leave nothing that runs, and no folder of the session."""
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if self.child is not None:
            self.child.end(self.lock.beat)
        self.lock.release()
        shutil.rmtree(str(self.folder), ignore_errors=True)
        for folder in (self.folder.parent, own_folder()):
            with contextlib.suppress(OSError):  # others are at work, or files are kept
                folder.rmdir()

    def loop(self) -> None:
        """Wait for what comes next, a request, a line or a deadline; raises GoneError when nobody asks any more."""
        while True:
            waiting = [0, *(self.child.descriptors if self.child else ())]
            ready, _, _ = select.select(waiting, [], [], self.patience_s())
            if self.child is not None:
                self.relay([descriptor for descriptor in ready if descriptor != 0])
            if 0 in ready:
                self.hear()
            self.keep_time()

    def patience_s(self) -> float:
        """Return how long to sleep at most."""
        limits = [self.beat_s + self.lease_s / BEATS_A_LEASE - now_s()]
        if self.lock_until_s is not None:
            limits.append(LOCK_POLL_S)
        if self.child is not None:
            limits.append(self.child.deadline_s - now_s() if self.child.descriptors else EXIT_POLL_S)
        return max(min(limits), 0.0)

    def keep_time(self) -> None:
        """Do what is due."""
        now = now_s()
        if now - self.heard_s > self.lease_s:
            raise GoneError
        if self.child is not None and (self.child.has_exited() or now > self.child.deadline_s):
            self.end_child()
        if self.lock_until_s is not None:
            self.try_lock()
        self.beat()

    def beat(self) -> None:
        """Give a sign of life where one is due."""
        if now_s() - self.beat_s >= self.lease_s / BEATS_A_LEASE:
            self.show_life()

    def show_life(self) -> None:
        """Give a sign of life to the workstation, and to those who wait for the lock."""
        self.beat_s = now_s()
        self.lock.beat()
        self.say("beat")

    # ---------------------------------------------------------------- what the workstation asks

    def hear(self) -> None:
        """Take what came in, whole requests and pieces of a file."""
        data = os.read(0, CHUNK_BYTES)
        if not data:
            raise GoneError
        self.heard_s = now_s()
        self.input += data
        while self.input and self.advance():
            pass

    def advance(self) -> bool:
        """Take one request or one piece of a file; False where more of it has to come first."""
        if self.coming is not None:
            piece, self.input = self.input[: self.missing], self.input[self.missing :]
            self.missing -= len(piece)
            self.guarded(self.store.write, piece)
            if not self.missing:
                self.guarded(self.store.finish, self.coming)
                self.coming = None
            return True
        line, newline, rest = self.input.partition(b"\n")
        if newline:
            self.input = rest
            self.answer(json.loads(line))
        return bool(newline)

    def answer(self, request: dict[str, Any]) -> None:
        """Carry out one request."""
        acts: dict[str, Callable[[], None]] = {
            "beat": self.show_life,  # also where the clock here goes so slowly that no sign of life is due
            "have": lambda: self.guarded(self.store.have, request),
            "take": lambda: self.take(request),
            "clean": lambda: self.guarded(self.store.clean),
            "run": lambda: self.guarded(self.start, request),
            "kill": self.kill,
            "lock": lambda: self.want_lock(request["wait_s"]),
            "unlock": self.lock.release,
        }
        acts[request["do"]]()

    def take(self, request: dict[str, Any]) -> None:
        """Get ready for the bytes of a file."""
        self.coming, self.missing = request, request["bytes"]
        self.guarded(self.store.receive, request)

    def kill(self) -> None:
        """End what runs."""
        self.end_child()
        self.say("killed")

    def want_lock(self, wait_s: float) -> None:
        """Wait for the board's lock from now on."""
        self.lock_until_s = now_s() + wait_s

    def start(self, request: dict[str, Any]) -> None:
        """Run Python."""
        self.child = Child(request, self.folder / "work", self.name)

    def guarded(self, act: Any, *arguments: Any) -> None:
        """Do something with files and say what came of it, where it has an outcome."""
        try:
            outcome = act(*arguments)
        except RefusedError as refusal:
            self.say("failed", **refusal.facts)
        except OSError as error:
            self.say("failed", **refusal_of(error, self.store.folder).facts)
        else:
            if outcome is not None:
                self.say("done", **outcome)

    def try_lock(self) -> None:
        """Take the board's lock, or go on waiting for it."""
        try:
            taken = self.lock.take()
        except OSError as error:
            self.lock_until_s = None
            self.say("failed", why="storage", message=f"{self.lock.path}: {error.strerror}")
            return
        if taken:
            self.sweep()  # whoever had to be ended for it
        if taken or now_s() > (self.lock_until_s or 0.0):
            self.lock_until_s = None
            self.say("locked" if taken else "held", by=self.lock.holder())

    # ---------------------------------------------------------------- the process that runs

    def relay(self, ready: list[int]) -> None:
        """Pass on what the process wrote."""
        child = self.child
        if child is None:
            return
        for descriptor in ready:
            for line in child.read(descriptor):
                self.send(b"|" + line + b"\n")

    def end_child(self) -> None:
        """Pass on what is left and say how the process ended."""
        child = self.child
        if child is None:
            return
        late = not child.has_exited() and now_s() > child.deadline_s
        status = child.end(self.beat)
        self.child = None
        for line in child.rest():
            self.send(b"|" + line + b"\n")
        self.say("ended", status=status, late=late, last_words=child.last_words.decode(errors="replace"))

    def say(self, what: str, **facts: Any) -> None:
        """Answer."""
        self.send(json.dumps(dict(facts, say=what)).encode() + b"\n")

    def send(self, data: bytes) -> None:
        """Write to the workstation; one that takes nothing for the lease is gone."""
        while data:
            _, ready, _ = select.select([], [1], [], self.lease_s)
            if not ready:
                raise GoneError
            with contextlib.suppress(BlockingIOError):
                try:
                    data = data[os.write(1, data) :]
                except (BrokenPipeError, ConnectionResetError) as error:
                    raise GoneError from error


def client_of(folder: Path) -> str:
    """Return whose session a folder is."""
    try:
        return (folder / "client").read_text()
    except OSError:
        return ""
