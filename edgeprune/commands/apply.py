"""Replay a plan on the original weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import show
from edgeprune.commands.flags import Arch, DataSpec, InputSize, Json, ModelFile, TrustPickle
from edgeprune.commands.source import Pictures, Source, load_source_model, source_inputs
from edgeprune.errors import PlanError, UsageError

if TYPE_CHECKING:
    from edgeprune.listing import Answer
    from edgeprune.network.plan import Plan

_FORMS = (".pt2", ".safetensors")


def command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan.json of a finished run.")],
    model: ModelFile,
    out: Annotated[Path, typer.Option(help="The network (.pt2), or its weights alone (.safetensors).")],
    arch: Arch = None,
    data: DataSpec = None,
    input_size: InputSize = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Cut a network as a plan says and prove the cut; the weights that stay are the original's."""
    source = Source(model, arch, trust_pickle, data, Pictures(input_size=input_size))
    show(apply(plan, source, out), as_json)


def apply(plan_path: Path, source: Source, out: Path) -> Answer:
    """Carry out `edgeprune apply`; raises EdgepruneError."""
    if out.suffix not in _FORMS:
        raise UsageError(f"--out {out} must end in .pt2 (the network) or .safetensors (its weights alone).")
    if out.resolve() == source.model.resolve():
        raise UsageError(f"--out {out} is the model itself, which is never changed; choose another file.")
    plan = _read_plan(plan_path)

    from edgeprune.run.applying import apply_to_file

    model = load_source_model(source)
    return apply_to_file(plan, model.module, source_inputs(source, model), out)


def _read_plan(path: Path) -> Plan:
    from edgeprune.network.plan import Plan

    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"The plan {path} cannot be read: {error}. Give the plan.json of a finished run.") from error
