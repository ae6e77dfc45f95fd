"""The folder of one run: what was asked, every trial as soon as it is measured, every finished step."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from edgeprune.errors import StorageError, UsageError
from edgeprune.files import append_line, storage_error, write_text

Json = TypeVar("Json")
_MANIFEST = "manifest.json"


class RunDir:
    """The files of one run; a killed run finds in them everything that it had finished."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is read or written yet."""
        self.path = path
        self.work = path / "work"
        self._remembered = [self.work]

    def apart(self, name: str) -> RunDir:
        """Return the same run with working files of its own; it knows the finished steps of the whole run."""
        other = RunDir(self.path)
        other.work = self.work / name
        other._remembered = [other.work, *self._remembered]
        return other

    def on_target(self, name: str) -> RunDir:
        """Return the same run with the working files and the finished steps of a further target."""
        other = RunDir(self.path)
        other.work = self.work / name
        other._remembered = [other.work]
        return other

    def file(self, name: str) -> Path:
        """Return the path of a file of the run."""
        return self.path / name

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder against a second process; raises UsageError when another one holds it."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            lock = (self.work / "lock").open("w")
        except OSError as error:
            raise storage_error(self.path, error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"Another run is at work in {self.path}. Wait for it, or choose another --out."
                ) from error
            yield

    def begin(self, request: Mapping[str, Any], facts: Mapping[str, Any], resume: bool) -> None:
        """Write down what is asked, or check that a resumed run asks for the same; raises UsageError."""
        manifest = self.file(_MANIFEST)
        if not manifest.exists():
            write_text(manifest, json.dumps({"request": dict(request), **facts}, indent=1) + "\n")
            return
        if not resume:
            raise UsageError(
                f"{self.path} already holds a run. Add --resume to go on with it, or choose another --out."
            )
        _check_same_request(self.path, self._read_json(manifest)["request"], json.loads(json.dumps(dict(request))))

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Add to the manifest."""
        manifest = self.file(_MANIFEST)
        write_text(manifest, json.dumps({**self._read_json(manifest), **facts}, indent=1) + "\n")

    def recall(self, name: str) -> Any:
        """Return the saved outcome of a step, None where there is none."""
        found = (folder / f"{name}.json" for folder in self._remembered)
        return next((self._read_json(path) for path in found if path.exists()), None)

    def remember(self, name: str, compute: Callable[[], Json]) -> Json:
        """Return the saved outcome of a step, or carry the step out and save its outcome (plain JSON types)."""
        for path in (folder / f"{name}.json" for folder in self._remembered):
            if path.exists():
                return self._read_json(path)  # type: ignore[no-any-return]  # what was saved is what compute returned
        outcome = compute()
        write_text(self.work / f"{name}.json", json.dumps(outcome, allow_nan=False))
        return outcome

    def append_trial(self, trial: Mapping[str, Any]) -> None:
        """Put one finished trial on the disk, at once."""
        append_line(self.file("trials.jsonl"), json.dumps(trial, allow_nan=False))

    def trials(self, stage: str) -> list[dict[str, Any]]:
        """Return the finished trials of a stage in their order; a torn last line of a killed run does not count."""
        path = self.file("trials.jsonl")
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        try:
            trials = [json.loads(line) for line in lines]
        except ValueError as error:
            raise StorageError(f"{path} is damaged: {error}. Start again with another --out.") from error
        return [trial for trial in trials if trial["stage"] == stage]

    def _read_json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StorageError(f"{path} is damaged: {error}. Start again with another --out.") from error


class Stopwatch:
    """Seconds by what they were spent on, over all sessions of a run."""

    def __init__(self, run_dir: RunDir) -> None:
        """Go on from the seconds of earlier sessions."""
        self._path = run_dir.work / "seconds.json"
        self._begin = time.monotonic()
        saved = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._earlier: dict[str, float] = {"training": 0.0, "measuring": 0.0, "total": 0.0, **saved}
        self._now = {"training": 0.0, "measuring": 0.0}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count the time inside this block as "training" or "measuring"."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._now[what] += time.monotonic() - begin
            write_text(self._path, json.dumps(self._totals()))

    def seconds(self) -> dict[str, float]:
        """Return seconds of training and measuring, and of everything else."""
        totals = self._totals()
        rest = totals["total"] - totals["training"] - totals["measuring"]
        return {"training": totals["training"], "measuring": totals["measuring"], "rest": max(rest, 0.0)}

    def _totals(self) -> dict[str, float]:
        now = {**self._now, "total": time.monotonic() - self._begin}
        return {what: self._earlier[what] + seconds for what, seconds in now.items()}


def _check_same_request(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    different = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if different:
        name = different[0]
        raise UsageError(
            f"{path} was begun with another {name}: {before.get(name)!r} then, {now.get(name)!r} now. "
            "Resume with the same settings, or choose another --out."
        )
