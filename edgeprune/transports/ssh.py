"""A board of your own over OpenSSH: your configuration, your keys, one connection for many commands.

The board needs Python 3.8 and nothing else. Files lie there by the hash of their content, so that none is sent twice.
"""

from __future__ import annotations

import getpass
import platform
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

from edgeprune.contracts import Transport
from edgeprune.errors import BoardError, LinkLostError, UsageError
from edgeprune.files import sha256_of
from edgeprune.transports._ssh_command import parse_address
from edgeprune.transports._ssh_session import Session, how_it_ended

Outcome = TypeVar("Outcome")
_SUFFIX = re.compile(r"\.\w{1,12}", re.ASCII)
_MOST_DROPS = 5  # while one file is sent or the lock is waited for
_SLACK_S = 30.0  # the board itself keeps the time of what it runs


class Ssh(Transport):
    """Runs Python on a board; after a drop it connects again, and goes on with a file where it was."""

    kind = None
    needs_address = True
    # NOTE: the lock that benchmarks started on the board itself take too.
    lock_path: ClassVar[str] = "/tmp/edgeprune-local.lock"
    lock_limit_s: ClassVar[float] = 900.0
    lease_s: ClassVar[float] = 15.0
    reconnect_limit_s: ClassVar[float] = 60.0
    storage_limit_bytes: ClassVar[int] = 2_000_000_000

    def __init__(self, address: str | None, python: str | None = None) -> None:
        """Read the address; nothing is contacted yet. Raises UsageError."""
        if address is None:
            raise UsageError("A board that is reached over ssh needs an address: ssh://USER@HOST[:PORT].")
        super().__init__(address, python)
        self.bytes_sent = 0  # of files
        self._address = parse_address(address)
        self._client = secrets.token_hex(8)
        self._session: Session | None = None
        self._was_connected = self._wants_lock = False

    def put(self, local: Path) -> str:
        """Send what the board does not have of a file yet, and return its path there; raises BoardError."""
        if not local.is_file():
            raise BoardError(f"There is no file {local} to send to {self._address}.")
        suffix = local.suffix if _SUFFIX.fullmatch(local.suffix) else ""
        content = {"sha256": sha256_of(local), "suffix": suffix, "size_bytes": local.stat().st_size}
        return self._persistently(lambda session: session.upload(local, content))

    def stream(self, arguments: Sequence[str], timeout_s: float) -> Iterator[str]:
        """Run `python -E -B ARGUMENTS` in an empty folder; raises BoardError on failure or after `timeout_s`."""
        session = self._connected()
        session.ask("run", arguments=list(arguments), timeout_s=timeout_s)
        ended = None
        try:
            for message in session.messages(timeout_s + _SLACK_S):
                if isinstance(message, dict):
                    ended = message
                    break
                yield message
        finally:
            if ended is None and session.is_open:
                session.ask("kill")
                while session.answer(_SLACK_S)["say"] != "killed":
                    pass
        if ended is None or ended["status"] != 0:
            raise BoardError(f"The process on {self._address} {how_it_ended(ended, timeout_s)}.")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait for the board's turn; raises BoardError naming who holds it for too long."""
        self._wants_lock = True
        try:
            self._persistently(lambda session: None)
            yield
        finally:
            self._wants_lock = False
            if self._session is not None:
                self._session.unlock()

    def clean(self) -> int:
        """Remove the files on the board, and return their bytes; raises BoardError."""
        session = self._connected()
        session.ask("clean")
        return int(session.answer(_SLACK_S)["bytes"])

    def close(self) -> None:
        """End the connection; for half a minute the next one of this process opens faster."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def _persistently(self, act: Callable[[Session], Outcome]) -> Outcome:
        """Do what may be done twice, again after each drop."""
        for _ in range(_MOST_DROPS):
            try:
                return act(self._connected())
            except LinkLostError:
                if not self._was_connected:
                    raise
        return act(self._connected())

    def _connected(self) -> Session:
        """Return an open connection that holds the board's lock where it is wanted."""
        if self._session is None or not self._session.is_open:
            if self._session is not None:
                self._session.abandon()
            self._session = self._reconnect() if self._was_connected else self._open()
            self._was_connected = True
        if self._wants_lock and (holder := self._session.lock(self.lock_limit_s)):
            raise BoardError(
                f"Another benchmark (process {holder}) has held {self._address} for {self.lock_limit_s:g} s. "
                "Wait for it, or end it."
            )
        return self._session

    def _reconnect(self) -> Session:
        deadline_s = time.monotonic() + self.reconnect_limit_s
        while True:
            try:
                return self._open()
            except LinkLostError as error:
                if time.monotonic() > deadline_s:
                    raise BoardError(f"{error} It was tried for {self.reconnect_limit_s:g} s.") from error
                time.sleep(1.0)

    def _open(self) -> Session:
        options = {
            "client": self._client,
            "owner": f"{getpass.getuser()}@{platform.node()}",
            "lock": self.lock_path,
            "lease_s": self.lease_s,
            "limit_bytes": self.storage_limit_bytes,
        }
        return Session(self._address, options, self.python, self._count)

    def _count(self, size_bytes: int) -> None:
        self.bytes_sent += size_bytes
