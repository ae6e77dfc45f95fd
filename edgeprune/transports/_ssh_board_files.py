"""Board half of the ssh transport: files by the hash of their content, received piece by piece.

The standard library of Python 3.8 is enough for this file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

SPARE_BYTES = 1 << 20  # what is left free on the board's disk
READ_BYTES = 1 << 20


class RefusedError(Exception):
    """What the workstation asked for cannot be done; `facts` say why."""

    def __init__(self, why: str, **facts: Any) -> None:
        """Remember why."""
        super().__init__(why)
        self.facts = dict(facts, why=why)


class Store:
    """Files named by the hash of their content; the longest unused go first when there is no room."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Remember the folder and what all files together may take."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self._used: set[str] = set()
        self._partial: Any = None

    def have(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the path of a content that is here, or how many of its bytes are, and make room for the rest."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path, partial = self._paths(request)
        self._used |= {path.name, partial.name}
        size_bytes = request["size_bytes"]
        if path.is_file() and path.stat().st_size == size_bytes:
            os.utime(str(path))
            return {"path": str(path), "offset": size_bytes}
        here = min(partial.stat().st_size if partial.is_file() else 0, size_bytes)
        self._make_room(size_bytes - here)
        return {"path": None, "offset": here}

    def receive(self, request: dict[str, Any]) -> None:
        """Get ready to add bytes to a partial file."""
        _, partial = self._paths(request)
        self._partial = partial.open("ab", buffering=0)
        self._partial.truncate(request["offset"])

    def write(self, data: bytes) -> None:
        """Add bytes; on a full disk the partial file is removed, because it would be in the way."""
        if self._partial is None:
            return  # the rest of what failed
        try:
            while data:
                data = data[self._partial.write(data) :]
        except OSError:
            self._partial.close()
            Path(self._partial.name).unlink()
            self._partial = None
            raise

    def finish(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Check the content of a partial file and give it its name."""
        if self._partial is None:
            return None
        os.fsync(self._partial.fileno())
        self._partial.close()
        path, partial = self._paths(request)
        if sha256_of(partial) != request["sha256"]:
            partial.unlink()
            raise RefusedError("damaged")
        partial.replace(path)
        return {"path": str(path)}

    def clean(self) -> dict[str, Any]:
        """Remove everything."""
        removed = sum(path.stat().st_size for path in self._files())
        shutil.rmtree(str(self.folder), ignore_errors=True)
        return {"bytes": removed}

    def _paths(self, request: dict[str, Any]) -> tuple[Path, Path]:
        name = request["sha256"] + request["suffix"]
        return self.folder / name, self.folder / f"{name}.partial"

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.is_file()] if self.folder.is_dir() else []

    def _make_room(self, needed_bytes: int) -> None:
        oldest_first = sorted(self._files(), key=lambda path: path.stat().st_mtime)
        total_bytes = sum(path.stat().st_size for path in oldest_first)
        for path in oldest_first:
            if total_bytes + needed_bytes <= self.limit_bytes and self._free_bytes() >= needed_bytes + SPARE_BYTES:
                return
            if path.name not in self._used:
                total_bytes -= path.stat().st_size
                path.unlink()
        if self._free_bytes() < needed_bytes + SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _free_bytes(self) -> int:
        return shutil.disk_usage(str(self.folder)).free


def sha256_of(path: Path) -> str:
    """Return the hexadecimal hash of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(READ_BYTES), b""):
            digest.update(piece)
    return digest.hexdigest()


def refusal_of(error: OSError, folder: Path) -> RefusedError:
    """Return what the workstation is told of an error of the file system."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return RefusedError("storage", message=f"{error.filename or folder}: {error.strerror or error}")
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    return RefusedError("full", free_bytes=shutil.disk_usage(str(there)).free, folder=str(folder))
