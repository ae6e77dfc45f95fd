"""Measure the layers of a network on a target, and show where a cut saves time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import follow, show
from edgeprune.commands.flags import Arch, DataSpec, InputSize, Json, ModelFile, TargetName, TrustPickle
from edgeprune.commands.source import Pictures, Source, load_source_model, source_inputs
from edgeprune.errors import UsageError
from edgeprune.listing import Answer

if TYPE_CHECKING:
    from edgeprune.progress import Progress


def command(
    model: ModelFile,
    target: TargetName = "host",
    arch: Arch = None,
    data: DataSpec = None,
    input_size: InputSize = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Share the latency table as this .json file, with a picture (.svg) beside it; one is read."),
    ] = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Measure single layers over their channels: where a cut saves time on this target, and where it does not."""
    source = Source(model, arch, trust_pickle, data, Pictures(input_size=input_size))
    show(profile(source, target, out, follow(as_json)), as_json)


def profile(source: Source, target: str, out: Path | None, progress: Progress) -> Answer:
    """Carry out `edgeprune profile`; raises EdgepruneError."""
    from edgeprune.bench.link import check_usable
    from edgeprune.bench.target import load_target

    board = load_target(target)
    check_usable(board)
    if out is not None and out.suffix != ".json":
        raise UsageError(f"The latency table {out} is JSON; name it {out.with_suffix('.json')}.")

    from edgeprune.files import write_text
    from edgeprune.run.profile_report import draw_profile, profile_to_dict, render_profile
    from edgeprune.run.profiling import profile_network

    model = load_source_model(source)
    found = profile_network(model.module, source_inputs(source, model), board, out, progress)
    if out is not None:
        write_text(out.with_suffix(".svg"), draw_profile(found))
    return Answer(profile_to_dict(found), render_profile(found))
