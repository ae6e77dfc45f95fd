"""Tells a person how long work goes on: bars on a terminal, plain lines elsewhere, silence while a clock runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Where long work reports to."""

    def say(self, text: str) -> None:
        """Show one line that stays."""

    def track(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Callable[[int], None]]:
        """Follow `total` steps of which `done` are done; the yielded function advances by some steps."""

    def quiet(self) -> AbstractContextManager[None]:
        """Draw nothing inside this block: a measurement is running on this machine."""


class Silent:
    """Reports to nobody."""

    def say(self, text: str) -> None:
        """Drop the line."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Follow nothing."""
        yield lambda steps: None

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Already silent."""
        yield
