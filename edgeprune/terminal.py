"""Progress for a person: bars with elapsed and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

_PLAIN_INTERVAL_S = 10.0


class TerminalProgress:
    """Reports on standard error, so that standard output stays for results."""

    def __init__(self, console: Console | None = None) -> None:
        """Report to a console, by default standard error."""
        self._console = console or Console(stderr=True, highlight=False)
        self._bars: list[Progress] = []
        self._begin = time.monotonic()

    def say(self, text: str) -> None:
        """Show one line that stays, with the time since the start."""
        self._console.print(Text.assemble((_clock(time.monotonic() - self._begin), "dim"), "  ", text), soft_wrap=True)

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Follow steps with a bar, or with a plain line every ten seconds."""
        if not self._console.is_terminal:
            yield _PlainTrack(self.say, label, total, done).advance
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, transient=True)
        task = bar.add_task(label, total=total, completed=done)
        self._bars.append(bar)
        try:
            with bar:
                yield lambda steps: bar.advance(task, steps)
        finally:
            self._bars.remove(bar)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Stop every redraw: a clock is running on this machine."""
        for bar in self._bars:
            bar.stop()
        try:
            yield
        finally:
            for bar in self._bars:
                bar.start()


class _PlainTrack:
    def __init__(self, say: Callable[[str], None], label: str, total: int, done: int) -> None:
        self._say, self._label, self._total = say, label, total
        self._done = self._done_before = done
        self._begin = self._last = time.monotonic()

    def advance(self, steps: int) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._last < _PLAIN_INTERVAL_S and self._done < self._total:
            return
        self._last = now
        here = self._done - self._done_before
        remaining = (now - self._begin) * (self._total - self._done) / max(here, 1)
        self._say(f"{self._label}: {self._done} of {self._total}, about {_clock(remaining)} left")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:2d}:{rest:02d}"
