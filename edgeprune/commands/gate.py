"""Say whether results keep their limits, with effect size and confidence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import EXIT_CODES, follow, show
from edgeprune.commands.flags import Json, ModelName, StoreFile
from edgeprune.listing import Answer

if TYPE_CHECKING:
    from edgeprune.verdict.gate import GateResult

Results = Annotated[
    list[Path], typer.Argument(metavar="RESULT...", help="Run folder, result.json, bench --out file, or artifact.")
]
Limits = Annotated[Path, typer.Option(envvar="EDGEPRUNE_LIMITS", help="The limits, a TOML file.")]
Baseline = Annotated[
    str | None,
    typer.Option(
        envvar="EDGEPRUNE_BASELINE", help="What to compare with: a result, or a branch or commit of the store."
    ),
]
Target = Annotated[str | None, typer.Option(envvar="EDGEPRUNE_TARGET", help="Where to measure artifacts.")]
Stored = Annotated[bool, typer.Option("--stored", help="Measure nothing; decide by the stored samples.")]
Junit = Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")]
Markdown = Annotated[Path | None, typer.Option(help="Write the comment of a pull request to this .md file.")]
Html = Annotated[Path | None, typer.Option(help="Write the report to this .html file.")]
CodeQuality = Annotated[Path | None, typer.Option(help="Write GitLab's code quality report to this .json file.")]


def command(
    results: Results,
    limits: Limits,
    baseline: Baseline = None,
    target: Target = None,
    model: ModelName = None,
    stored: Stored = False,
    store: StoreFile = Path(".edgeprune/history.sqlite"),
    junit: Junit = None,
    markdown: Markdown = None,
    html: Html = None,
    code_quality: CodeQuality = None,
    as_json: Json = False,
) -> None:
    """Judge results by limits: exit 0 where all hold, 1 where one does not, 3 where it cannot be known."""
    from edgeprune.gating.gate import GateRequest, run_gate
    from edgeprune.gating.measuring import Effort

    effort = Effort(progress=follow(as_json))
    request = GateRequest(tuple(results), limits, baseline, target, model, stored, store, effort=effort)
    result = run_gate(request)
    write_pages(result, {"junit": junit, "markdown": markdown, "html": html, "code-quality": code_quality})
    show(describe(result), as_json)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        annotate(result)
    raise typer.Exit(EXIT_CODES[result.verdict])


def describe(result: GateResult) -> Answer:
    """Return what `gate` prints."""
    from edgeprune.verdict.gate_report import gate_to_dict, render_text

    return Answer(gate_to_dict(result), render_text(result))


def write_pages(result: GateResult, files: Mapping[str, Path | None]) -> None:
    """Write the pages that were asked for; raises StorageError."""
    from edgeprune.files import write_text
    from edgeprune.verdict.gate_forge import gitlab_code_quality
    from edgeprune.verdict.gate_junit import junit_xml
    from edgeprune.verdict.gate_report import render_html, render_markdown

    writers = {
        "junit": junit_xml,
        "markdown": render_markdown,
        "html": render_html,
        "code-quality": gitlab_code_quality,
    }
    for name, path in files.items():
        if path is not None:
            write_text(path, writers[name](result))


def annotate(result: GateResult) -> None:
    """Say beside the lines of the limits what did not hold, on standard error, where GitHub listens too."""
    from edgeprune.verdict.gate_forge import github_annotations

    typer.echo(github_annotations(result), err=True, nl=False)
