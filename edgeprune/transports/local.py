"""This machine: files stay where they are, and Python runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, ClassVar

from edgeprune.contracts import Transport
from edgeprune.errors import BoardError, UsageError

# What a process needs to start; anything else (OMP_NUM_THREADS, PYTHONPATH, ...) could change what is measured.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG")
_GRACE_S = 3.0


class Local(Transport):
    """Runs Python here with a clean environment, one benchmark at a time on this machine."""

    # NOTE: not in TMPDIR, which differs between users and jobs of one machine.
    lock_path: ClassVar[Path] = Path("/tmp/edgeprune-local.lock")
    lock_limit_s: ClassVar[float] = 900.0

    def __init__(self, address: str | None, python: str | None = None) -> None:
        """Refuse an address: this machine has none."""
        if address is not None:
            raise UsageError(f"The transport 'local' is this machine and takes no address; found {address!r}.")
        super().__init__(address, python)

    def put(self, local: Path) -> str:
        """Return the file's own path; raises BoardError where there is no such file."""
        if not local.is_file():
            raise BoardError(f"There is no file {local} to run.")
        return str(local.resolve())

    def stream(self, arguments: Sequence[str], timeout_s: float) -> Iterator[str]:
        """Run `python ARGUMENTS` isolated, in an empty folder; raises BoardError on failure or after `timeout_s`."""
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as folder, tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                [self.python or sys.executable, "-I", *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                encoding="utf-8",
            )
            late = threading.Event()

            def give_up() -> None:
                late.set()
                _end(process)

            timer = threading.Timer(timeout_s, give_up)
            timer.start()
            try:
                yield from (line.rstrip("\n") for line in process.stdout or ())
                status = process.wait()
            finally:
                timer.cancel()
                _end(process)
                if process.stdout is not None:
                    process.stdout.close()
            if status != 0:
                raise BoardError(_explain(status, f"after its {timeout_s:g} s" if late.is_set() else "", complaints))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait for this machine's turn; raises BoardError naming the process that holds it for too long."""
        import fcntl

        with _open_shared(self.lock_path) as file:
            deadline = time.monotonic() + self.lock_limit_s
            while not _try_lock(file):
                if time.monotonic() > deadline:
                    raise BoardError(
                        f"Another benchmark (process {_holder(file)}) has held this machine for "
                        f"{self.lock_limit_s:g} s. Wait for it, or end it."
                    )
                time.sleep(0.2)
            try:
                file.seek(0)
                file.truncate()
                file.write(f"{os.getpid()}\n")
                file.flush()
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)


def _open_shared(path: Path) -> IO[str]:
    """Open the lock file for reading and writing; it belongs to whoever came first and every user may lock it."""
    try:
        return os.fdopen(_descriptor(path), "r+", encoding="utf-8")
    except OSError as error:
        raise BoardError(f"The lock {path} of this machine cannot be opened: {error.strerror}.") from error


def _descriptor(path: Path) -> int:
    # NOTE: asking to create a file of another user fails in /tmp, even where one may write to it.
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        os.fchmod(descriptor, 0o666)
        return descriptor


def _try_lock(file: IO[str]) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.readline().strip() or "unknown"


def _end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, so that it can put back what it changed; then end it."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    process.kill()
    process.wait()


def _explain(status: int, when: str, complaints: IO[bytes]) -> str:
    complaints.seek(0)
    lines = [line.strip() for line in complaints.read().decode(errors="replace").splitlines() if line.strip()]
    ending = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    last = f": {lines[-1]}" if lines else ""
    return f"The process on this machine {' '.join(filter(None, (ending, when)))}{last}."
