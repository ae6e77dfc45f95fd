"""Measures artifacts on their target: several processes each, interleaved where two are compared."""

from __future__ import annotations

import base64
import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.bench.findings import judge_state
from edgeprune.bench.link import Link, open_link
from edgeprune.bench.measurement import Block, Measurement, ProcessRun
from edgeprune.errors import BoardError, LinkLostError, UsageError
from edgeprune.files import sha256_of
from edgeprune.progress import Progress, Silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeprune.bench.target import Target

    Array = npt.NDArray[np.generic]

_MOST_DROPS = 5  # of the connection, while one process runs


@dataclass(frozen=True)
class MeasureOptions:
    """How long to look; a block lasts for both `block_runs` inferences and `block_s` seconds.

    `block_kept` samples of each block are kept, evenly spread over it; 0 keeps all.
    Warm-up goes on until the recent median stops falling, for at least `warmup_runs` and `warmup_s`, at most
    `warmup_limit_s`. `timeout_s` limits one process.
    """

    processes: int = 5
    blocks: int = 3
    block_runs: int = 10
    block_s: float = 0.1
    block_kept: int = 0
    warmup_runs: int = 10
    warmup_s: float = 0.3
    warmup_limit_s: float = 5.0
    seed: int = 0
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse options that measure nothing; raises UsageError."""
        for name in ("processes", "blocks", "block_runs", "warmup_runs"):
            if getattr(self, name) < 1:
                raise UsageError(f"The measurement's {name} is {getattr(self, name)}; it must be at least 1.")


QUICK = MeasureOptions()
THOROUGH = MeasureOptions(processes=7, blocks=8, block_s=0.2)


def measure(
    artifact: Path, target: Target, options: MeasureOptions = QUICK, progress: Progress | None = None
) -> Measurement:
    """Measure one artifact on its target.

    Raises BuildError when the engine cannot open it, BoardError when the board cannot be used.
    """
    (measurement,) = measure_in_turns([artifact], target, options, _is_whole(options), progress or Silent())
    return measurement


def measure_pair(
    artifact_a: Path,
    artifact_b: Path,
    target: Target,
    options: MeasureOptions = QUICK,
    progress: Progress | None = None,
) -> tuple[Measurement, Measurement]:
    """Measure two artifacts side by side, their processes in the order A B B A, so that drift meets both alike.

    Raises BuildError and BoardError like `measure`.
    """
    pair = [artifact_a, artifact_b]
    first, second = measure_in_turns(pair, target, options, _is_whole(options), progress or Silent())
    return first, second


def measure_in_turns(
    artifacts: Sequence[Path],
    target: Target,
    options: MeasureOptions,
    is_enough: Callable[[Sequence[Sequence[ProcessRun]]], bool],
    progress: Progress,
) -> list[Measurement]:
    """Measure artifacts in turns, forth and back, until what the processes of each saw `is_enough`.

    Raises BuildError and BoardError like `measure`.
    """
    seen: list[list[_Seen]] = [[] for _ in artifacts]
    turns = 0
    with open_link(target) as link, progress.quiet():
        while turns == 0 or not is_enough([[process.run() for process in each] for each in seen]):
            for index in turn_order(len(artifacts), turns):
                seen[index].append(_run_process(artifacts[index], link, options))
            turns += 1
    return [_measurement(artifact, target, processes) for artifact, processes in zip(artifacts, seen, strict=True)]


def run_on_target(artifact: Path, target: Target, samples: Sequence[Sequence[Array]]) -> list[Array]:
    """Run each sample (the inputs of one inference) on the target; return each output, stacked (samples * batch, ...).

    Raises BuildError and BoardError like `measure`.
    """
    import numpy as np

    if not samples:
        raise UsageError("There are no samples to run on the target.")
    columns = {f"input_{index}": np.stack(column) for index, column in enumerate(zip(*samples, strict=True))}
    # Also one at a time: it would disturb whoever measures on this board.
    with tempfile.TemporaryDirectory() as folder, open_link(target) as link:
        path = Path(folder) / "inputs.npz"
        np.savez(path, allow_pickle=False, **columns)
        events = _whole(link, "run", artifact, {"--inputs": path})
    rows = [[_decode(array) for array in event["arrays"]] for event in events if event["event"] == "outputs"]
    return [np.concatenate([np.atleast_1d(output) for output in column]) for column in zip(*rows, strict=True)]


def profile_on_target(artifact: Path, target: Target, options: MeasureOptions = QUICK) -> Mapping[str, float]:
    """Return milliseconds per inference by layer in execution order; empty where the engine cannot say.

    Profiling slows an engine down: the parts matter, not their sum. Raises BuildError and BoardError like `measure`.
    """
    with open_link(target) as link:
        events = _whole(link, "profile", artifact, {}, options.timeout_s)
    for event in events:
        if event["event"] == "profile":
            return dict(event["layers_ms"])
    raise BoardError(f"Target {target.name} ended without a profile of {artifact.name}.")


def turn_order(artifacts: int, turn: int) -> list[int]:
    """Return which artifact each process of a turn opens, so that two alternate as 0 1, 1 0, 0 1, ..."""
    there = list(range(artifacts))
    return there if turn % 2 == 0 else there[::-1]


def _is_whole(options: MeasureOptions) -> Callable[[Sequence[Sequence[ProcessRun]]], bool]:
    """Return what ends a measurement after the asked number of processes of each artifact."""
    return lambda runs: len(runs[0]) >= options.processes


def _whole(
    link: Link, mode: str, artifact: Path, files: Mapping[str, Path], timeout_s: float = 600.0
) -> list[dict[str, Any]]:
    """Return every event of one process; a dropped connection starts it again."""
    for _ in range(_MOST_DROPS):
        with contextlib.suppress(LinkLostError):
            return list(link.events(mode, artifact, files, timeout_s=timeout_s))
    return list(link.events(mode, artifact, files, timeout_s=timeout_s))


@dataclass
class _Seen:
    """What one process said; where the connection dropped, what those said that went on in its place."""

    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    drops: int = 0
    kept: int = 0

    def hear(self, event: dict[str, Any]) -> None:
        """Keep a block, and the first of every other event: the cold start is that of the first process."""
        if event["event"] == "block":
            samples = event["samples_ns"]
            every = max(len(samples) // self.kept, 1) if self.kept else 1
            self.blocks.append(Block(tuple(samples[::every]), event["telemetry"]))
        self.said.setdefault(event["event"], event)

    @property
    def version(self) -> str:
        return str(self.said["opened"]["version"])

    @property
    def facts(self) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self.said["board"]["facts"]
        return facts

    def run(self) -> ProcessRun:
        """Return what was said; raises KeyError for what was not."""
        return ProcessRun(
            open_ms=self.said["opened"]["open_ms"],
            first_ms=self.said["opened"]["first_ms"],
            warmup_ns=tuple(self.said["warmup"]["samples_ns"]),
            blocks=tuple(self.blocks),
            peak_memory_bytes=self.said["done"]["peak_memory_bytes"],
        )


def _run_process(artifact: Path, link: Link, options: MeasureOptions) -> _Seen:
    """Measure in one process; after a dropped connection another one takes the blocks that are missing."""
    seen = _Seen(kept=options.block_kept)
    while "done" not in seen.said:
        given = {**asdict(options), "blocks": options.blocks - len(seen.blocks)}
        try:
            for event in link.events("measure", artifact, options=given, timeout_s=options.timeout_s):
                seen.hear(event)
        except LinkLostError:
            seen.drops += 1
            if seen.drops > _MOST_DROPS:
                raise
            continue
        missing = [name for name in ("board", "opened", "warmup", "done") if name not in seen.said]
        if missing:
            raise BoardError(f"The measurement on target {link.target.name} stopped before its {missing[0]!r} line.")
    return seen


def _measurement(artifact: Path, target: Target, seen: Sequence[_Seen]) -> Measurement:
    from edgeprune.bench import statistics
    from edgeprune.bench.fingerprint import environment_of, fingerprint_of

    runs = tuple(process.run() for process in seen)
    environment = environment_of(seen[0].facts, target, seen[0].version)
    engine = seen[0].said["opened"].get("engine", {})
    samples = statistics.pooled_ms(runs)
    return Measurement(
        target=target.name,
        kind=target.kind,
        runtime=target.runtime,
        runtime_version=seen[0].version,
        fingerprint=fingerprint_of(environment),
        artifact_sha256=sha256_of(artifact),
        size_bytes=artifact.stat().st_size,
        environment={**environment, "engine": engine},
        runs=runs,
        latency_p50_ms=float(statistics.nearest_rank(samples, 0.5)),
        latency_interval_ms=statistics.median_interval_ms(runs),
        latency_p90_ms=statistics.supported_quantile(samples, 0.9, statistics.P90_SAMPLES),
        latency_p99_ms=statistics.supported_quantile(samples, 0.99, statistics.P99_SAMPLES),
        latency_min_ms=float(samples.min()),
        warnings=(*_first_look(seen[0].said["board"], target), *statistics.doubts(runs), *_drops(seen)),
    )


def _first_look(board: Mapping[str, Any], target: Target) -> tuple[str, ...]:
    """Return what speaks against measuring in the state in which the first process found the board."""
    if not board.get("state"):
        return ()
    findings = judge_state(target, board["kind"], board["state"], None)
    return tuple(f"Before the benchmark: {finding.sentence}" for finding in findings)


def _drops(seen: Sequence[_Seen]) -> tuple[str, ...]:
    drops = sum(process.drops for process in seen)
    if not drops:
        return ()
    often = "once" if drops == 1 else f"{drops} times"
    return (f"The connection to the board dropped {often}; new processes took the blocks that were missing.",)


def _decode(array: Mapping[str, Any]) -> Array:
    import numpy as np

    return np.frombuffer(base64.b64decode(array["data"]), dtype=array["type"]).reshape(array["shape"])
