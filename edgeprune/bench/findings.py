"""Judges what a board says of itself: each finding with its severity, and the command that mends it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from edgeprune.bench.board import Trap
    from edgeprune.bench.target import Target

Severity = Literal["ok", "note", "warning", "error"]

_OLDEST_PYTHON = (3, 8)
_LEAST_DISK_BYTES, _LITTLE_DISK_BYTES = 50e6, 500e6
_LEAST_MEMORY_BYTES, _LITTLE_MEMORY_BYTES = 50e6, 200e6
_SWAPPED_BYTES = 50e6
_HEADROOM_C = 10.0
_OTHER_CORES = 0.2
_OTHER_GPU_PERCENT = 5.0
_SKEW_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One look at the board; `severity` is "error" where a measurement would be worth nothing, or cannot be taken."""

    check: str
    severity: Severity
    message: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """The message with what to do about it."""
        return f"{self.message} {self.remedy}".strip()


@dataclass(frozen=True)
class Patient:
    """What is examined: the target as its file says, and the facts that the board gave.

    `needed` are the requirements of the runtime (`name` or `name>=version`), `substitutes` name what else will do;
    `skew_s` is how far the board's clock is at least ahead of this machine's.
    """

    target: Target
    facts: Mapping[str, Any]
    needed: Sequence[str] = ()
    substitutes: Mapping[str, str] | None = None
    skew_s: float = 0.0


def examine(patient: Patient) -> tuple[Finding, ...]:
    """Return every finding of the whole examination, good ones too."""
    return tuple(finding for check in _CHECKS for finding in check(patient))


def examine_data(target: Target, facts: Mapping[str, Any], needed: Sequence[str]) -> tuple[Finding, ...]:
    """Return what can be found of a board that is data: whether this machine has what computes its outputs."""
    return (
        Finding("connection", "ok", f"The board is data on this machine, specimen {target.address}."),
        Finding("kind", "note", "Its latencies come from a model; its outputs are computed here."),
        *_runtime(Patient(target, facts, needed)),
    )


def judge_state(target: Target, kind: str, state: Mapping[str, Any], throttles_at_c: float | None) -> list[Finding]:
    """Return what can be said from one look at clocks and temperatures; no good findings."""
    findings = [*_kind(target, kind), *_heat(target, state, throttles_at_c), *_slowed(state)]
    return [finding for finding in findings if finding.severity in ("warning", "error")]


def _identity(patient: Patient) -> Iterator[Finding]:
    facts, board = patient.facts, patient.target.board
    yield from _kind(patient.target, facts["kind"])
    name = facts["model"] or f"{facts['machine']} board"
    if board is None:
        return
    if board.machine and facts["machine"] != board.machine:
        message = f"The board is a {facts['machine']} machine; target {patient.target.name} is for {board.machine}."
        yield Finding("board", "error", message, "Choose another target: edgeprune list targets")
    elif board.models and facts["model"] and not facts["model"].startswith(board.models):
        message = f"The board calls itself {facts['model']!r}; target {patient.target.name} is for {board.models[0]}."
        yield Finding("board", "warning", message, "Choose the target of its family: edgeprune list targets")
    else:
        yield Finding("board", "ok", f"{name}, {facts['system']}, Linux {facts['kernel']}")
    if facts["bits"] == 32 and board.machine == "aarch64":
        message = "The system is a 32-bit one, for which the engines are not published."
        yield Finding("board", "error", message, "Install the 64-bit system of this board.")


def _kind(target: Target, kind: str) -> Iterator[Finding]:
    if kind != target.kind:
        message = f"The board says that it is {kind!r}, and target {target.name} says {target.kind!r}."
        yield Finding("kind", "error", message, f'Write kind = "{kind}" into the target.')
    elif kind == "emulated":
        yield Finding("kind", "note", "This board is emulated: its times mean nothing.")


def _python(patient: Patient) -> Iterator[Finding]:
    version, path = patient.facts["python"], patient.facts["python_path"]
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_PYTHON:
        yield Finding("Python", "error", f"{path} is Python {version}.", "Install Python 3.8 or newer on the board.")
    else:
        yield Finding("Python", "ok", f"{version} at {path}")


def _runtime(patient: Patient) -> Iterator[Finding]:
    packages, board = patient.facts["packages"], patient.target.board
    missing = []
    for requirement in patient.needed:
        name, _, oldest = requirement.partition(">=")
        other = (patient.substitutes or {}).get(name, "")
        if packages.get(name) and _numbers(packages[name]) >= _numbers(oldest):
            yield Finding("runtime", "ok", f"{name} {packages[name]}")
        elif packages.get(other):
            yield Finding("runtime", "ok", f"{other} {packages[other]} in place of {name}")
        else:
            missing.append(requirement)
    if missing:
        wanted = " ".join(f"'{requirement}'" for requirement in missing)
        pip = f"{patient.facts['python_path']} -m pip install {wanted}"
        remedy = f"Run there: {board.install if board and board.install else pip}"
        yield Finding("runtime", "error", f"The board's Python lacks {', '.join(missing)}.", remedy)


def _storage(patient: Patient) -> Iterator[Finding]:
    free = patient.facts["disk_free_bytes"]
    remedy = f"Free some, or run: edgeprune targets clean {patient.target.name}"
    yield _amount("disk", free, (_LEAST_DISK_BYTES, _LITTLE_DISK_BYTES), "free in the home folder", remedy)


def _memory(patient: Patient) -> Iterator[Finding]:
    memory = patient.facts["memory"]
    remedy = "Stop what else runs on the board: systemctl --type=service --state=running"
    if "MemAvailable" in memory:
        limits = (_LEAST_MEMORY_BYTES, _LITTLE_MEMORY_BYTES)
        yield _amount(
            "memory", memory["MemAvailable"], limits, f"of {memory['MemTotal'] / 1e6:.0f} MB available", remedy
        )
    swapped = memory.get("SwapTotal", 0) - memory.get("SwapFree", 0)
    if swapped > _SWAPPED_BYTES:
        yield Finding(
            "swap", "warning", f"{swapped / 1e6:.0f} MB are swapped out; pages that come back cost time.", remedy
        )
    else:
        yield Finding("swap", "ok", f"{swapped / 1e6:.0f} of {memory.get('SwapTotal', 0) / 1e6:.0f} MB used")


def _amount(check: str, amount_bytes: float, limits: tuple[float, float], of_what: str, remedy: str) -> Finding:
    least, little = limits
    message = f"{amount_bytes / 1e6:.0f} MB {of_what}"
    if amount_bytes >= little:
        return Finding(check, "ok", message)
    return Finding(check, "error" if amount_bytes < least else "warning", f"Only {message}.", remedy)


def _controls(patient: Patient) -> Iterator[Finding]:
    for control in patient.facts["controls"]:
        name, now = control["name"], ", ".join(control["now"])
        if not now:
            yield Finding(name, "note", "This board has no such setting, or does not show it to this user.")
        elif control["changes"]:
            wanted = " and ".join(sorted({" ".join(change[1:]) for change in control["changes"]}))
            message = f"It is {now}; it should be set for a benchmark ({wanted})."
            yield Finding(name, "warning", message, f"Run: edgeprune doctor {patient.target.name} --fix")
        else:
            yield Finding(name, "ok", now)


def _clock(patient: Patient) -> Iterator[Finding]:
    state = patient.facts["state"]
    seen = patient.facts["tegrastats"]
    gpu_mhz = seen.get("gpu_clock_mhz") if state["gpu_clock_mhz"] is None else state["gpu_clock_mhz"]
    clocks = {"clock": state["clock_mhz"], "GPU clock": gpu_mhz, "memory clock": seen.get("memory_clock_mhz")}
    for name, mhz in clocks.items():
        if mhz is not None:
            yield Finding(name, "ok", f"{mhz:.0f} MHz")


def _condition(patient: Patient) -> Iterator[Finding]:
    facts = patient.facts
    yield from _heat(patient.target, facts["state"], facts["throttles_at_c"])
    yield from _slowed(facts["state"])
    history = facts["state"]["throttle_history"]
    if history:
        message = f"Since it was started, the board has slowed itself down: {', '.join(history)}."
        remedy = "Check its power supply and cooling, then restart it to clear the record."
        yield Finding("throttle history", "warning", message, remedy)
    else:
        yield Finding("throttle history", "ok", "none on record")


def _heat(target: Target, state: Mapping[str, Any], throttles_at_c: float | None) -> Iterator[Finding]:
    limit_c = target.board.throttles_at_c if target.board else None
    limits = [limit for limit in (limit_c, throttles_at_c) if limit is not None]
    now_c = state["temperature_c"]
    if now_c is None:
        return
    if limits and now_c >= min(limits):
        message = f"The board is at {now_c:.0f} °C and slows down from {min(limits):.0f} °C on."
        yield Finding("temperature", "error", message, "Let it cool down, or cool it better.")
    elif limits and now_c > min(limits) - _HEADROOM_C:
        message = f"The board is at {now_c:.0f} °C, close to the {min(limits):.0f} °C at which it slows down."
        yield Finding("temperature", "warning", message, "Let it cool down, or cool it better.")
    else:
        yield Finding("temperature", "ok", f"{now_c:.0f} °C")


def _slowed(state: Mapping[str, Any]) -> Iterator[Finding]:
    if state["throttled"]:
        message = f"The board slows itself down now: {', '.join(state['throttled'])}."
        yield Finding("throttling", "error", message, "Check its power supply and cooling.")
    else:
        yield Finding("throttling", "ok", "none")


def _load(patient: Patient) -> Iterator[Finding]:
    cores = patient.facts["look"]["other_load"]
    if cores is None:
        return
    if cores > _OTHER_CORES:
        busiest = ", ".join(patient.facts["busiest"]) or "unknown"
        message = f"Other processes keep {cores:.1f} cores busy, most of all {busiest}."
        yield Finding("other load", "warning", message, "Stop them, or measure later.")
    else:
        yield Finding("other load", "ok", f"{cores:.1f} cores")
    gpu_percent = patient.facts["tegrastats"].get("gpu_load_percent", 0.0)
    if gpu_percent > _OTHER_GPU_PERCENT:
        message = f"Other processes keep the GPU {gpu_percent:.0f} % busy."
        yield Finding(
            "other GPU load",
            "warning",
            message,
            "Stop them: the desktop too, with sudo systemctl isolate multi-user.target",
        )


def _time(patient: Patient) -> Iterator[Finding]:
    skew_s = patient.skew_s
    if abs(skew_s) > _SKEW_S:
        direction = "ahead of" if skew_s > 0 else "behind"
        message = (
            f"The board's clock is {abs(skew_s):.0f} s {direction} this machine's; logs and leases will not agree."
        )
        yield Finding("time", "warning", message, "Run there: sudo timedatectl set-ntp true")
    else:
        yield Finding("time", "ok", f"the clocks agree to {max(abs(skew_s), 1.0):.0f} s")


def _traps(patient: Patient) -> Iterator[Finding]:
    board = patient.target.board
    for trap in board.traps if board else ():
        if trap.package and _springs(trap, patient.facts):
            yield Finding("known trap", "note", trap.what, trap.remedy)


def _springs(trap: Trap, facts: Mapping[str, Any]) -> bool:
    """Say whether what a trap needs is there: a version of a package, and a processor that lacks a feature."""
    version = facts["packages"].get(trap.package)
    if version is None or not f"{version}.".startswith(f"{trap.version}."):
        return False
    return bool(facts["cpu_features"]) and trap.lacks not in facts["cpu_features"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall("[0-9]+", version)[:3])


_CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    _identity,
    _python,
    _runtime,
    _traps,
    _storage,
    _memory,
    _controls,
    _clock,
    _condition,
    _load,
    _time,
)
