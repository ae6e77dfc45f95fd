"""Examine a board before it is measured."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import show
from edgeprune.commands.flags import Json
from edgeprune.errors import BoardError, UsageError
from edgeprune.listing import Answer

if TYPE_CHECKING:
    from edgeprune.bench.doctor import Diagnosis, Held


def command(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Whose board; see: edgeprune list targets.")],
    meanwhile: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- COMMAND...]", help="With --fix: run this, and put everything back afterwards."),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Set governor, clocks and power mode for a benchmark, then put them back.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Examine a board: connection, engine, clocks, heat, other load; exit 4 where it is not fit to be measured."""
    if meanwhile and not fix:
        raise UsageError(f"A command is only run with --fix: edgeprune doctor {target} --fix -- {' '.join(meanwhile)}")
    status, answer = treat(target, meanwhile or ()) if fix else doctor(target)
    show(answer, as_json)
    raise typer.Exit(status)


def doctor(name: str) -> tuple[int, Answer]:
    """Carry out `edgeprune doctor`: the exit status and what to print; raises UsageError."""
    from edgeprune.bench.doctor import diagnose
    from edgeprune.bench.target import load_target

    return _result(diagnose(load_target(name)), None)


def treat(name: str, meanwhile: Sequence[str]) -> tuple[int, Answer]:
    """Carry out `edgeprune doctor --fix`: examine with everything set, or run a command; raises EdgepruneError."""
    from edgeprune.bench.doctor import diagnose, holding
    from edgeprune.bench.target import load_target

    target = load_target(name)
    with holding(target) as held:
        if not meanwhile:
            return _result(diagnose(target), held)
        try:
            status = subprocess.run(meanwhile, check=False).returncode
        except OSError as error:
            raise UsageError(f"{meanwhile[0]!r} cannot be run: {error.strerror}.") from error
    return status, Answer({"target": name, "fixed": asdict(held), "status": status}, _treated(held))


def _result(diagnosis: Diagnosis, held: Held | None) -> tuple[int, Answer]:
    width = max(len(finding.check) for finding in diagnosis.findings)
    lines = []
    for finding in diagnosis.findings:
        lines.append(f"{finding.severity:<7}  {finding.check:<{width}}  {finding.message}")
        if finding.remedy:
            lines.append(f"{'':<7}  {'':<{width}}  {finding.remedy}")
    data = {"target": diagnosis.target, "healthy": diagnosis.is_healthy}
    data["findings"] = [asdict(finding) for finding in diagnosis.findings]
    if held is not None:
        lines.append(_treated(held))
        data["fixed"] = asdict(held)
    return 0 if diagnosis.is_healthy else BoardError.exit_code, Answer(data, "\n".join(lines))


def _treated(held: Held) -> str:
    lines = [f"Could not be set: {problem}. See deploy/README.md for the permission." for problem in held.problems]
    what = ", ".join(held.changed) or "nothing"
    return "\n".join([*lines, f"Held for this time and put back: {what}."])
