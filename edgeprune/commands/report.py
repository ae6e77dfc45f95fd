"""Write the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeprune.commands.answering import show
from edgeprune.commands.flags import Json
from edgeprune.listing import Answer


def command(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a finished run.")],
    as_json: Json = False,
) -> None:
    """Write report.html and report.md of a finished run again."""
    show(report(run_dir), as_json)


def report(run_dir: Path) -> Answer:
    """Carry out `edgeprune report`; raises EdgepruneError."""
    from edgeprune.verdict.report import write_report

    html, markdown = write_report(run_dir)
    return Answer({"html": str(html), "markdown": str(markdown)}, f"{html}\n{markdown}")
