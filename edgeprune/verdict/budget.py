"""What the user asked for: limits on latency, size, MACs, memory and accuracy, absolute or of the original."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from decimal import Decimal

from edgeprune.contracts import Limits, Outcome
from edgeprune.errors import UsageError

_NUMBER = re.compile(r"(?P<value>[0-9]+(?:\.[0-9]+)?)\s?(?P<unit>[a-zA-Zµ\u03bc%]*)")
_TIME_MS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3}
_SIZE_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
_DURATION_S = {"s": 1.0, "min": 60.0, "h": 3600.0}
_COUNT = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Share:
    """A part of the original's value, measured in the same run."""

    part: float


@dataclass(frozen=True)
class Points:
    """An accuracy difference in percentage points."""

    value: float


@dataclass(frozen=True)
class Budget:
    """Limits in base units; a Share is resolved once the original has been measured.

    `memory_bytes` limits what the network adds to the process on the target at its peak.
    `accuracy_drop` is relative to the original's accuracy (0.01 is one percent of it), or Points.
    `other_latencies_ms` are the limits on the further targets of a run, in their order; where there are none,
    `latency_ms` holds on each target. All other limits hold on each.
    """

    latency_ms: float | Share | None = None
    size_bytes: float | Share | None = None
    macs: float | Share | None = None
    memory_bytes: float | Share | None = None
    accuracy_drop: float | Points | None = None
    other_latencies_ms: tuple[float | Share, ...] = ()

    def __post_init__(self) -> None:
        """Refuse limits that nothing can meet or that limit nothing; raises UsageError."""
        for name in ("latency_ms", "size_bytes", "macs", "memory_bytes"):
            _check_limit(name, getattr(self, name))
        for latency in self.other_latencies_ms:
            _check_limit("latency_ms", latency)
        if self.other_latencies_ms and self.latency_ms is None:
            raise UsageError("The budget limits the latency on further targets only; set its latency_ms too.")
        drop = self.accuracy_drop.value / 100 if isinstance(self.accuracy_drop, Points) else self.accuracy_drop
        if drop is not None and not 0 <= drop < 1:
            raise UsageError(f"The accuracy drop {self.accuracy_drop} is not between 0 and 100 %.")

    @property
    def seeks_fastest(self) -> bool:
        """Whether the latency is to be as low as the accuracy allows, instead of below a limit."""
        return self.accuracy_drop is not None and self.latency_ms is None

    def on_others(self, count: int) -> tuple[Budget, ...]:
        """Return what holds on each of so many further targets alone; raises UsageError for another number of them."""
        latencies = self.other_latencies_ms or (self.latency_ms,) * count
        if len(latencies) != count:
            raise UsageError(
                f"The budget has {1 + len(latencies)} latencies for {1 + count} targets; give one for all, or one each."
            )
        return tuple(replace(self, latency_ms=latency, other_latencies_ms=()) for latency in latencies)

    def limits(self, original: Outcome) -> Limits:
        """Return the absolute limits, given what the original costs on every target of the run."""
        others = self.on_others(len(original.others)) if original.others else ()
        return Limits(
            latency_ms=_resolve(self.latency_ms, original.latency_ms),
            size_bytes=_resolve(self.size_bytes, original.size_bytes),
            macs=_resolve(self.macs, original.macs),
            memory_bytes=_resolve(self.memory_bytes, original.memory_bytes),
            others=tuple(other.limits(outcome) for other, outcome in zip(others, original.others, strict=True)),
        )

    def as_text(self) -> dict[str, str]:
        """Return the limits that are set, by flag, the way they are written on the command line."""
        latencies = (self.latency_ms, *self.other_latencies_ms)
        texts = {
            "latency": ", ".join(_limit_text(latency, "ms") for latency in latencies),
            "size": _limit_text(self.size_bytes, "B"),
            "macs": _limit_text(self.macs, ""),
            "memory": _limit_text(self.memory_bytes, "B"),
            "max-drop": _drop_text(self.accuracy_drop),
        }
        return {flag: text for flag, text in texts.items() if text}

    def accuracy_floor(self, original_accuracy: float) -> float | None:
        """Return the lowest accuracy (0..1) that the budget admits, or None."""
        if self.accuracy_drop is None:
            return None
        if isinstance(self.accuracy_drop, Points):
            return original_accuracy - self.accuracy_drop.value / 100
        return original_accuracy * (1 - self.accuracy_drop)


def parse_latency(text: str) -> float | Share:
    """Read `8ms`, `500us`, `1.5s` or `60%` into milliseconds or a Share; raises UsageError."""
    return _parse(text, _TIME_MS, "latency", "8ms, 500us or 60%")


def parse_size(text: str) -> float | Share:
    """Read `4MB`, `700KiB` or `50%` into bytes or a Share; raises UsageError."""
    return _parse(text, _SIZE_BYTES, "size", "4MB, 700KB or 50%")


def parse_memory(text: str) -> float | Share:
    """Read `32MB`, `700KiB` or `50%` into bytes or a Share; raises UsageError."""
    return _parse(text, _SIZE_BYTES, "memory", "32MB, 700KB or 50%")


def parse_macs(text: str) -> float | Share:
    """Read `60M`, `1.2G` or `50%` into multiply-accumulates or a Share; raises UsageError."""
    return _parse(text, _COUNT, "MACs", "60M, 1.2G or 50%")


def parse_drop(text: str) -> float | Points:
    """Read `1%` (relative) or `0.5pt` (percentage points); raises UsageError."""
    value, unit = _split(text, "accuracy drop", "1% or 0.5pt")
    if unit not in ("%", "pt"):
        raise UsageError(f"The accuracy drop {text!r} has no known unit; write it as 1% or 0.5pt.")
    if value >= 100:
        raise UsageError(f"The accuracy drop {text!r} is not between 0 and 100 %; write it as 1% or 0.5pt.")
    return value / 100 if unit == "%" else Points(value)


def parse_margin(text: str) -> float:
    """Read `2%` into a part of one; raises UsageError."""
    value, unit = _split(text, "margin", "2%")
    if unit != "%" or not 0 < value < 100:
        raise UsageError(f"The margin {text!r} is not between 0 and 100 %; write it like 2%.")
    return value / 100


def parse_part(text: str, what: str) -> float:
    """Read `0%` to `100%` into a part of one; `what` names it in the error. Raises UsageError."""
    value, unit = _split(text, what, "3%")
    if unit != "%":
        raise UsageError(f"The {what} {text!r} is no percentage; write it like 3%.")
    if value > 100:
        raise UsageError(f"The {what} {text!r} is more than 100 %; write it like 3%.")
    return value / 100


def parse_duration(text: str) -> float:
    """Read `10min`, `90s` or `1h` into seconds; raises UsageError."""
    value, unit = _split(text, "duration", "10min or 90s")
    if unit not in _DURATION_S or value <= 0:
        known = ", ".join(_DURATION_S)
        raise UsageError(f"The duration {text!r} is no time above zero in {known}; write it like 10min or 90s.")
    return value * _DURATION_S[unit]


def _parse(text: str, units: dict[str, float], what: str, examples: str) -> float | Share:
    value, unit = _split(text, what, examples)
    if unit != "%" and unit not in units:
        known = ", ".join([*filter(None, units), "%"])
        raise UsageError(f"The {what} {text!r} has no known unit ({known}); write it like {examples}.")
    if value <= 0:
        raise UsageError(f"The {what} {text!r} is not above zero; write it like {examples}.")
    if unit == "%" and value > 100:
        raise UsageError(f"The {what} {text!r} is more than the original has; ask for at most 100%.")
    if not math.isfinite(value * units.get(unit, 1.0)):
        raise UsageError(f"The {what} {text!r} is too large to mean anything; write it like {examples}.")
    return Share(value / 100) if unit == "%" else value * units[unit]


def _split(text: str, what: str, examples: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"The {what} {text!r} is not a number with a unit; write it like {examples}.")
    value = float(match["value"])
    if not math.isfinite(value):
        raise UsageError(f"The {what} {text!r} is too large to mean anything; write it like {examples}.")
    # Keyboards write the Greek letter where units have the micro sign.
    return value, match["unit"].replace("\u03bc", "µ")


def _check_limit(name: str, limit: float | Share | None) -> None:
    value = limit.part if isinstance(limit, Share) else limit
    if value is None:
        return
    if not math.isfinite(value) or value <= 0:
        raise UsageError(f"The budget's {name} is {value}; it must be above zero.")
    if isinstance(limit, Share) and value > 1:
        raise UsageError(f"The budget's {name} is {value:.0%} of the original; ask for at most 100%.")


def _resolve(limit: float | Share | None, original: float | None) -> float | None:
    if not isinstance(limit, Share):
        return limit
    return limit.part * original if original is not None else None


def _limit_text(limit: float | Share | None, unit: str) -> str:
    if limit is None:
        return ""
    return f"{_plain(limit.part * 100)}%" if isinstance(limit, Share) else f"{_plain(limit)}{unit}"


def _drop_text(drop: float | Points | None) -> str:
    if drop is None:
        return ""
    return f"{_plain(drop.value)}pt" if isinstance(drop, Points) else f"{_plain(drop * 100)}%"


def _plain(value: float) -> str:
    """Write a number without an exponent, which no parser here reads."""
    return format(Decimal(f"{value:.10g}"), "f")
