"""The boards of deploy/emulated as fixtures, skipped with the reason where this machine cannot run them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from benchmarks import emulated_boards


def board_or_skip(kind: str, folder: Path, cpu: str) -> AbstractContextManager[emulated_boards.EmulatedBoard]:
    """Run a board: "arm64", whose times mean nothing, or "icount", whose clock counts instructions."""
    if (reason := emulated_boards.why_not(kind)) is not None:
        pytest.skip(reason)
    return emulated_boards.running(kind, folder, cpu)
