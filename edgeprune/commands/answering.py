"""How a command follows long work and says what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from edgeprune.listing import Answer
    from edgeprune.progress import Progress

EXIT_CODES: Mapping[str, int] = {"pass": 0, "fail": 1, "inconclusive": 3}


def follow(as_json: bool) -> Progress:
    """Return what shows progress on the terminal; nothing where a machine reads the output."""
    from edgeprune.progress import Silent
    from edgeprune.terminal import TerminalProgress

    return Silent() if as_json else TerminalProgress()


def show(answer: Answer, as_json: bool) -> None:
    """Print an answer, as one JSON object or as text."""
    typer.echo(json.dumps(answer.data, indent=1, allow_nan=False) if as_json else answer.text)
