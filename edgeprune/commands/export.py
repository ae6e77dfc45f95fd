"""Write a network for an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import follow, show
from edgeprune.commands.flags import Arch, DataSpec, InputSize, Json, ModelFile, Out, TrustPickle
from edgeprune.commands.source import Pictures, Source, load_source_model, source_inputs

if TYPE_CHECKING:
    from edgeprune.listing import Answer
    from edgeprune.progress import Progress


def command(
    model: ModelFile,
    to: Annotated[str, typer.Option("--to", envvar="EDGEPRUNE_TO", help="onnx or tflite.")] = "onnx",
    out: Out = Path("exported"),
    arch: Arch = None,
    data: DataSpec = None,
    input_size: InputSize = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Write a network as ONNX or TFLite and prove that the file computes the same."""
    source = Source(model, arch, trust_pickle, data, Pictures(input_size=input_size))
    show(export(source, to, out, follow(as_json)), as_json)


def export(source: Source, to: str, out: Path, progress: Progress) -> Answer:
    """Carry out `edgeprune export`: build, then compare with PyTorch; raises EdgepruneError."""
    from edgeprune.run.exporting import export_to

    model = load_source_model(source)
    return export_to(model.module, source_inputs(source, model), to, out, progress)
