"""Cut, train and export a network until it meets the budget."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import EXIT_CODES, follow, show
from edgeprune.commands.flags import (
    Arch,
    ControllerName,
    DataSpec,
    Epochs,
    InputSize,
    Json,
    Latencies,
    Macs,
    MaxDrop,
    Mean,
    Memory,
    MethodName,
    ModelFile,
    Out,
    PrecisionName,
    Seed,
    ShapeEpochs,
    Size,
    Std,
    TargetNames,
    TrustPickle,
)
from edgeprune.commands.source import Pictures, Source, load_source_data, load_source_model
from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.listing import Answer, entries
from edgeprune.progress import Progress, Silent

if TYPE_CHECKING:
    from edgeprune.run.job import Choices
    from edgeprune.verdict.budget import Budget
    from edgeprune.verdict.result import FurtherTarget, Result

_DEFAULT_TARGET = "host"


@dataclass(frozen=True)
class Place:
    """Where a run leaves its files, whether it goes on with a stopped one, and who follows it."""

    out: Path
    resume: bool = False
    progress: Progress = field(default_factory=Silent)


def command(
    model: ModelFile,
    target: TargetNames = None,
    data: DataSpec = None,
    arch: Arch = None,
    latency: Latencies = None,
    size: Size = None,
    macs: Macs = None,
    memory: Memory = None,
    max_drop: MaxDrop = None,
    precision: PrecisionName = None,
    method: MethodName = "taylor",
    controller: ControllerName = "knapsack",
    epochs: Epochs = 3,
    shape_epochs: ShapeEpochs = None,
    seed: Seed = 0,
    out: Out = Path("runs/latest"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    trust_pickle: TrustPickle = False,
    mean: Mean = None,
    std: Std = None,
    input_size: InputSize = None,
    as_json: Json = False,
) -> None:
    """Cut, train and export a network until it meets the budget as measured on the target, or on all targets."""
    from edgeprune.run.job import Choices

    latencies = latency or []
    texts = {"latency": next(iter(latencies), None), "size": size, "macs": macs, "memory": memory, "max-drop": max_drop}
    budget = budget_from_text(texts, latencies[1:])
    choices = Choices(method, controller, epochs, seed, shape_epochs=shape_epochs, precision=precision)
    source = Source(model, arch, trust_pickle, data, Pictures(mean, std, input_size, seed))
    place = Place(out, resume, follow(as_json))
    result = compress(source, target or [_DEFAULT_TARGET], budget, choices, place)
    show(describe(result, out), as_json)
    raise typer.Exit(EXIT_CODES[result.verdict])


def compress(source: Source, targets: Sequence[str], budget: Budget, choices: Choices, place: Place) -> Result:
    """Carry out `edgeprune compress`; raises EdgepruneError."""
    from edgeprune.bench.link import check_usable
    from edgeprune.bench.target import load_target

    _check_names(choices)
    boards = [load_target(target) for target in targets]
    for board in boards:
        check_usable(board)
    if source.data is None:
        raise UsageError(
            "Say what to train and judge by: --data FILE.npz, --data FOLDER or --data package.module:factory."
        )

    from edgeprune.loop import run_job
    from edgeprune.network.data import check_data, example_inputs
    from edgeprune.run.job import Job, check_targets
    from edgeprune.run.precision import check_precision

    first, *others = boards = [check_precision(board, choices.precision) for board in boards]
    check_targets(boards, budget)
    model = load_source_model(source)
    data = check_data(load_source_data(source), model.module)
    command = ("edgeprune", *sys.argv[1:])
    job = Job(model, example_inputs(data), data, first, budget, choices, place.out, command, tuple(others))
    return run_job(job, place.progress, place.resume)


def budget_from_text(asked: Mapping[str, str | None], other_latencies: Sequence[str] = ()) -> Budget:
    """Read the limits of the command line, by flag; raises UsageError when there is none to search for."""
    from edgeprune.verdict.budget import Budget, parse_drop, parse_latency, parse_macs, parse_memory, parse_size

    given = {flag: text for flag, text in asked.items() if text}
    if not given:
        raise UsageError(
            "Say what to reach: --latency 8ms (or 60% of the original), --size 4MB, --macs 50% or --memory 32MB; "
            "or --max-drop 1% for the fastest network that loses no more."
        )
    return Budget(
        latency_ms=parse_latency(given["latency"]) if "latency" in given else None,
        size_bytes=parse_size(given["size"]) if "size" in given else None,
        macs=parse_macs(given["macs"]) if "macs" in given else None,
        memory_bytes=parse_memory(given["memory"]) if "memory" in given else None,
        accuracy_drop=parse_drop(given["max-drop"]) if "max-drop" in given else None,
        other_latencies_ms=tuple(map(parse_latency, other_latencies)),
    )


def describe(result: Result, out: Path) -> Answer:
    """Return what `compress` prints: the verdict, the table of costs on each target, and where the files are."""
    from edgeprune.verdict.result import result_to_dict
    from edgeprune.verdict.wording import headline

    table = _costs(result, result.target if result.further else "")
    for further in result.further:
        table += ["", *_costs(further, further.target)]
    notes = [*(f"Missed: {sentence}" for sentence in result.violations), *(f"Note: {note}" for note in result.warnings)]
    return Answer(
        result_to_dict(result),
        "\n".join(["", headline(result), "", *table, "", *notes, f"Report: {out / 'report.html'}"]),
    )


def _costs(ends: Result | FurtherTarget, title: str) -> list[str]:
    from edgeprune.verdict.tables import cost_rows

    rows = [(title, "original", "final", "change", "limit")]
    rows += [(row.what, row.original, row.final, row.change, row.limit) for row in cost_rows(ends)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _check_names(choices: Choices) -> None:
    """Refuse unknown names before anything slow is done."""
    named = [("methods", name) for name in choices.method.split("+")]
    for kind, name in (*named, ("controllers", choices.controller)):
        known = entries(kind)
        if name not in known:
            raise UnknownNameError(kind.removesuffix("s"), name, known)
