"""A board of its own over ssh and a benchmark on it, for those who break things; see ssh_faults.py."""

from __future__ import annotations

import fcntl
import getpass
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.loopback_board import LoopbackBoard
from edgeprune import registry
from edgeprune.bench.measure import MeasureOptions, measure
from edgeprune.bench.measurement import Measurement
from edgeprune.bench.target import Target, load_target
from edgeprune.errors import EdgepruneError

# Shorter than in use (15 s and 60 s), so that waiting for them does not take all the time.
LEASE_S, RECONNECT_S = 2.5, 6.0
OPTIONS = MeasureOptions(processes=1, blocks=8, block_s=0.4, block_runs=2, warmup_s=0.05, timeout_s=60.0)


@dataclass(frozen=True)
class Outcome:
    """How a benchmark ended, and what it left on the board: processes, files of a session, a lock that is held."""

    ending: str  # "finished", "resumed" or "refused"
    exit_code: int
    said: str
    blocks: int
    seconds: float
    left: tuple[str, ...]


class Scene:
    """A board, and a benchmark on it that runs beside the one who breaks things."""

    def __init__(self, board: LoopbackBoard, artifact: Path, pool: ThreadPoolExecutor) -> None:
        """Set the scene; nothing runs yet."""
        self.board, self.artifact = board, artifact
        self.options = OPTIONS
        self.target = replace(load_target("linux-x86_64"), name="board", address=board.url, threads=1)
        self._pool = pool
        self._began_s = time.monotonic()

    def begin(self, **changes: Any) -> Future[Measurement]:
        """Start the benchmark."""
        target: Target = replace(self.target, **changes)
        return self._pool.submit(measure, self.artifact, target, self.options)

    def begin_and_wait(self) -> Future[Measurement]:
        """Start the benchmark and return when its first process is at work."""
        future = self.begin()
        self.agents(future)
        time.sleep(1.5)
        return future

    def agents(self, future: Future[Measurement] | None = None) -> list[int]:
        """Return the processes that measure, waiting for one while the benchmark runs."""
        return self._wait_for(f".py measure --runtime {self.board.home}", future)

    def keepers(self) -> list[int]:
        """Return the board halves of connections."""
        return self.board.processes("python3 -I -c import sys")

    def outcome(self, future: Future[Measurement]) -> Outcome:
        """Wait for the end and look at what is left."""
        try:
            measurement = future.result(timeout=180)
            dropped = [warning for warning in measurement.warnings if "dropped" in warning]
            ending, code, said = ("resumed" if dropped else "finished"), 0, " ".join(dropped)
            blocks = sum(len(run.blocks) for run in measurement.runs)
        except EdgepruneError as error:
            ending, code, said, blocks = "refused", error.exit_code, str(error), 0
        seconds = time.monotonic() - self._began_s
        for own, shown in ((str(self.board.folder), "BOARD"), (f"{getpass.getuser()}@", "user@")):
            said = said.replace(own, shown)
        return Outcome(ending, code, said, blocks, seconds, self._left())

    def _wait_for(self, part: str, future: Future[Measurement] | None) -> list[int]:
        deadline_s = time.monotonic() + 30
        while not (found := self.board.processes(part)):
            if time.monotonic() > deadline_s or (future is not None and future.done()):
                raise RuntimeError(f"nothing measures: {future.exception() if future and future.done() else part}")
            time.sleep(0.02)
        return found

    def _left(self) -> tuple[str, ...]:
        deadline_s = time.monotonic() + 2 * LEASE_S + 4
        while (left := tuple(self._leftovers())) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        return left

    def _leftovers(self) -> Iterator[str]:
        # The shared connection of this machine ends by itself after half a minute; its sshd belongs to it.
        connections = self.board.processes("sshd")
        yield from (f"process {pid}" for pid in self.board.processes() if pid not in connections)
        kept = self.board.home / ".cache" / "edgeprune" / "board" / "files"
        for path in self.board.files():
            if path.parent != kept or path.suffix == ".partial":
                yield str(path)
        if self.board.lock_path.exists():
            with self.board.lock_path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield "a lock that is held"


def holder() -> None:
    """Hold the board whose address and lock the command line names until killed."""
    address, lock_path = sys.argv[1:]
    with settings(Path(lock_path)):
        transport = registry.load("transports", "ssh")(address)
        with transport.lock():
            code = "import time; print('awake', flush=True); time.sleep(600)"
            for line in transport.stream(["-c", code], 600.0):
                print(line, flush=True)


@contextmanager
def settings(lock_path: Path) -> Iterator[None]:
    """Let the transport use a lock of the board's own, and short limits."""
    transport = registry.load("transports", "ssh")
    changes = {"lock_path": str(lock_path), "lease_s": LEASE_S, "reconnect_limit_s": RECONNECT_S}
    before = {name: getattr(transport, name) for name in changes}
    for name, value in changes.items():
        setattr(transport, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(transport, name, value)


@contextmanager
def own_network() -> Iterator[tuple[str, ...]]:
    """Make a network namespace with a cable to this one, and yield what starts a command in it."""
    name = network_name()
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "addr", "add", f"{_address(1)}/24", "dev", name)
        run("ip", "link", "set", name, "up")
        run("ip", "-n", name, "addr", "add", f"{_address(2)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            run("ip", "-n", name, "link", "set", device, "up")
        yield ("ip", "netns", "exec", name)
    finally:
        run("ip", "link", "del", name)  # with the namespace it would go too, but later
        run("ip", "netns", "del", name)


def link(state: str) -> None:
    """Plug the board's end of the cable in ("up") or pull it out ("down")."""
    run("ip", "-n", network_name(), "link", "set", "eth0", state)


def write_network(path: Path) -> None:
    """Write a small ONNX network that takes about a millisecond."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32) / 23
    names = ["x", *(f"h{index}" for index in range(7)), "y"]
    nodes = [helper.make_node("MatMul", [one, "w"], [other]) for one, other in itertools.pairwise(names)]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [8, 512]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def network_name() -> str:
    """Return what the network of this process is called."""
    return f"ep{os.getpid() % 10**8}"


def board_address() -> str:
    """Return the board's end of the cable."""
    return _address(2)


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, capture_output=True)


def _address(last: int) -> str:
    return f"10.79.{os.getpid() % 250}.{last}"
