"""Examines the board of a target, and holds its settings as a benchmark wants them."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeprune import registry
from edgeprune.bench.checkup import package_version
from edgeprune.bench.findings import Finding, Patient, examine, examine_data
from edgeprune.bench.link import transport_of
from edgeprune.bench.target import Target
from edgeprune.contracts import Transport
from edgeprune.errors import BoardError

_CHECKUP = Path(__file__).with_name("checkup.py")
_TELEMETRY = Path(__file__).with_name("telemetry.py")
_LOOK_LIMIT_S = 120.0
_HOLD_LIMIT_S = 24 * 3600.0
_START_LIMIT_S = 60.0
_END_LIMIT_S = 30.0


@dataclass(frozen=True)
class Diagnosis:
    """What was found on the board of a target."""

    target: str
    findings: tuple[Finding, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether a measurement would be worth something."""
        return all(finding.severity != "error" for finding in self.findings)


@dataclass(frozen=True)
class Held:
    """Which settings are held as wanted, and what could not be changed."""

    changed: tuple[str, ...]
    problems: tuple[str, ...]


def diagnose(target: Target) -> Diagnosis:
    """Examine the board; one that cannot be reached is a finding, not an error. Raises UsageError."""
    transport = transport_of(target)
    if not transport.runs_programs:
        return Diagnosis(target.name, _examined_data(target))
    try:
        return Diagnosis(target.name, (*_reached(transport), *examine(_patient(target, transport))))
    except BoardError as error:
        return Diagnosis(target.name, (Finding("connection", "error", str(error)),))
    finally:
        transport.close()


@contextmanager
def holding(target: Target) -> Iterator[Held]:
    """Set what the target's controls want, and put it back at the end, also when the connection dies.

    Raises BoardError when the board cannot be reached or somebody else holds its settings, and at the end when they
    were put back before it.
    """
    transport = transport_of(target)
    if not transport.runs_programs:
        yield Held((), ())
        return
    holder = _Holder(transport, _arguments("hold", target, transport))
    try:
        yield holder.wait_until_held()
        holder.check()
    finally:
        holder.end()
        transport.close()


class _Holder:
    """Listens to the process on the board, which holds the settings for as long as somebody does."""

    def __init__(self, transport: Transport, arguments: Sequence[str]) -> None:
        self._transport, self._arguments = transport, arguments
        self._held: Held | None = None
        self._error: BoardError | None = None
        self._answered, self._enough = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def wait_until_held(self) -> Held:
        self._answered.wait(_START_LIMIT_S)
        if self._held is None:
            raise self._error or BoardError(f"The board did not set anything within {_START_LIMIT_S:g} s.")
        return self._held

    def check(self) -> None:
        """Raise BoardError where the settings are not held any more."""
        if self._error is not None:
            raise BoardError(f"The board put its settings back too early, so not everything had them: {self._error}")

    def end(self) -> None:
        """Let go; the process is asked to end, and ends when everything is put back."""
        self._enough.set()
        self._thread.join(_END_LIMIT_S)

    def _listen(self) -> None:
        lines = self._transport.stream(self._arguments, _HOLD_LIMIT_S)
        try:
            for line in lines:
                event = json.loads(line)
                if event["event"] == "held":
                    self._held = Held(tuple(event["changed"]), tuple(event["problems"]))
                    self._answered.set()
                if self._enough.is_set():
                    break
        except BoardError as error:
            self._error = error
        finally:
            self._answered.set()
            lines.close()  # type: ignore[attr-defined]  # every transport's stream is a generator


def _reached(transport: Transport) -> list[Finding]:
    started = time.perf_counter()
    for _ in transport.stream(["-c", ""], _LOOK_LIMIT_S):
        pass
    where = transport.address or "this machine"
    return [Finding("connection", "ok", f"{where}, Python starts in {time.perf_counter() - started:.2f} s")]


def _examined_data(target: Target) -> tuple[Finding, ...]:
    needed = tuple(registry.load("runtimes", target.runtime).requirements)
    packages = {name: package_version(name) for name in (part.partition(">=")[0] for part in needed)}
    return examine_data(target, {"packages": packages, "python_path": sys.executable}, needed)


def _patient(target: Target, transport: Transport) -> Patient:
    runtime = registry.load("runtimes", target.runtime)
    substitutes = dict(getattr(runtime, "substitutes", {}))
    needed = tuple(runtime.requirements)
    packages = [name.partition(">=")[0] for name in (*needed, *substitutes.values())]
    packages += [trap.package for trap in (target.board.traps if target.board else ()) if trap.package]
    arguments = [*_arguments("look", target, transport), "--packages", json.dumps(packages)]
    asked_s = time.time()
    for line in transport.stream(arguments, _LOOK_LIMIT_S):
        facts: dict[str, Any] = json.loads(line)["facts"]
        return Patient(target, facts, needed, substitutes, _skew_s(facts["time_s"], asked_s, time.time()))
    raise BoardError(f"The board of target {target.name} said nothing of itself.")


def _skew_s(board_s: float, asked_s: float, answered_s: float) -> float:
    """Return how far the board's clock is at least ahead of this machine's: it was read between two moments here."""
    return max(board_s - answered_s, 0.0) or min(board_s - asked_s, 0.0)


def _arguments(mode: str, target: Target, transport: Transport) -> list[str]:
    board = asdict(target.board) if target.board else {}
    controls = json.dumps({key: board.get(key, ()) for key in ("files", "commands")})
    return [transport.put(_CHECKUP), mode, "--telemetry", transport.put(_TELEMETRY), "--board", controls]
