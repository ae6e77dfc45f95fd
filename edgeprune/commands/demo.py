"""Show the main job on real data that comes along."""

from __future__ import annotations

from pathlib import Path

import typer

from edgeprune.commands.answering import EXIT_CODES, follow, show
from edgeprune.commands.compress import describe
from edgeprune.commands.flags import Json, Out


def command(out: Out = Path("runs/demo"), as_json: Json = False) -> None:
    """Train a small network on handwritten digits and compress it to 60 % of its latency on this machine."""
    from edgeprune.demo import run_demo

    result = run_demo(out, follow(as_json))
    show(describe(result, out / "run"), as_json)
    raise typer.Exit(EXIT_CODES[result.verdict])
