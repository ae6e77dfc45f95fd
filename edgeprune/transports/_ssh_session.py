"""One connection to a board and the keeper at its other end, as requests, answers and lines."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from edgeprune.errors import BoardError, LinkLostError
from edgeprune.transports._ssh_command import Address, control_path, explain, remote_command

_HERE = Path(__file__).parent
# In the order in which one imports the other.
_BOARD_HALF = ("_ssh_board_processes", "_ssh_board_lock", "_ssh_board_files", "_ssh_board")
_LOADER = """
import sys, types
for name, source in MODULES:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
module.serve(OPTIONS)
"""
_BEATS_A_LEASE = 5
_OPEN_LIMIT_S = _ANSWER_LIMIT_S = 60.0
_JUNK_LINES = 100  # that a login shell may print first
_PIECE_BYTES = 1 << 16


class Session:
    """An open connection; every method raises LinkLostError once it is broken.

    The board ends everything that it does for this session when it hears nothing for `lease_s`, and so does this side.
    """

    def __init__(
        self, address: Address, options: Mapping[str, Any], python: str | None, count: Callable[[int], None]
    ) -> None:
        """Connect; raises BoardError with the remedy, LinkLostError where it may work later.

        `count` is told the bytes of files as they are sent.
        """
        self.address = address
        self.is_open = True
        self._has_lock = False
        self._count = count
        self._lease_s: float = options["lease_s"]
        self._writing = threading.Lock()
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the session
        program = _board_program(options)
        self._process = _start(address, remote_command(len(program), python), self._complaints)
        self._heard_s = time.monotonic()
        self._closing = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            with contextlib.suppress(LinkLostError):  # ssh has ended already: what is read next says why
                self._write(program)
            self.facts = self._greeting()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._beat, daemon=True).start()

    def ask(self, what: str, **facts: Any) -> None:
        """Send a request."""
        self._write(json.dumps({"do": what, **facts}).encode() + b"\n")

    def upload(self, local: Path, content: Mapping[str, Any]) -> str:
        """Send what the board lacks of a content (`sha256`, `suffix`, `size_bytes`), and return its path there."""
        self.ask("have", **content)
        there = self.answer(_ANSWER_LIMIT_S)
        if there["path"] is not None:
            return str(there["path"])
        missing = content["size_bytes"] - there["offset"]
        with local.open("rb") as file, self._writing:
            file.seek(there["offset"])
            request = {"do": "take", "offset": there["offset"], "bytes": missing, **content}
            self._write_all(json.dumps(request).encode() + b"\n")
            while missing:
                size = min(missing, _PIECE_BYTES)
                self._write_all(file.read(size).ljust(size, b"\0"))  # the hash tells when the file shrank meanwhile
                self._count(size)
                missing -= size
        return str(self.answer(_ANSWER_LIMIT_S)["path"])

    def lock(self, limit_s: float) -> str:
        """Wait for the board's lock; returns who has held it for all that time, or "" when it is ours."""
        if not self._has_lock:
            self.ask("lock", wait_s=limit_s)
            answer = self.answer(limit_s + _ANSWER_LIMIT_S)
            if answer["say"] == "held":
                return str(answer["by"])
            self._has_lock = True
        return ""

    def unlock(self) -> None:
        """Let go of the board's lock; a broken connection holds none."""
        if self._has_lock and self.is_open:
            self._has_lock = False
            with contextlib.suppress(LinkLostError):
                self.ask("unlock")

    def answer(self, limit_s: float) -> dict[str, Any]:
        """Return the next answer; raises BoardError for what the board could not do."""
        for message in self.messages(limit_s):
            if isinstance(message, dict):
                return message
        raise self._lost(f"no answer came within {limit_s:g} s")

    def messages(self, limit_s: float) -> Iterator[str | dict[str, Any]]:
        """Yield lines of the process that runs as text, and answers; raises BoardError for what could not be done."""
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            try:
                line = self._lines.get(timeout=1.0)
            except queue.Empty:
                self._check_silence()
                continue
            if line is None:
                raise self._lost(self._complaints_text().strip().rpartition("\n")[2] or "it was closed")
            if line.startswith(b"|"):
                yield line[1:].decode(errors="replace").rstrip("\n")
            else:
                yield self._checked(json.loads(line))

    def close(self) -> None:
        """Let go: the board ends what it still does for this session."""
        self.is_open = False
        self._closing.set()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._process.kill()
        self._process.wait()
        self._complaints.close()

    def abandon(self) -> None:
        """Let go of a broken connection, and of the one that it shares with others of this process."""
        self.close()
        command = self.address.ssh(control_path(self.address))
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = [*command[:1], "-O", "exit", *command[1:]]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)

    # ---------------------------------------------------------------- both directions

    def _greeting(self) -> dict[str, Any]:
        """Return what the keeper says first; what the login shell printed before it is skipped."""
        junk: list[str] = []
        deadline_s = time.monotonic() + _OPEN_LIMIT_S
        while len(junk) < _JUNK_LINES:
            try:
                line = self._lines.get(timeout=max(deadline_s - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if line is None:
                raise explain(self.address, self._complaints_text(), junk)
            if line.startswith(b"{"):
                return self._checked(json.loads(line))
            junk.append(line.decode(errors="replace").strip())
        raise explain(self.address, self._complaints_text(), junk or ["it did not answer"])

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer["say"] != "failed":
            return answer
        if answer["why"] == "full":
            raise BoardError(
                f"The disk of {self.address} is full: {answer['free_bytes'] / 1e6:.1f} MB are free at "
                f"{answer['folder']}. Free some, or remove what earlier runs left: edgeprune targets clean TARGET"
            )
        if answer["why"] == "damaged":
            raise BoardError(f"A file changed on its way to {self.address}. Send it again.")
        raise BoardError(f"{self.address} cannot use its own files: {answer['message']}.")

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._heard_s = time.monotonic()
            if not line.startswith(b'{"say": "beat"'):
                self._lines.put(line)
        self._lines.put(None)

    def _beat(self) -> None:
        while not self._closing.wait(self._lease_s / _BEATS_A_LEASE):
            try:
                self.ask("beat")
            except LinkLostError:
                return  # whoever reads the answers finds out too

    def _write(self, data: bytes) -> None:
        with self._writing:
            self._write_all(data)

    def _write_all(self, data: bytes) -> None:
        pipe = self._process.stdin
        while data:
            try:
                if pipe is None or pipe.closed:
                    raise BrokenPipeError
                _, ready, _ = select.select([], [pipe], [], 1.0)
                data = data[os.write(pipe.fileno(), data) :] if ready else data
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._lost("nothing can be written to it") from error
            self._check_silence()

    def _check_silence(self) -> None:
        if time.monotonic() - self._heard_s > self._lease_s:
            raise self._lost(f"nothing was heard for {self._lease_s:g} s")

    def _lost(self, why: str) -> LinkLostError:
        self.is_open = False
        return LinkLostError(f"The connection to {self.address} broke: {why}.")

    def _complaints_text(self) -> str:
        self._complaints.seek(0)
        return self._complaints.read().decode(errors="replace")


def how_it_ended(ended: Mapping[str, Any] | None, timeout_s: float) -> str:
    """Return how a process ended as the rest of a sentence; None where the board did not say."""
    if ended is None:
        return f"went on after its {timeout_s:g} s"
    status, words = ended["status"], [line.strip() for line in ended["last_words"].splitlines() if line.strip()]
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    how += f" after its {timeout_s:g} s" if ended["late"] else ""
    if status == -signal.SIGKILL and not ended["late"] and not words:
        return f"{how}: somebody there ended it, or the memory ran out (sudo dmesg says so)"
    return how + (f": {words[-1]}" if words else "")


def _start(address: Address, remote: str, complaints: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        process = subprocess.Popen(
            [*address.ssh(control_path(address)), remote],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # NOTE: no pipe, because the shared connection would hold it open.
            stderr=complaints,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # an interrupt from the keyboard is for edgeprune
        )
    except FileNotFoundError as error:
        raise BoardError("There is no program ssh here. Install it: sudo apt install openssh-client") from error
    if process.stdin is not None:
        os.set_blocking(process.stdin.fileno(), False)
    return process


def _board_program(options: Mapping[str, Any]) -> bytes:
    modules = [(f"{__package__}.{name}", (_HERE / f"{name}.py").read_text(encoding="utf-8")) for name in _BOARD_HALF]
    return f"MODULES = {modules!r}\nOPTIONS = {dict(options)!r}\n{_LOADER}".encode()
