"""Measure artifacts on a target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import follow, show
from edgeprune.commands.flags import Json, TargetName
from edgeprune.errors import UsageError
from edgeprune.listing import Answer

if TYPE_CHECKING:
    from edgeprune.progress import Progress


def command(
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT...", help="Files that the target can load.")],
    target: TargetName = "host",
    out: Annotated[
        Path | None, typer.Option(help="Also write the measurement, with raw samples, to this .json file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the latency distribution of artifacts on a target."""
    show(bench(artifacts, target, out, follow(as_json)), as_json)


def bench(artifacts: Sequence[Path], target: str, out: Path | None, progress: Progress) -> Answer:
    """Carry out `edgeprune bench`; raises EdgepruneError."""
    from edgeprune.bench.link import check_usable
    from edgeprune.bench.measure import THOROUGH, measure
    from edgeprune.bench.measurement import measurement_to_dict
    from edgeprune.bench.rendering import render_measurement
    from edgeprune.bench.target import load_target
    from edgeprune.files import write_text

    board = load_target(target)
    check_usable(board)
    for artifact in artifacts:
        if not artifact.is_file():
            raise UsageError(f"There is no artifact {artifact}. Make one with: edgeprune export MODEL --to onnx")
    measured = {}
    for artifact in artifacts:
        progress.say(f"measuring {artifact} on {target}")
        measured[str(artifact)] = measure(artifact, board, THOROUGH, progress)
    data = [{"artifact": name, **measurement_to_dict(found)} for name, found in measured.items()]
    if out is not None:
        write_text(out, json.dumps(data, indent=1, allow_nan=False) + "\n")
    return Answer(data, "\n\n".join(f"{name}\n{render_measurement(found)}" for name, found in measured.items()))
