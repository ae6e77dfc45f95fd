"""Keeps results over time: an SQLite file, and a journal beside it from which either one can be made again.

Every result is written to the journal and flushed before it is written to the database (WAL), and all writers take
turns. So a killed writer leaves nothing half done, and what was once committed survives the loss of one of the files:
a damaged database is put aside and made again from the journal and from what can still be read of it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import sqlite3
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeprune.errors import StorageError, UsageError
from edgeprune.files import append_line
from edgeprune.verdict.record import Record, record_from_json, record_to_dict

DEFAULT_STORE = Path(".edgeprune/history.sqlite")

_HEADER = b"SQLite format 3\0"
_WAIT_S = 60.0
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


@dataclass(frozen=True)
class Entry:
    """One result as the store keeps it; `packed` is its record, compressed."""

    id: str
    recorded_at: str  # UTC, ISO 8601
    model: str
    target: str
    fingerprint: str
    kind: str
    commit_sha: str
    branch: str
    verdict: str
    latency_p50_ms: float | None
    latency_low_ms: float | None
    latency_high_ms: float | None
    size_bytes: int
    accuracy: float | None
    packed: str

    def record(self) -> Record:
        """Return the whole record; raises UsageError for one of another version."""
        text = zlib.decompress(base64.b64decode(self.packed)).decode()
        return record_from_json(text, f"The stored result {self.id}")


@dataclass(frozen=True)
class Revision:
    """A state of the project's files; empty where it is not known."""

    commit: str = ""
    branch: str = ""


_COLUMNS = tuple(column.name for column in fields(Entry))
_TABLE = f"CREATE TABLE IF NOT EXISTS results ({', '.join(_COLUMNS)}, PRIMARY KEY (id))"
_INDEX = "CREATE INDEX IF NOT EXISTS by_key ON results (model, target, fingerprint, recorded_at)"
_INSERT = f"INSERT OR IGNORE INTO results VALUES ({', '.join('?' * len(_COLUMNS))})"


class Store:
    """The results of one project; safe to use from several processes at a time."""

    def __init__(self, path: Path) -> None:
        """Name the database; it is made when something is first kept."""
        self.path = path
        self.journal = path.with_name(f"{path.name}.journal")
        self.notes: list[str] = []  # what a person should know: what was mended

    def add(self, record: Record, verdict: str, revision: Revision) -> Entry:
        """Keep a result for good; raises StorageError when the disk refuses."""
        entry = _entry(record, verdict, revision)
        with self._opened() as database:
            append_line(self.journal, json.dumps(dict(zip(_COLUMNS, astuple(entry), strict=True))))
            with database:
                database.execute(_INSERT, astuple(entry))
        return entry

    def entries(self, model: str | None = None, target: str | None = None) -> list[Entry]:
        """Return what is kept, oldest first; [] where there is no store yet."""
        if not self.path.exists() and not self.journal.exists():
            return []
        wanted = {"model": model, "target": target}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "1"
        query = f"SELECT {', '.join(_COLUMNS)} FROM results WHERE {where} ORDER BY recorded_at, rowid"
        with self._opened() as database:
            return [Entry(*row) for row in database.execute(query, tuple(given.values()))]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Hold the store against others and open it, mended if need be."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with contextlib.closing(self._healthy()) as database:
                    yield database
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"The store {self.path} cannot be used: {error}. Free space or choose another --store."
            ) from error

    def _healthy(self) -> sqlite3.Connection:
        """Open the database, or put a damaged one aside and make it again."""
        try:
            database = _connect(self.path)
        except sqlite3.DatabaseError as error:
            if (error.sqlite_errorcode & 0xFF) not in _DAMAGED:
                raise
            saved = self._put_aside()
            database = _connect(self.path)
            _insert(database, saved)
        self._complete(database)
        return database

    def _complete(self, database: sqlite3.Connection) -> None:
        """Bring what only one of database and journal holds into the other."""
        kept = {row[0] for row in database.execute("SELECT id FROM results")}
        journalled = self._journalled()
        _insert(database, [entry for entry in journalled if entry.id not in kept])
        missing = kept - {entry.id for entry in journalled}
        for row in database.execute(f"SELECT {', '.join(_COLUMNS)} FROM results ORDER BY rowid").fetchall():
            if row[0] in missing:
                append_line(self.journal, json.dumps(dict(zip(_COLUMNS, row, strict=True))))

    def _journalled(self) -> list[Entry]:
        """Return the readable lines of the journal; a torn or damaged line is one result that the database may have."""
        if not self.journal.exists():
            return []
        found = []
        for line in self.journal.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError, TypeError, KeyError, zlib.error):
                entry = Entry(**json.loads(line))
                zlib.decompress(base64.b64decode(entry.packed))
                found.append(entry)
        return found

    def _put_aside(self) -> list[Entry]:
        """Move a damaged database out of the way, and return what can still be read of it.

        Raises UsageError for a file that never was a store.
        """
        with self.path.open("rb") as file:
            is_database = file.read(len(_HEADER)) == _HEADER
        if not is_database and not self.journal.exists():
            raise UsageError(f"{self.path} is no store of edgeprune; choose another --store.")
        saved = _readable(self.path)
        aside = self.path.with_name(f"{self.path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        self.notes.append(f"The store {self.path} was damaged; it was made again, the old file is {aside.name}.")
        return saved


def matching(entries: Sequence[Entry], ref: str, commit: str) -> list[Entry]:
    """Return the entries of a branch or commit; `commit` is what git calls `ref`, "" where it knows none."""
    is_sha = len(ref) >= 7
    return [
        entry
        for entry in entries
        if entry.branch == ref
        or (is_sha and entry.commit_sha.startswith(ref))
        or (commit and entry.commit_sha == commit)
    ]


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_WAIT_S)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        _check(database)
        database.execute(_TABLE)
        database.execute(_INDEX)
        database.commit()
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        error = sqlite3.DatabaseError(state)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _insert(database: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    with database:
        database.executemany(_INSERT, [astuple(entry) for entry in entries])


def _readable(path: Path) -> list[Entry]:
    """Return the rows before the first that cannot be read."""
    found: list[Entry] = []
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as database:
        for row in database.execute(f"SELECT {', '.join(_COLUMNS)} FROM results"):
            entry = Entry(*row)
            with contextlib.suppress(ValueError, TypeError, zlib.error):
                zlib.decompress(base64.b64decode(entry.packed))
                found.append(entry)
    return found


def _entry(record: Record, verdict: str, revision: Revision) -> Entry:
    text = json.dumps(record_to_dict(replace(record, source=Path(record.source).name)), allow_nan=False)
    low, high = record.latency_interval_ms or (None, None)
    return Entry(
        id=uuid.uuid4().hex,
        recorded_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        model=record.model,
        target=record.target,
        fingerprint=record.fingerprint,
        kind=record.kind,
        commit_sha=revision.commit,
        branch=revision.branch,
        verdict=verdict,
        latency_p50_ms=record.latency_p50_ms,
        latency_low_ms=low,
        latency_high_ms=high,
        size_bytes=record.size_bytes,
        accuracy=record.accuracy,
        packed=base64.b64encode(zlib.compress(text.encode(), 6)).decode(),
    )


def as_rows(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return entries as plain JSON types, without their raw samples."""
    return [{name: getattr(entry, name) for name in _COLUMNS if name != "packed"} for entry in entries]
