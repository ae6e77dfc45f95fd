"""What each command does, between the parsed flags and the library; the heavy rooms are imported as they are needed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.listing import Answer, entries
from edgeprune.progress import Progress, Silent
from edgeprune.run.job import Choices, Job
from edgeprune.verdict.budget import Budget, parse_drop, parse_latency, parse_macs, parse_size

if TYPE_CHECKING:
    import torch

    from edgeprune.network.data import Data
    from edgeprune.network.model import Model
    from edgeprune.verdict.result import Result

EXIT_CODES: Mapping[str, int] = {"pass": 0, "fail": 1, "inconclusive": 3}


@dataclass(frozen=True)
class Pictures:
    """How built-in image data is read, in the user's words."""

    mean: str | None = None
    std: str | None = None
    input_size: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """Where the network and the data come from, as the user named them."""

    model: Path
    arch: str | None = None
    trust_pickle: bool = False
    data: str | None = None
    pictures: Pictures = field(default_factory=Pictures)


@dataclass(frozen=True)
class Place:
    """Where a run leaves its files, whether it goes on with a stopped one, and who follows it."""

    out: Path
    resume: bool = False
    progress: Progress = field(default_factory=Silent)


def compress(source: Source, target: str, budget: Budget, choices: Choices, place: Place) -> Result:
    """Carry out `edgeprune compress`; raises EdgepruneError."""
    _check_names(choices, target)
    if source.data is None:
        raise UsageError(
            "Say what to train and judge by: --data FILE.npz, --data FOLDER or --data package.module:factory."
        )

    from edgeprune.bench.target import load_target
    from edgeprune.loop import run_job
    from edgeprune.network.data import check_data, example_inputs

    model = _load_model(source)
    data = check_data(_load_data(source), model.module)
    command = ("edgeprune", *sys.argv[1:])
    job = Job(model, example_inputs(data), data, load_target(target), budget, choices, place.out, command)
    return run_job(job, place.progress, place.resume)


def inspect(source: Source, graph: Path | None) -> Answer:
    """Carry out `edgeprune inspect`, and draw the couplings into `graph`; raises EdgepruneError."""
    from edgeprune.files import write_text
    from edgeprune.network.drawing import draw_couplings
    from edgeprune.network.groups import structure_to_dict, structure_to_text
    from edgeprune.network.structure import network_structure

    model = _load_model(source)
    structure = network_structure(model.module, _inputs(source, model))
    if graph is not None:
        write_text(graph, draw_couplings(structure))
    return Answer(structure_to_dict(structure), structure_to_text(structure))


def export(source: Source, to: str, out: Path, progress: Progress) -> Answer:
    """Carry out `edgeprune export`: build, then compare with PyTorch; raises EdgepruneError."""
    from edgeprune.run.exporting import export_to

    model = _load_model(source)
    return export_to(model.module, _inputs(source, model), to, out, progress)


def bench(artifacts: Sequence[Path], target: str, out: Path | None, progress: Progress) -> Answer:
    """Carry out `edgeprune bench`; raises EdgepruneError."""
    import json

    from edgeprune.bench.measure import THOROUGH, measure
    from edgeprune.bench.measurement import measurement_to_dict
    from edgeprune.bench.rendering import render_measurement
    from edgeprune.bench.target import load_target
    from edgeprune.files import write_text

    board = load_target(target)
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


def report(run_dir: Path) -> Answer:
    """Carry out `edgeprune report`; raises EdgepruneError."""
    from edgeprune.verdict.report import write_report

    html, markdown = write_report(run_dir)
    return Answer({"html": str(html), "markdown": str(markdown)}, f"{html}\n{markdown}")


def budget_from_text(latency: str | None, size: str | None, macs: str | None, max_drop: str | None) -> Budget:
    """Read the limits of the command line; raises UsageError when there is none to search for."""
    if not any((latency, size, macs)):
        raise UsageError("Say what to reach: --latency 8ms (or 60% of the original), --size 4MB or --macs 50%.")
    return Budget(
        latency_ms=parse_latency(latency) if latency else None,
        size_bytes=parse_size(size) if size else None,
        macs=parse_macs(macs) if macs else None,
        accuracy_drop=parse_drop(max_drop) if max_drop else None,
    )


def describe(result: Result, out: Path) -> Answer:
    """Return what `compress` prints: the verdict, the table of costs, and where the files are."""
    from edgeprune.verdict.result import result_to_dict
    from edgeprune.verdict.tables import cost_rows
    from edgeprune.verdict.wording import headline

    rows = [("", "original", "final", "change", "limit")]
    rows += [(row.what, row.original, row.final, row.change, row.limit) for row in cost_rows(result)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [*(f"Missed: {sentence}" for sentence in result.violations), *(f"Note: {note}" for note in result.warnings)]
    return Answer(
        result_to_dict(result),
        "\n".join(["", headline(result), "", *table, "", *notes, f"Report: {out / 'report.html'}"]),
    )


def _check_names(choices: Choices, target: str) -> None:
    """Refuse unknown names before anything slow is done."""
    asked = [("methods", choices.method), ("controllers", choices.controller)]
    if not target.endswith(".toml"):
        asked.append(("targets", target))
    for kind, name in asked:
        known = entries(kind)
        if name not in known:
            raise UnknownNameError(kind.removesuffix("s"), name, known)


def _load_model(source: Source) -> Model:
    from edgeprune.network.model import load_model

    return load_model(source.model, source.arch, source.trust_pickle)


def _load_data(source: Source) -> Data:
    from edgeprune.network.data import load_data
    from edgeprune.network.image_data import DataOptions

    pictures = source.pictures
    options = DataOptions(
        mean=_numbers("--mean", pictures.mean),
        std=_numbers("--std", pictures.std),
        input_size=_picture_size(pictures.input_size),
        seed=pictures.seed,
    )
    return load_data(str(source.data), options)


def _inputs(source: Source, model: Model) -> tuple[torch.Tensor, ...]:
    """Return inputs of the right shape: real ones where there is data, else random ones of --input-size."""
    import torch

    from edgeprune.network.data import example_inputs

    if source.data is not None:
        return example_inputs(_load_data(source))
    if source.pictures.input_size is not None:
        shape = _shape(source.pictures.input_size)
        return (torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)),)
    if model.example_inputs is not None:
        return model.example_inputs
    raise UsageError("Say how large an input is: --input-size 3x224x224, or --data.")


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise UsageError(f"--input-size {text!r} is no shape; write it like 3x224x224.") from error
    if min(shape) < 1:
        raise UsageError(f"--input-size {text!r} has a size below 1; write it like 3x224x224.")
    return shape


def _picture_size(text: str | None) -> tuple[int, int] | None:
    """Return height and width of `224x224` or `3x224x224`."""
    if text is None:
        return None
    shape = _shape(text)
    if len(shape) not in (2, 3):
        raise UsageError(f"--input-size {text!r} is no size of pictures; write it like 224x224.")
    return shape[-2], shape[-1]


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} {text!r} is no list of numbers; write it like 0.485,0.456,0.406.") from error
