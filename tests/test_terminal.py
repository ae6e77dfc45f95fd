from __future__ import annotations

import io

from rich.console import Console

from edgeprune.terminal import TerminalProgress


def progress(terminal: bool) -> tuple[TerminalProgress, io.StringIO]:
    stream = io.StringIO()
    return TerminalProgress(Console(file=stream, force_terminal=terminal, width=80)), stream


def test_lines_are_plain_where_nobody_watches() -> None:
    report, stream = progress(terminal=False)
    report.say("measured [bold] 1.5 ms")
    with report.track("training", total=3) as advance:
        for _ in range(3):
            advance(1)
    first, last = stream.getvalue().splitlines()
    assert first.endswith("measured [bold] 1.5 ms")
    assert "training: 3 of 3" in last
    assert "\x1b" not in stream.getvalue()


def test_long_lines_are_not_broken() -> None:
    report, stream = progress(terminal=False)
    report.say("x" * 300)
    assert len(stream.getvalue().splitlines()) == 1


def test_nothing_is_drawn_while_a_clock_runs() -> None:
    report, stream = progress(terminal=True)
    with report.track("training", total=100) as advance:
        advance(1)
        with report.quiet():
            before = stream.getvalue()
            for _ in range(50):
                advance(1)
            assert stream.getvalue() == before
        advance(1)
    assert stream.getvalue() != before
