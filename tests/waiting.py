"""Waits for something to become true."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """Return once the condition holds; raises AssertionError when it does not in time."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError("it has not become true in time")
        time.sleep(0.05)
