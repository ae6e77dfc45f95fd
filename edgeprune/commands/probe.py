"""Find out what latency can be reached, before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import follow, show
from edgeprune.commands.flags import (
    Arch,
    ControllerName,
    DataSpec,
    InputSize,
    Json,
    Latency,
    MethodName,
    ModelFile,
    TargetName,
    TrustPickle,
)
from edgeprune.commands.source import Pictures, Source, load_source_model, source_inputs
from edgeprune.errors import BudgetError, InconclusiveError, UnknownNameError, UsageError
from edgeprune.listing import Answer, entries

if TYPE_CHECKING:
    from edgeprune.progress import Progress
    from edgeprune.run.probing import Question

_EXIT_CODES = {"satisfiable": 0, "not satisfiable": BudgetError.exit_code, "inconclusive": InconclusiveError.exit_code}


def command(
    model: ModelFile,
    target: TargetName = "host",
    latency: Latency = None,
    arch: Arch = None,
    data: DataSpec = None,
    input_size: InputSize = None,
    method: MethodName = "magnitude",
    controller: ControllerName = "knapsack",
    out: Annotated[
        Path | None, typer.Option(help="Also write what was measured to this .json file, with a picture (.svg).")
    ] = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Measure what latency cutting can reach, what the floor consists of, and whether a budget can be met."""
    source = Source(model, arch, trust_pickle, data, Pictures(input_size=input_size))
    answer = probe(source, _question(target, latency, method, controller), out, follow(as_json))
    show(answer, as_json)
    budget = answer.data["budget"]
    raise typer.Exit(_EXIT_CODES[budget["verdict"]] if budget else 0)


def probe(source: Source, question: Question, out: Path | None, progress: Progress) -> Answer:
    """Carry out `edgeprune probe`; raises EdgepruneError."""
    from edgeprune.bench.link import session
    from edgeprune.files import write_text
    from edgeprune.run.probe_report import probe_to_dict, render_probe
    from edgeprune.run.probing import probe_network
    from edgeprune.verdict.probe_figure import probe_figure

    if out is not None and out.suffix != ".json":
        raise UsageError(f"What was measured, {out}, is JSON; name it {out.with_suffix('.json')}.")
    model = load_source_model(source)
    with session():
        found = probe_network(model.module, source_inputs(source, model), question, progress)
    data = probe_to_dict(found)
    if out is not None:
        write_text(out, json.dumps(data, indent=1, allow_nan=False) + "\n")
        write_text(out.with_suffix(".svg"), probe_figure(data))
    return Answer(data, render_probe(found))


def _question(target: str, latency: str | None, method: str, controller: str) -> Question:
    """Refuse names and numbers before anything slow is done; raises UsageError."""
    from edgeprune.bench.link import check_usable
    from edgeprune.bench.target import load_target
    from edgeprune.run.probing import Question
    from edgeprune.verdict.budget import parse_latency

    for kind, name in (("methods", method), ("controllers", controller)):
        if name not in entries(kind):
            raise UnknownNameError(kind.removesuffix("s"), name, entries(kind))
    board = load_target(target)
    check_usable(board)
    return Question(board, parse_latency(latency) if latency else None, method, controller)
