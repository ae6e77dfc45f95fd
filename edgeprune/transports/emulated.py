"""A board as data: answers like the agent on a board would, in virtual time and without a board.

The target holds the board under `[settings.emulated]`; its address is the serial number of this one specimen, from
which its noise is drawn: the same calls in the same order see the same samples. Latencies are computed
(bench/emulated_board.py); outputs are real, because the runtime runs the network here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgeprune.bench import agent
from edgeprune.bench.emulated_board import EmulatedBoard, NetworkTime, board_from_settings, emulate
from edgeprune.bench.emulated_process import EmulatedProcess, VirtualClock
from edgeprune.bench.work import works_of_file
from edgeprune.contracts import Transport
from edgeprune.errors import BoardError, LinkLostError, ModelError, UsageError
from edgeprune.files import sha256_of

Events = Iterator[dict[str, Any]]

# Between two benchmarks of a session somebody looks at the first, or makes the next network.
_REST_S = 10.0


class Emulated(Transport):
    """Reaches a board that exists as data; time goes on from process to process of one transport."""

    kind: ClassVar[Literal["real", "icount", "emulated"] | None] = "emulated"
    needs_address: ClassVar[bool] = True
    runs_programs: ClassVar[bool] = False
    lasts: ClassVar[bool] = True

    def __init__(self, address: str | None, python: str | None = None) -> None:
        """Take the serial number of the board; raises UsageError without one."""
        if address is None:
            raise UsageError("An emulated board needs an address, its serial number: any text, such as '1'.")
        super().__init__(address, python)
        self._board: EmulatedBoard | None = None
        self._clock: VirtualClock | None = None
        self._processes = 0
        self._known: dict[str, NetworkTime] = {}

    def put(self, local: Path) -> str:
        """Return the file's own path; raises BoardError where there is no such file."""
        if not local.is_file():
            raise BoardError(f"There is no file {local} to run.")
        return str(local.resolve())

    def stream(self, arguments: Sequence[str], timeout_s: float) -> Iterator[str]:
        """Answer what the agent would; raises BoardError for anything else, for a fault, and after `timeout_s`."""
        modes: Mapping[str, Callable[[argparse.Namespace], Events]] = {
            "measure": self._measure,
            "profile": self._profile,
            "sweep": self._sweep,
            "run": _run,
        }
        program, mode, *flags = (*arguments, "", "")
        if Path(program).name != Path(agent.__file__).name or mode not in modes:
            raise BoardError(f"An emulated board answers edgeprune's agent alone; it cannot run {program!r} {mode!r}.")
        started_s = self._clock.now_s if self._clock else 0.0
        try:
            for event in modes[mode](_parse(flags)):
                if self._clock and self._clock.now_s - started_s > timeout_s:
                    raise BoardError(f"The process on the emulated board was ended after its {timeout_s:g} s.")
                yield json.dumps(event)
        except ModelError as error:
            yield json.dumps(_error("open", str(error)))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let the board rest since the benchmark before; nobody else can see it, and nothing is held."""
        if self._clock is not None:
            self._clock.pass_time(_REST_S, busy=False)
        yield

    def _measure(self, asked: argparse.Namespace) -> Events:
        process = self._process(asked)
        yield from process.events({**agent.DEFAULTS, **asked.options})
        if process.fails:
            raise LinkLostError(f"The emulated board {self.address} fell silent while it measured; measure again.")

    def _profile(self, asked: argparse.Namespace) -> Events:
        yield {"event": "profile", "layers_ms": self._process(asked).profile_ms()}
        yield {"event": "done"}

    def _sweep(self, asked: argparse.Namespace) -> Events:
        with zipfile.ZipFile(asked.artifact) as bundle, tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(bundle.extract(name, folder)) for name in bundle.namelist()}
            process = self._process(asked, next(iter(paths.values())))
            board = self._board or board_from_settings(asked.settings)
            networks = {name: self._time(path, board) for name, path in paths.items()}
        yield from process.sweep(networks, {**agent.DEFAULTS, **asked.options})
        if process.fails:
            raise LinkLostError(f"The emulated board {self.address} fell silent in a sweep; measure again.")

    def _process(self, asked: argparse.Namespace, network: Path | None = None) -> EmulatedProcess:
        board = self._board = self._board or board_from_settings(asked.settings)
        self._clock = self._clock or VirtualClock(board)
        self._processes += 1
        seed = json.dumps(
            [self.address, self._processes, sha256_of(Path(asked.artifact)), asked.options], sort_keys=True
        )
        return EmulatedProcess(board, self._time(network or Path(asked.artifact), board), self._clock, seed)

    def _time(self, artifact: Path, board: EmulatedBoard) -> NetworkTime:
        digest = sha256_of(artifact)
        if digest not in self._known:
            self._known[digest] = emulate(works_of_file(artifact), board)
        return self._known[digest]


def _run(asked: argparse.Namespace) -> Events:
    events: list[dict[str, Any]] = []
    try:
        agent.answer(asked, events.append)
    except agent.StageError as error:
        events.append(_error(error.stage, str(error), error.missing))
    yield from events


def _parse(flags: Sequence[str]) -> argparse.Namespace:
    """Read the agent's flags, each with its value."""
    given = {flag.removeprefix("--"): value for flag, value in zip(flags[::2], flags[1::2], strict=False)}
    asked = {key: json.loads(given.get(key, "{}")) for key in ("settings", "options", "companions")}
    return argparse.Namespace(**{"inputs": None, **given, **asked})


def _error(stage: str, message: str, missing: str | None = None) -> dict[str, Any]:
    return {"event": "error", "stage": stage, "message": message, "missing": missing, "python": sys.executable}
