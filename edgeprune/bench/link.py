"""A target whose board is reached and held: starts the agent there, and reads its lines as events."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune import registry
from edgeprune.bench.target import list_targets
from edgeprune.errors import BoardError, BuildError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from edgeprune.bench.target import Target
    from edgeprune.contracts import Transport

_AGENT = Path(__file__).with_name("agent.py")
_TELEMETRY = Path(__file__).with_name("telemetry.py")
_LASTING: ContextVar[dict[tuple[str, str | None, str | None], Transport] | None] = ContextVar("lasting", default=None)


@dataclass(frozen=True)
class Link:
    """A target and the transport that holds its board."""

    target: Target
    transport: Transport

    def events(
        self,
        mode: str,
        artifact: Path,
        files: Mapping[str, Path] | None = None,
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 600.0,
    ) -> Iterator[dict[str, Any]]:
        """Run the agent on an artifact and yield what it says; `files` are put there for the flags that name them.

        Raises BuildError when the engine cannot open the artifact, LinkLostError when the connection broke,
        BoardError for anything else.
        """
        placed = {
            "--runtime": self._runtime_file,
            "--artifact": _existing(artifact),
            "--telemetry": _TELEMETRY,
            **(files or {}),
        }
        arguments = [self.transport.put(_AGENT), mode]
        arguments += [part for flag, path in placed.items() for part in (flag, self.transport.put(path))]
        beside = {name: self.transport.put(path) for name, path in self._companions.items()}
        arguments += ["--companions", json.dumps(beside)]
        arguments += ["--settings", json.dumps(self.target.engine_settings()), "--options", json.dumps(options or {})]
        for line in self.transport.stream(arguments, timeout_s):
            event = _parse(line, self.target)
            if event["event"] == "error":
                raise _error_of(event, self.target, artifact)
            yield event

    @cached_property
    def _runtime_file(self) -> Path:
        return runtime_file(self.target)

    @cached_property
    def _companions(self) -> Mapping[str, Path]:
        """The modules that the runtime's file imports, in the order in which one imports the other."""
        names = getattr(registry.load("runtimes", self.target.runtime), "companions", ())
        return {name: _module_file(name) for name in names}


@contextmanager
def open_link(target: Target) -> Iterator[Link]:
    """Reach the board of a target and hold it for one benchmark; raises UsageError and BoardError."""
    transport = transport_of(target)
    lasting = _LASTING.get()
    if transport.lasts and lasting is not None:
        transport = lasting.setdefault((target.transport, target.address, target.python), transport)
    try:
        with transport.lock():
            yield Link(target, transport)
    finally:
        transport.close()


@contextmanager
def session() -> Iterator[None]:
    """Let boards that exist only while something holds them go on from one benchmark to the next in this block."""
    before = _LASTING.set({})
    try:
        yield
    finally:
        _LASTING.reset(before)


def transport_of(target: Target) -> Transport:
    """Return what reaches the board of a target; nothing is contacted yet.

    Raises UnknownNameError for a transport that is not there, UsageError for one that does not fit the target.
    """
    transport_class: type[Transport] = registry.load("transports", target.transport)
    if transport_class.kind not in (None, target.kind):
        raise UsageError(
            f"Target {target.name} calls itself {target.kind!r}, but its transport {target.transport!r} reaches "
            f"{transport_class.kind!r} boards; correct `kind` in its file."
        )
    if transport_class.needs_address and target.address is None:
        raise UsageError(_no_address(target))
    if target.python is None:
        return transport_class(target.address)
    return transport_class(target.address, target.python)


def check_usable(target: Target) -> None:
    """Refuse a target that can be neither reached nor built for, before anything slow is done; raises UsageError."""
    transport_of(target)
    runtime_file(target)


def runtime_file(target: Target) -> Path:
    """Return the file of a target's runtime, which is also its board half; raises UnknownNameError."""
    known = registry.entries("runtimes")
    if target.runtime not in known:
        raise UnknownNameError("runtime", target.runtime, known)
    return known[target.runtime].path


def _module_file(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise UsageError(f"A runtime names the module {name!r} as its companion, and there is none.")
    return Path(spec.origin)


def _no_address(target: Target) -> str:
    add = f"edgeprune targets add my-board --like {target.name} --address ssh://USER@HOST"
    emulated = f"emulated-{target.name}"
    instead = f", or try it without a board: --target {emulated}" if emulated in list_targets() else ""
    return f"Target {target.name} needs an address. Add your own board with: {add}{instead}"


def _existing(artifact: Path) -> Path:
    if not artifact.is_file():
        raise UsageError(f"There is no artifact {artifact}.")
    return artifact


def _parse(line: str, target: Target) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise BoardError(f"Target {target.name} answered with something that is no JSON: {line[:120]!r}.") from error
    return event


def _error_of(event: Mapping[str, Any], target: Target, artifact: Path) -> BoardError | BuildError:
    if event["missing"]:
        needed = " ".join(f"'{part}'" for part in registry.load("runtimes", target.runtime).requirements)
        pip = f"{event['python']} -m pip install {needed}"
        install = target.board.install if target.board and target.board.install else pip
        return BoardError(f"Python on target {target.name} has no module {event['missing']!r}. Run there: {install}")
    if event["stage"] == "open":
        return BuildError(f"{target.runtime} on target {target.name} cannot open {artifact.name}: {event['message']}")
    return BoardError(f"Target {target.name} failed while it had to {event['stage']}: {event['message']}")
