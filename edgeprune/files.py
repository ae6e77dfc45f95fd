"""Writes files so that a reader never sees half of one, and a full disk is one clear error."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprune.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, otherwise it is removed.

    Raises StorageError when the file system refuses.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush_to_disk(partial)
        partial.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        _remove_quietly(partial)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text in one step; raises StorageError."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Add one line and wait until it is on the disk; a torn line of a killed writer is cut off first."""
    try:
        with path.open("ab+") as file:
            _cut_torn_line(path, file.tell())
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(path, error) from error


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the error that tells a person which file could not be written, why, and what to do."""
    return StorageError(
        f"Could not write {path}: {error.strerror or error}. Free space or choose another --out; "
        "what was finished is kept, and --resume goes on from it."
    )


def _cut_torn_line(path: Path, size: int) -> None:
    if size == 0:
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _flush_to_disk(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _remove_quietly(path: Path) -> None:
    if path.is_file():
        path.unlink(missing_ok=True)
