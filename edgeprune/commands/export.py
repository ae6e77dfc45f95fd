"""Write a network for an engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import follow, show
from edgeprune.commands.flags import (
    Arch,
    DataSpec,
    InputSize,
    Json,
    Mean,
    ModelFile,
    Out,
    PrecisionName,
    Std,
    TrustPickle,
)
from edgeprune.commands.source import Pictures, Source, load_source_data, load_source_model, source_inputs
from edgeprune.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.listing import Answer
    from edgeprune.progress import Progress
    from edgeprune.run.building import Arrays

_PROVED_SAMPLES = 64
_CALIBRATION_SAMPLES = 128


def command(
    model: ModelFile,
    to: Annotated[
        str, typer.Option("--to", envvar="EDGEPRUNE_TO", help="onnx, tflite, or an engine: edgeprune list runtimes.")
    ] = "onnx",
    precision: PrecisionName = None,
    calibration: Annotated[
        str | None, typer.Option(help="Data whose training part gives int8 its ranges; without it, that of --data.")
    ] = None,
    out: Out = Path("exported"),
    arch: Arch = None,
    data: DataSpec = None,
    mean: Mean = None,
    std: Std = None,
    input_size: InputSize = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Write a network for an engine, at the asked precision, and prove that the file computes the same."""
    source = Source(model, arch, trust_pickle, data, Pictures(mean, std, input_size))
    asked = Asked(to, precision or "fp32", calibration)
    show(export(source, asked, out, follow(as_json)), as_json)


@dataclass(frozen=True)
class Asked:
    """The engine or format, the precision, and the data that gives it its ranges, in the user's words."""

    to: str
    precision: str = "fp32"
    calibration: str | None = None


def export(source: Source, asked: Asked, out: Path, progress: Progress) -> Answer:
    """Carry out `edgeprune export`: build, then compare with PyTorch; raises EdgepruneError."""
    from edgeprune.run.exporting import Wanted, export_to

    model = load_source_model(source)
    ranging = replace(source, data=asked.calibration or source.data)
    wanted = Wanted(asked.to, asked.precision, _calibration(ranging, asked.precision))
    proving = source if source.data is not None else ranging
    return export_to(model.module, source_inputs(proving, model, _PROVED_SAMPLES), wanted, out, progress)


def _calibration(source: Source, precision: str) -> list[Arrays]:
    """Return the inputs that int8 takes its ranges from; other precisions need none."""
    if precision != "int8":
        return []
    if source.data is None:
        raise UsageError("int8 takes its ranges from real inputs: give --calibration D (or --data D).")
    from edgeprune.run.calibration import calibration_samples

    return calibration_samples(load_source_data(source), _CALIBRATION_SAMPLES, 1)
