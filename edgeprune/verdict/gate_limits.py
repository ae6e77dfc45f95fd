"""Reads the limits of a gate from TOML: what each network on each target must meet, and how seriously."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.verdict import wording
from edgeprune.verdict.budget import (
    Points,
    Share,
    parse_drop,
    parse_latency,
    parse_macs,
    parse_memory,
    parse_part,
    parse_size,
)

Level = Literal["error", "warn", "off"]

DEFAULT_PAIRS = 40
_LEVELS = ("error", "warn", "off")
_SECTIONS = ("limits", "for", "measuring")
_SIGNED = re.compile(r"(<=|>=)\s*(.*)")


@dataclass(frozen=True)
class Metric:
    """Something a gate can limit.

    `read` turns the text behind the sign into base units, `write` base units into words. A metric that is
    `against_baseline` is how much worse the candidate is, as a part of the baseline's value.
    """

    what: str
    example: str
    read: Callable[[str], float | Share | Points]
    write: Callable[[float], str]
    against_baseline: bool = False

    @property
    def sign(self) -> str:
        """Which way it is limited."""
        return self.example[:2]


def _part(what: str) -> Callable[[str], float]:
    return lambda text: parse_part(text, what)


def in_parts(value: float) -> str:
    """Write a part of one as a percentage with its sign."""
    return f"{wording.signed(100 * value, 2)} %"


METRICS: Mapping[str, Metric] = {
    "latency_p50": Metric("median latency", "<= 8ms", parse_latency, wording.in_ms),
    "latency_p90": Metric("90th percentile of the latency", "<= 9ms", parse_latency, wording.in_ms),
    "startup": Metric("time to load and run once", "<= 500ms", parse_latency, wording.in_ms),
    "size": Metric("size of the file", "<= 4MB", parse_size, wording.in_bytes),
    "peak_memory": Metric("memory of the process at its peak", "<= 64MB", parse_memory, wording.in_bytes),
    "macs": Metric("multiply-accumulates", "<= 60M", parse_macs, wording.in_count),
    "parameters": Metric("parameters", "<= 2M", parse_macs, wording.in_count),
    "accuracy": Metric("accuracy", ">= 92%", _part("accuracy"), wording.in_percent),
    "accuracy_drop": Metric("loss of accuracy against the original", "<= 1%", parse_drop, in_parts),
    "latency_regression": Metric(
        "slow-down against the baseline", "<= 3%", _part("slow-down"), in_parts, against_baseline=True
    ),
    "size_regression": Metric("growth of the file", "<= 1%", _part("growth"), in_parts, against_baseline=True),
    "memory_regression": Metric("growth of the memory", "<= 5%", _part("growth"), in_parts, against_baseline=True),
    "accuracy_regression": Metric(
        "loss of accuracy against the baseline", "<= 0.5pt", parse_drop, in_parts, against_baseline=True
    ),
}


@dataclass(frozen=True)
class Limit:
    """One limit as written; `value` is in base units, with `in_points` for a loss of accuracy in percentage points.

    `line` is where it stands in the file.
    """

    name: str
    text: str
    value: float
    level: Level = "error"
    in_points: bool = False
    line: int = 1

    @property
    def metric(self) -> Metric:
        """What it limits."""
        return METRICS[self.name]


@dataclass(frozen=True)
class _Section:
    """Limits for the targets and networks whose names match; None stands for a limit that is switched off."""

    limits: Mapping[str, Limit]
    target: str = "*"
    model: str = "*"


@dataclass(frozen=True)
class GateLimits:
    """All of a limits file; `pairs` is how many processes of each network are measured at most."""

    path: Path
    sections: tuple[_Section, ...]
    pairs: int = DEFAULT_PAIRS

    def applying(self, model: str, target: str) -> tuple[Limit, ...]:
        """Return the limits of one network on one target, those that are off among them; a later section wins.

        Raises UsageError where nothing would be checked, because such a gate passes whatever happens.
        """
        found: dict[str, Limit] = {}
        for section in self.sections:
            if fnmatchcase(target, section.target) and fnmatchcase(model, section.model):
                found |= section.limits
        if all(limit.level == "off" for limit in found.values()):
            raise UsageError(
                f"No limit of {self.path} applies to {model} on {target}; "
                "add one under [limits], or correct the patterns of [[for]]."
            )
        return tuple(found[name] for name in METRICS if name in found)


def read_limits(path: Path) -> GateLimits:
    """Read a limits file; raises UnknownNameError for an unknown key, UsageError for a value that does not fit."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"Cannot read the limits {path}: {error.strerror}. Name a file with --limits.") from error
    except ValueError as error:
        raise UsageError(f"The limits {path} are no TOML: {error}.") from error
    _known_keys(data, _SECTIONS, path)
    reader = _Reader(path, text)
    sections = [_Section(reader.limits(data.get("limits", {}), 0))]
    tables = data.get("for", [])
    if not isinstance(tables, list):
        raise UsageError(f"{path}: write [[for]] with two brackets; there can be several.")
    sections += [reader.section(table, number) for number, table in enumerate(tables, 1)]
    return GateLimits(path, tuple(sections), _pairs(data.get("measuring", {}), path))


@dataclass(frozen=True)
class _Reader:
    path: Path
    text: str

    def section(self, table: Mapping[str, Any], number: int) -> _Section:
        """Read the table of the `number`th [[for]]."""
        _known_keys(table, ("target", "model", "limits"), self.path)
        for key in ("target", "model"):
            if not isinstance(table.get(key, "*"), str):
                raise UsageError(f'{self.path}: {key} = {table[key]!r} is no pattern; write it like "pi-*".')
        limits = self.limits(table.get("limits", {}), number)
        return _Section(limits, table.get("target", "*"), table.get("model", "*"))

    def limits(self, table: Any, section: int) -> dict[str, Limit]:
        if not isinstance(table, dict):
            raise UsageError(f'{self.path}: limits = {table!r} is no table; write limits.size = "<= 4MB".')
        for name in table:
            if name not in METRICS:
                raise UnknownNameError(f"limit in {self.path}", name, METRICS)
        return {name: self._limit(name, value, section) for name, value in table.items()}

    def _limit(self, name: str, value: Any, section: int) -> Limit:
        text, level = self._text_and_level(name, value)
        line = _line_of(self.text, name, section)
        if level == "off" and not text:
            return Limit(name, "", 0.0, "off", line=line)
        metric, match = METRICS[name], _SIGNED.fullmatch(text.strip())
        where = f"{self.path}: {name} = {text!r}"
        if match is None or match[1] != metric.sign:
            raise UsageError(f"{where} does not begin with {metric.sign}; write it like {metric.example!r}.")
        try:
            bound = metric.read(match[2])
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        if isinstance(bound, Share):
            raise UsageError(f"{where} is a share of nothing; write an absolute limit like {metric.example!r}.")
        if isinstance(bound, Points):
            return Limit(name, text, bound.value / 100, level, in_points=True, line=line)
        return Limit(name, text, bound, level, line=line)

    def _text_and_level(self, name: str, value: Any) -> tuple[str, Level]:
        example = METRICS[name].example
        if isinstance(value, str):
            return ("", "off") if value == "off" else (value, "error")
        if not isinstance(value, dict):
            raise UsageError(f"{self.path}: {name} = {value!r} has no sign and unit; write it like {example!r}.")
        _known_keys(value, ("limit", "level"), self.path)
        level, text = value.get("level", "error"), value.get("limit", "")
        if level not in _LEVELS:
            raise UnknownNameError(f"level of {name} in {self.path}", str(level), _LEVELS)
        if not isinstance(text, str) or (not text and level != "off"):
            raise UsageError(f"{self.path}: {name} has no limit; write {{ limit = {example!r}, level = {level!r} }}.")
        return text, level


def _known_keys(table: Mapping[str, Any], known: tuple[str, ...], path: Path) -> None:
    for key in table:
        if key not in known:
            raise UnknownNameError(f"key in {path}", key, known)


def _pairs(table: Any, path: Path) -> int:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: measuring = {table!r} is no table; write [measuring] and pairs = {DEFAULT_PAIRS}.")
    _known_keys(table, ("pairs",), path)
    pairs = table.get("pairs", DEFAULT_PAIRS)
    if not isinstance(pairs, int) or isinstance(pairs, bool) or not 2 <= pairs <= 1000:
        raise UsageError(f"{path}: pairs = {pairs!r} is not between 2 and 1000; leave it at {DEFAULT_PAIRS}.")
    return pairs


def _line_of(text: str, name: str, section: int) -> int:
    """Return the line of a limit: in [limits] where the section is 0, else in the section-th [[for]]."""
    begun = 0
    key = re.compile(rf"(?<![\w-]){re.escape(name)}[\"']?\s*=")
    for number, line in enumerate(text.splitlines(), 1):
        begun += bool(re.match(r"\s*\[\[\s*for\s*\]\]", line))
        if begun == section and key.search(line):
            return number
    return 1
