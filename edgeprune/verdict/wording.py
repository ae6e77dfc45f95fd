"""Puts numbers and outcomes into words: units, changes, and the sentence that a report begins with."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import PurePath

from edgeprune.verdict.result import Costs, FurtherTarget, Result

_HOME = re.compile(r"/(?:home|Users)/[^/\s'\"]+|(?<![\w.-])/root\b|[A-Za-z]:\\Users\\[^\\\s'\"]+")
_MINUS = "\N{MINUS SIGN}"

KINDS: Mapping[str, str] = {
    "real": "measured on the real target",
    "icount": "counted in instructions by an emulator (icount), not timed on a real board",
    "emulated": "emulated: computed from a model of a board, not measured on a real one",
}


def significant(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits, and never with an exponent."""
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(places, 0)}f}"


def in_ms(value: float) -> str:
    """Write milliseconds."""
    return f"{significant(value)} ms"


def in_bytes(value: float) -> str:
    """Write a size in the unit that suits it (1 MB is a million bytes)."""
    return _scaled(value, (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)), "bytes")


def in_count(value: float) -> str:
    """Write a count of MACs or parameters in thousands, millions or billions."""
    return _scaled(value, (("G", 1e9), ("M", 1e6), ("K", 1e3)), "")


def in_percent(value: float | None) -> str:
    """Write an accuracy between 0 and 1."""
    return "not evaluated" if value is None else f"{value:.2%}".replace("%", " %")


def change(before: float, after: float) -> str:
    """Write a relative change with its sign."""
    if before == 0:
        return "unknown"
    return signed(100 * (after / before - 1), 1) + " %"


def points(before: float | None, after: float | None) -> str:
    """Write a difference of accuracies in percentage points with its sign."""
    if before is None or after is None:
        return "unknown"
    return signed(100 * (after - before), 2) + " points"


def signed(value: float, places: int) -> str:
    """Write a number with its sign, and zero without one."""
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        return text
    return (_MINUS if value < 0 else "+") + text


def in_seconds(value: float) -> str:
    """Write a duration the way a person says it."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def without_home(text: str) -> str:
    """Replace home folders by `~`, so that a report that is passed on names nobody."""
    return _HOME.sub("~", text)


def model_name(result: Result) -> str:
    """Return what a person calls the network: the factory's name, else the file's."""
    if result.model.arch:
        return result.model.arch.rpartition(":")[2]
    return PurePath(result.model.path).stem


def headline(result: Result) -> str:
    """Return the outcome in one sentence, and in a short one for each further target."""
    further = "".join(f" On {one.target} it takes {_speed(one)}." for one in result.further)
    return f"{_own_headline(result)}{further}"


def _own_headline(result: Result) -> str:
    final = result.final
    speed = f"{in_ms(final.latency_p50_ms)} on {result.target}{_faster(result.original, final)}"
    return f"{model_name(result)} runs in {speed}{_against_limit(result)}{_accuracy_part(result)}."


def _speed(ends: FurtherTarget) -> str:
    return f"{in_ms(ends.final.latency_p50_ms)}{_faster(ends.original, ends.final)}{_against_limit(ends)}"


def _faster(original: Costs, final: Costs) -> str:
    part = 1 - final.latency_p50_ms / original.latency_p50_ms if original.latency_p50_ms else 0
    if abs(part) < 0.005:
        return ", as fast as before"
    return f", {abs(part):.0%} {'less' if part > 0 else 'more'} time than before".replace("%", " %")


def _against_limit(ends: Result | FurtherTarget) -> str:
    limit, final = ends.budget.latency_ms, ends.final
    if limit is None:
        return ""
    if final.latency_p50_ms > limit:
        return f", but {in_ms(limit)} was the limit"
    if final.latency_interval_ms[1] > limit:
        return f", too close to the limit of {in_ms(limit)} to be sure"
    return f", within the limit of {in_ms(limit)}"


def _accuracy_part(result: Result) -> str:
    before, after = result.original.accuracy, result.final.accuracy
    if after is None:
        return "; its accuracy was not evaluated"
    if before is None:
        return f"; it is {in_percent(after)} accurate"
    return f"; it is {in_percent(after)} accurate ({points(before, after)})"


def _scaled(value: float, units: tuple[tuple[str, float], ...], smallest: str) -> str:
    for unit, size in units:
        if abs(value) >= size:
            return f"{significant(value / size)} {unit}"
    return f"{value:,.0f} {smallest}".rstrip()
