"""Say which of two artifacts is faster on a target, or that they do not differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import EXIT_CODES, follow, show
from edgeprune.commands.flags import Json, TargetName
from edgeprune.errors import UsageError
from edgeprune.listing import Answer
from edgeprune.verdict.budget import parse_margin

if TYPE_CHECKING:
    from edgeprune.progress import Progress

ArtifactA = Annotated[Path, typer.Argument(metavar="ARTIFACT_A", help="File that the target can load.")]
ArtifactB = Annotated[Path, typer.Argument(metavar="ARTIFACT_B", help="File to compare with it.")]
Margin = Annotated[
    str, typer.Option(envvar="EDGEPRUNE_MARGIN", help="Differences smaller than this either way count as none: 2%.")
]
OutFile = Annotated[Path | None, typer.Option(help="Also write the comparison, with raw samples, to this .json file.")]


def command(
    artifact_a: ArtifactA,
    artifact_b: ArtifactB,
    target: TargetName = "host",
    margin: Margin = "2%",
    out: OutFile = None,
    as_json: Json = False,
) -> None:
    """Compare two artifacts, measured in turns; exit 3 where the target is too noisy to say."""
    answer = compare((artifact_a, artifact_b), target, margin, out, follow(as_json))
    show(answer, as_json)
    raise typer.Exit(EXIT_CODES.get(answer.data["verdict"], 0))


def compare(artifacts: tuple[Path, Path], target: str, margin: str, out: Path | None, progress: Progress) -> Answer:
    """Carry out `edgeprune compare`; raises EdgepruneError."""
    from edgeprune.bench import comparison
    from edgeprune.bench.calibration import known_calibration
    from edgeprune.bench.rendering import render_comparison
    from edgeprune.bench.target import load_target
    from edgeprune.files import write_text

    options = comparison.CompareOptions(margin=parse_margin(margin))
    board = load_target(target)
    for artifact in artifacts:
        if not artifact.is_file():
            raise UsageError(f"There is no artifact {artifact}. Make one with: edgeprune export MODEL --to onnx")
    progress.say(f"measuring {artifacts[0]} and {artifacts[1]} in turns on {target}")
    found = comparison.compare(*artifacts, board, options, progress)
    data = comparison.comparison_to_dict(found)
    if out is not None:
        write_text(out, json.dumps(data, indent=1, allow_nan=False) + "\n")
    return Answer(data, render_comparison(found, artifacts, known_calibration(found.fingerprint)))
