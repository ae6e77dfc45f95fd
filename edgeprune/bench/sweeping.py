"""Times many small artifacts on their target in a few processes: what a latency table is made of."""

from __future__ import annotations

import statistics
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.bench.link import Link, open_link
from edgeprune.errors import BoardError
from edgeprune.progress import Progress, Silent

if TYPE_CHECKING:
    from edgeprune.bench.target import Target

_MOST_ATTEMPTS = 5


@dataclass(frozen=True)
class SweepOptions:
    """How long to look at each artifact in each process, in the words of MeasureOptions; there is one block."""

    processes: int = 2
    warmup_runs: int = 8
    warmup_s: float = 0.0
    warmup_limit_s: float = 0.5
    block_runs: int = 10
    block_s: float = 0.01
    seed: int = 0
    timeout_s: float = 900.0


@dataclass(frozen=True)
class Sweep:
    """What a board said of many artifacts: the median milliseconds of each in each process, by file name."""

    facts: Mapping[str, Any]
    version: str
    medians_ms: Mapping[str, tuple[float, ...]]


def sweep(
    artifacts: Sequence[Path], target: Target, options: SweepOptions | None = None, progress: Progress | None = None
) -> Sweep:
    """Time artifacts with different names on a target, all sent in one file.

    Every second process goes backwards, so that a drift of the board meets the first and the last alike. Raises
    BuildError when the engine cannot open one, BoardError when the board cannot be used.
    """
    options, progress = options or SweepOptions(), progress or Silent()
    medians: dict[str, list[float]] = {path.name: [] for path in artifacts}
    facts: Mapping[str, Any] = {}
    version = ""
    with tempfile.TemporaryDirectory() as folder, open_link(target) as link, progress.quiet():
        bundles = [_bundle(artifacts, Path(folder) / "there.zip"), _bundle(artifacts[::-1], Path(folder) / "back.zip")]
        for turn in range(options.processes):
            for event in _whole(link, bundles[turn % 2], options):
                if event["event"] == "board":
                    facts = event["facts"]
                elif event["event"] == "timed":
                    version = event["version"]
                    medians[event["name"]].append(statistics.median(event["samples_ns"]) / 1e6)
    return Sweep(facts, version, {name: tuple(found) for name, found in medians.items()})


def _bundle(artifacts: Sequence[Path], out: Path) -> Path:
    with zipfile.ZipFile(out, "w") as bundle:
        for path in artifacts:
            # NOTE: without its date, so that the same layers are the same file and are sent once.
            bundle.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return out


def _whole(link: Link, bundle: Path, options: SweepOptions) -> Iterator[dict[str, Any]]:
    """Yield what one process says; one that breaks off is started again."""
    with zipfile.ZipFile(bundle) as members:
        left = len(members.namelist())
    for attempt in range(_MOST_ATTEMPTS):
        events: list[dict[str, Any]] = []
        try:
            events.extend(link.events("sweep", bundle, options=asdict(options), timeout_s=options.timeout_s))
        except BoardError:
            if attempt == _MOST_ATTEMPTS - 1:
                raise
            continue
        if sum(event["event"] == "timed" for event in events) == left:
            yield from events
            return
    raise BoardError(f"Target {link.target.name} ended {_MOST_ATTEMPTS} times before it had timed {left} layers.")
