"""Measure artifacts on a target."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import follow, show
from edgeprune.commands.flags import Json, TargetName
from edgeprune.errors import UsageError
from edgeprune.listing import Answer
from edgeprune.verdict.budget import parse_duration

if TYPE_CHECKING:
    from edgeprune.bench.sustained import Sustained
    from edgeprune.bench.target import Target
    from edgeprune.progress import Progress

Bench = Callable[[Sequence[Path], "Target", Path | None, "Progress"], Answer]


def command(
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT...", help="Files that the target can load.")],
    target: TargetName = "host",
    sustained: Annotated[
        str | None,
        typer.Option(help="Run without a pause for this long, 10min, and follow latency, clock and heat."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure a file against itself: the smallest difference one can see.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write the measurement, with raw samples, to this .json file; --sustained adds an .svg."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the latency distribution of artifacts on a target."""
    if sustained and calibrate:
        raise UsageError("--sustained and --calibrate are two benchmarks; ask for one after the other.")
    way: Bench = bench_calibration if calibrate else bench_distribution
    if sustained:
        way = sustained_for(parse_duration(sustained))
    show(bench(artifacts, target, out, follow(as_json), way), as_json)


def bench(artifacts: Sequence[Path], target: str, out: Path | None, progress: Progress, way: Bench) -> Answer:
    """Carry out `edgeprune bench`; raises EdgepruneError."""
    from edgeprune.bench.link import check_usable, session
    from edgeprune.bench.target import load_target

    board = load_target(target)
    check_usable(board)
    for artifact in artifacts:
        if not artifact.is_file():
            raise UsageError(f"There is no artifact {artifact}. Make one with: edgeprune export MODEL --to onnx")
    with session():
        return way(artifacts, board, out, progress)


def bench_distribution(artifacts: Sequence[Path], board: Target, out: Path | None, progress: Progress) -> Answer:
    """Measure the latency distribution of each artifact."""
    from edgeprune.bench.calibration import known_calibration
    from edgeprune.bench.measure import THOROUGH, measure
    from edgeprune.bench.measurement import measurement_to_dict
    from edgeprune.bench.rendering import render_measurement

    data, texts = [], []
    for artifact in artifacts:
        progress.say(f"measuring {artifact} on {board.name}")
        found = measure(artifact, board, THOROUGH, progress)
        calibration = known_calibration(found.fingerprint)
        known = asdict(calibration) if calibration else None
        data.append({"artifact": str(artifact), **measurement_to_dict(found), "calibration": known})
        texts.append(f"{artifact}\n{render_measurement(found, calibration)}")
    _write(out, data)
    return Answer(data, "\n\n".join(texts))


def bench_calibration(artifacts: Sequence[Path], board: Target, out: Path | None, progress: Progress) -> Answer:
    """Measure an artifact against itself, and keep what that says of the board."""
    from edgeprune.bench.calibration import calibrate, keep_calibration
    from edgeprune.bench.rendering import render_calibration

    progress.say(f"measuring {_only(artifacts)} against itself on {board.name}")
    found = calibrate(_only(artifacts), board, progress)
    path = keep_calibration(found)
    data = {**asdict(found), "kept": str(path)}
    _write(out, data)
    return Answer(data, f"{render_calibration(found)}\n{'kept':<12} {path}, for every later benchmark of this board")


def sustained_for(duration_s: float) -> Bench:
    """Return the benchmark that runs for so long."""

    def run(artifacts: Sequence[Path], board: Target, out: Path | None, progress: Progress) -> Answer:
        from edgeprune.bench.measurement import measurement_to_dict
        from edgeprune.bench.rendering import render_sustained
        from edgeprune.bench.sustained import measure_sustained, sustained_to_dict
        from edgeprune.files import write_text

        progress.say(f"running {_only(artifacts)} on {board.name} for {duration_s / 60:.1f} min")
        found = measure_sustained(_only(artifacts), board, duration_s, progress)
        data = sustained_to_dict(found)
        _write(out, {**data, "measurement": measurement_to_dict(found.measurement)})
        if out is not None:
            write_text(out.with_suffix(".svg"), _draw(found))
        return Answer(data, render_sustained(found))

    return run


def _draw(sustained: Sustained) -> str:
    from edgeprune.verdict.sustained_figure import Moment, sustained_figure

    moments = [
        Moment(point.at_s / 60, point.latency_ms, point.temperature_c, bool(point.throttled))
        for point in sustained.points
    ]
    return sustained_figure(moments, f"{sustained.measurement.target} ({sustained.measurement.kind})")


def _only(artifacts: Sequence[Path]) -> Path:
    if len(artifacts) != 1:
        raise UsageError(f"This benchmark takes one artifact, not {len(artifacts)}; ask for one after the other.")
    return artifacts[0]


def _write(out: Path | None, data: object) -> None:
    from edgeprune.files import write_text

    if out is not None:
        write_text(out, json.dumps(data, indent=1, allow_nan=False) + "\n")
