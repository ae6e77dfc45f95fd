"""Measures artifacts on their target: several processes each, interleaved where two are compared."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune import registry
from edgeprune.bench.measurement import Block, Measurement, ProcessRun
from edgeprune.errors import BoardError, BuildError, UnknownNameError, UsageError
from edgeprune.files import sha256_of
from edgeprune.progress import Progress, Silent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeprune.bench.target import Target
    from edgeprune.contracts import Transport

    Array = npt.NDArray[np.generic]

_AGENT = Path(__file__).with_name("agent.py")


@dataclass(frozen=True)
class MeasureOptions:
    """How long to look; a block lasts for both `block_runs` inferences and `block_s` seconds.

    Warm-up goes on until the recent median stops falling, for at least `warmup_runs` and `warmup_s`, at most
    `warmup_limit_s`. `timeout_s` limits one process.
    """

    processes: int = 3
    blocks: int = 4
    block_runs: int = 10
    block_s: float = 0.1
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
    (measurement,) = _measure_interleaved([artifact], target, options, progress or Silent())
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
    first, second = _measure_interleaved([artifact_a, artifact_b], target, options, progress or Silent())
    return first, second


def run_on_target(artifact: Path, target: Target, samples: Sequence[Sequence[Array]]) -> list[Array]:
    """Run each sample (the inputs of one inference) on the target; return each output, stacked (samples * batch, ...).

    Raises BuildError and BoardError like `measure`.
    """
    import numpy as np

    if not samples:
        raise UsageError("There are no samples to run on the target.")
    transport = _transport(target)
    columns = {f"input_{index}": np.stack(column) for index, column in enumerate(zip(*samples, strict=True))}
    # Also one at a time: it would disturb whoever measures on this board.
    with tempfile.TemporaryDirectory() as folder, transport.lock():
        path = Path(folder) / "inputs.npz"
        np.savez(path, allow_pickle=False, **columns)
        arguments = [*_arguments("run", artifact, target, transport), "--inputs", transport.put(path)]
        events = [
            event for event in _events(transport, arguments, target, artifact, 600.0) if event["event"] == "outputs"
        ]
    rows = [[_decode(array) for array in event["arrays"]] for event in events]
    return [np.concatenate([np.atleast_1d(output) for output in column]) for column in zip(*rows, strict=True)]


def profile_on_target(artifact: Path, target: Target, options: MeasureOptions = QUICK) -> Mapping[str, float]:
    """Return milliseconds per inference by layer in execution order; empty where the engine cannot say.

    Profiling slows an engine down: the parts matter, not their sum. Raises BuildError and BoardError like `measure`.
    """
    transport = _transport(target)
    with transport.lock():
        arguments = _arguments("profile", artifact, target, transport)
        for event in _events(transport, arguments, target, artifact, options.timeout_s):
            if event["event"] == "profile":
                return dict(event["layers_ms"])
    raise BoardError(f"Target {target.name} ended without a profile of {artifact.name}.")


def process_order(artifacts: int, processes: int) -> list[int]:
    """Return which artifact each process opens: 0 1 1 0 0 1 1 0 ... for two."""
    there = list(range(artifacts))
    return [index for turn in range(processes) for index in (there if turn % 2 == 0 else there[::-1])]


def _measure_interleaved(
    artifacts: Sequence[Path], target: Target, options: MeasureOptions, progress: Progress
) -> list[Measurement]:
    transport = _transport(target)
    seen: list[list[_Seen]] = [[] for _ in artifacts]
    with transport.lock(), progress.quiet():
        for index in process_order(len(artifacts), options.processes):
            seen[index].append(_run_process(artifacts[index], target, transport, options))
    return [
        _measurement(artifact, target, transport, processes)
        for artifact, processes in zip(artifacts, seen, strict=True)
    ]


@dataclass(frozen=True)
class _Seen:
    """What one process said."""

    run: ProcessRun
    version: str
    facts: Mapping[str, Any]


def _run_process(artifact: Path, target: Target, transport: Transport, options: MeasureOptions) -> _Seen:
    arguments = [*_arguments("measure", artifact, target, transport), "--options", json.dumps(asdict(options))]
    said: dict[str, dict[str, Any]] = {}
    blocks = []
    for event in _events(transport, arguments, target, artifact, options.timeout_s):
        said[event["event"]] = event
        if event["event"] == "block":
            blocks.append(Block(tuple(event["samples_ns"]), event["telemetry"]))
    try:
        run = ProcessRun(
            open_ms=said["opened"]["open_ms"],
            first_ms=said["opened"]["first_ms"],
            warmup_ns=tuple(said["warmup"]["samples_ns"]),
            blocks=tuple(blocks),
            peak_memory_bytes=said["done"]["peak_memory_bytes"],
        )
        return _Seen(run, said["opened"]["version"], said["board"]["facts"])
    except KeyError as error:
        raise BoardError(f"The measurement on target {target.name} stopped before its {error} line.") from error


def _measurement(artifact: Path, target: Target, transport: Transport, seen: Sequence[_Seen]) -> Measurement:
    from edgeprune.bench import statistics
    from edgeprune.bench.fingerprint import environment_of, fingerprint_of

    runs = tuple(process.run for process in seen)
    environment = environment_of(seen[0].facts, target, seen[0].version)
    samples = statistics.pooled_ms(runs)
    return Measurement(
        target=target.name,
        kind=transport.kind,
        runtime=target.runtime,
        runtime_version=seen[0].version,
        fingerprint=fingerprint_of(environment),
        artifact_sha256=sha256_of(artifact),
        size_bytes=artifact.stat().st_size,
        environment=environment,
        runs=runs,
        latency_p50_ms=float(statistics.nearest_rank(samples, 0.5)),
        latency_interval_ms=statistics.median_interval_ms(runs),
        latency_p90_ms=statistics.supported_quantile(samples, 0.9, statistics.P90_SAMPLES),
        latency_p99_ms=statistics.supported_quantile(samples, 0.99, statistics.P99_SAMPLES),
        latency_min_ms=float(samples.min()),
        warnings=statistics.doubts(runs),
    )


def _transport(target: Target) -> Transport:
    transport: Transport = registry.load("transports", target.transport)(target.address)
    if transport.kind != target.kind:
        raise UsageError(
            f"Target {target.name} calls itself {target.kind!r}, but its transport {target.transport!r} reaches "
            f"{transport.kind!r} boards; correct `kind` in its file."
        )
    return transport


def _arguments(mode: str, artifact: Path, target: Target, transport: Transport) -> list[str]:
    if not artifact.is_file():
        raise UsageError(f"There is no artifact {artifact}.")
    known = registry.entries("runtimes")
    if target.runtime not in known:
        raise UnknownNameError("runtime", target.runtime, known)
    files = {"--runtime": known[target.runtime].path, "--artifact": artifact}
    placed = [part for flag, path in files.items() for part in (flag, transport.put(path))]
    return [transport.put(_AGENT), mode, *placed, "--settings", json.dumps(target.engine_settings())]


def _events(
    transport: Transport, arguments: Sequence[str], target: Target, artifact: Path, timeout_s: float
) -> Iterator[dict[str, Any]]:
    for line in transport.stream(arguments, timeout_s):
        try:
            event = json.loads(line)
        except ValueError as error:
            raise BoardError(
                f"Target {target.name} answered with something that is no JSON: {line[:120]!r}."
            ) from error
        if event["event"] == "error":
            raise _error_of(event, target, artifact)
        yield event


def _error_of(event: Mapping[str, Any], target: Target, artifact: Path) -> BoardError | BuildError:
    if event["missing"]:
        return BoardError(
            f"Python on target {target.name} has no module {event['missing']!r}; "
            f"install what the runtime {target.runtime!r} needs there."
        )
    if event["stage"] == "open":
        return BuildError(f"{target.runtime} on target {target.name} cannot open {artifact.name}: {event['message']}")
    return BoardError(f"Target {target.name} failed while it had to {event['stage']}: {event['message']}")


def _decode(array: Mapping[str, Any]) -> Array:
    import numpy as np

    return np.frombuffer(base64.b64decode(array["data"]), dtype=array["type"]).reshape(array["shape"])
