"""What differences a target can show at all: the same file measured against itself, kept for later benchmarks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.bench.measure import MeasureOptions, measure_in_turns
from edgeprune.errors import StorageError
from edgeprune.files import write_text
from edgeprune.progress import Progress, Silent

if TYPE_CHECKING:
    from edgeprune.bench.measurement import ProcessRun
    from edgeprune.bench.target import Target

_PAIRS = 20


@dataclass(frozen=True)
class Calibration:
    """An A/A comparison on one board and engine.

    `deviation` is the standard deviation of the logarithm of how much longer the second process of a pair takes,
    `latency_factor` with its 95 % `interval` what the file seems to take as a multiple of itself.
    """

    target: str
    kind: str
    fingerprint: str
    artifact_sha256: str
    measured_on: str
    pairs: int
    deviation: float
    latency_factor: float
    interval: tuple[float, float]

    def detectable(self, pairs: int) -> float:
        """Return the smallest relative difference that so many pairs of processes find in 80 of 100 cases."""
        from edgeprune.bench.statistics import smallest_detectable

        return smallest_detectable(self.deviation, pairs)

    @property
    def is_fair(self) -> bool:
        """Whether the file did not seem to differ from itself."""
        return self.interval[0] <= 1 <= self.interval[1]


def calibrate(artifact: Path, target: Target, progress: Progress | None = None, pairs: int = _PAIRS) -> Calibration:
    """Measure an artifact against itself; raises BuildError and BoardError like `measure`."""
    from edgeprune.bench.statistics import log_differences, mean_interval

    def is_enough(runs: Sequence[Sequence[ProcessRun]]) -> bool:
        return len(runs[0]) >= pairs

    first, second = measure_in_turns([artifact, artifact], target, MeasureOptions(), is_enough, progress or Silent())
    differences = log_differences(first.runs, second.runs)
    low, high = mean_interval(differences)
    return Calibration(
        target=first.target,
        kind=first.kind,
        fingerprint=first.fingerprint,
        artifact_sha256=first.artifact_sha256,
        measured_on=datetime.now(UTC).date().isoformat(),
        pairs=pairs,
        deviation=float(differences.mean(axis=1).std(ddof=1)),
        latency_factor=math.exp(float(differences.mean())),
        interval=(math.exp(low), math.exp(high)),
    )


def keep_calibration(calibration: Calibration) -> Path:
    """Write it to where later benchmarks of this board and engine find it; raises StorageError."""
    path = _folder() / f"{calibration.fingerprint}.json"
    write_text(path, json.dumps(asdict(calibration), indent=1, allow_nan=False) + "\n")
    return path


def known_calibration(fingerprint: str) -> Calibration | None:
    """Return the calibration of a board and engine, None where there is none; raises StorageError."""
    path = _folder() / f"{fingerprint}.json"
    return _read(path) if path.exists() else None


def latest_calibration(target: str) -> Calibration | None:
    """Return the newest calibration of a target whose board has not been asked yet; raises StorageError."""
    found = [calibration for calibration in map(_read, _folder().glob("*.json")) if calibration.target == target]
    return max(found, key=lambda calibration: calibration.measured_on, default=None)


def _read(path: Path) -> Calibration:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        low, high = data["interval"]
        return Calibration(**{**data, "interval": (float(low), float(high))})
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"{path} is no calibration: {error!r}. Remove it and calibrate again.") from error


def _folder() -> Path:
    from platformdirs import user_data_path

    return user_data_path("edgeprune") / "calibrations"
