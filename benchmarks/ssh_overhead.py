"""What ssh adds to a benchmark: `python -m benchmarks.ssh_overhead` writes results/ssh_overhead.json and .md.

The board is an sshd on this machine, so what is seen is the transport alone, without a network. Three things are timed:
single steps, one benchmark over ssh and without it in turns, and the search of a compress run of ten rounds on the
network of `edgeprune demo` (untrained, which costs the same), twice: the second one sends no file again.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.loopback_board import running_board
from benchmarks.sent_files import counting_sent
from benchmarks.ssh_stage import write_network
from edgeprune import demo, registry
from edgeprune.bench.measure import QUICK, measure
from edgeprune.bench.target import Target, load_target
from edgeprune.contracts import Transport
from edgeprune.files import write_text
from edgeprune.loop import try_out
from edgeprune.network.data import example_inputs, load_data
from edgeprune.network.digits import digit_network
from edgeprune.network.model import load_model
from edgeprune.network.weights import save_weights
from edgeprune.progress import Progress
from edgeprune.run.job import Choices, Job
from edgeprune.run.problem import state_problem
from edgeprune.run.workbench import Workbench
from edgeprune.run_dir import RunDir, Stopwatch
from edgeprune.terminal import TerminalProgress
from edgeprune.verdict.budget import Budget, Share

_RESULTS = Path(__file__).parent / "results" / "ssh_overhead.json"
_ROUNDS = 10
_REPEATS = 15
_BENCHMARKS = 5
_LIMIT = 0.10


@dataclass(frozen=True)
class Run:
    """The search of a compress run over ssh: its seconds, those spent in the transport, and the files it sent."""

    rounds: int
    seconds: float
    connections: int
    processes: int
    transport_seconds: float
    transport_share: float
    sent_bytes: int


class Meter:
    """Adds up what the ssh transport of this process does while it is watched."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.seconds = 0.0
        self.calls: dict[str, int] = {}
        self._depth = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count calls, and the time of everything but the processes on the board."""
        transport = registry.load("transports", "ssh")
        wrappers = {"put": self._timed, "close": self._timed, "_connected": self._timed, "_open": self._timed}
        before = {name: getattr(transport, name) for name in [*wrappers, "stream"]}
        for name, wrapper in wrappers.items():
            setattr(transport, name, wrapper(name, before[name]))
        transport.stream = self._counted("stream", before["stream"])
        try:
            yield
        finally:
            for name, function in before.items():
                setattr(transport, name, function)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begun_s = time.perf_counter()
            self._depth += 1
            try:
                return function(*arguments)
            finally:
                self._depth -= 1
                self.calls[name] = self.calls.get(name, 0) + 1
                if self._depth == 0:  # one step of the transport inside another counts once
                    self.seconds += time.perf_counter() - begun_s

        return timed

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            return function(*arguments)

        return counted


def step_seconds(url: str, folder: Path) -> dict[str, list[float]]:
    """Return the seconds of single steps, of ssh and of a process that is started here, in turns."""
    ssh_class, local = registry.load("transports", "ssh"), registry.load("transports", "local")(None)
    ssh, known = ssh_class(url), folder / "known"
    known.write_bytes(os.urandom(100_000))
    new = folder / "new"
    ssh.put(known)
    steps: dict[str, Callable[[], object]] = {
        "round trip: a file that lies there already": lambda: ssh.put(known),
        "a file of 10 MB": lambda: ssh.put(new),
        "an empty Python process over ssh": lambda: list(ssh.stream(["-c", ""], 60.0)),
        "an empty Python process without ssh": lambda: list(local.stream(["-c", ""], 60.0)),
        "another connection of this process": lambda: _connected_once(ssh_class(url)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(_REPEATS):
        new.write_bytes(os.urandom(10_000_000))
        for name, step in steps.items():
            seconds[name].append(seconds_of(step))
    ssh.close()
    return seconds


def benchmark_seconds(target: Target, artifact: Path) -> dict[str, list[float]]:
    """Return the seconds of one quick benchmark over ssh and without it, in turns."""
    host = replace(load_target("host"), threads=target.threads)
    seconds: dict[str, list[float]] = {"a benchmark over ssh": [], "a benchmark without ssh": []}
    for _ in range(_BENCHMARKS):
        for place, taken in zip((target, host), seconds.values(), strict=True):
            taken.append(seconds_of(functools.partial(measure, artifact, place, QUICK)))
    return seconds


def compress_run(target: Target, folder: Path, out: Path, process_s: float, progress: Progress) -> Run:
    """Search ten rounds for a share of the latency, each with fewer units than the one before."""
    meter = Meter()
    data = load_data(str(folder / "digits.npz"))
    model = load_model(folder / "digits.safetensors", demo.ARCH)
    choices = Choices("magnitude", epochs=0)
    budget = Budget(latency_ms=Share(0.5))
    job = Job(model, example_inputs(data), data, target, budget, choices, out, ("benchmarks.ssh_overhead",))
    begun_s = time.perf_counter()
    with meter.watching(), counting_sent() as sent:
        run_folder = RunDir(out)
        with run_folder.claimed():
            run_folder.begin(job.identity(), job.facts(), resume=False)
            bench = Workbench(job, run_folder, Stopwatch(run_folder), progress)
            method = registry.load("methods", choices.method)()
            problem = state_problem(bench, method)
            for index in range(_ROUNDS):
                part = 0.95 - 0.05 * index
                kept = {group.name: max(int(group.size * part), 1) for group in problem.structure.groups}
                try_out(bench, method, problem, kept, None)
    seconds = time.perf_counter() - begun_s
    processes = meter.calls["stream"]
    transport_s = meter.seconds + processes * process_s
    return Run(_ROUNDS, seconds, meter.calls["_open"], processes, transport_s, transport_s / seconds, sum(sent))


def process_seconds(medians: Mapping[str, float]) -> float:
    """Return what one measuring process takes longer over ssh, files and all, by the medians of the steps."""
    benchmark_s = medians["a benchmark over ssh"] - medians["a benchmark without ssh"]
    return max(benchmark_s - medians["another connection of this process"], 0.0) / QUICK.processes


def seconds_of(step: Callable[[], object]) -> float:
    """Return how long something takes."""
    begun_s = time.perf_counter()
    step()
    return time.perf_counter() - begun_s


def _connected_once(transport: Transport) -> None:
    with transport.lock():
        pass
    transport.close()


def main() -> None:
    """Time everything and write the results."""
    progress = TerminalProgress()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="edgeprune-overhead-") as name:
        folder = Path(name)
        write_network(folder / "model.onnx")
        demo.write_digits(folder / "digits.npz")
        save_weights(digit_network(), folder / "digits.safetensors")
        with running_board(folder / "board") as board:
            # Locks of their own: nobody else on this machine is to be waited for.
            registry.load("transports", "ssh").lock_path = str(board.lock_path)
            registry.load("transports", "local").lock_path = folder / "lock"
            target = replace(load_target("linux-x86_64"), name="board", address=board.url)
            steps = step_seconds(board.url, folder) | benchmark_seconds(target, folder / "model.onnx")
            process_s = process_seconds({step: statistics.median(seconds) for step, seconds in steps.items()})
            runs = [compress_run(target, folder, folder / out, process_s, progress) for out in ("first", "second")]
    write_results(steps, runs, load)
    if any(run.transport_share > _LIMIT for run in runs) or runs[1].sent_bytes:
        raise SystemExit("The transport takes too much of a run, or sends a file twice.")


def write_results(steps: Mapping[str, list[float]], runs: list[Run], load: float) -> None:
    """Write the numbers, and a table of them."""
    data = {"load_before": load, "seconds": steps, "runs": [asdict(run) for run in runs]}
    write_text(_RESULTS, json.dumps(data, indent=1) + "\n")
    lines = [
        "# What ssh adds to a benchmark",
        "",
        f"On the loopback interface: the transport alone, without a network. Regenerate with `python -m "
        f"benchmarks.ssh_overhead`; the load of the two cores was {load:.1f} before.",
        "",
        "| step | median | lowest | highest |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, seconds in steps.items():
        shown = (statistics.median(seconds), min(seconds), max(seconds))
        lines.append(f"| {name} | {' | '.join(f'{value * 1e3:.1f} ms' for value in shown)} |")
    lines += [
        "",
        f"The search of a compress run on the network of `edgeprune demo`, {_ROUNDS} rounds, without any training. "
        "Time in the transport: connecting, waiting for the board's lock, files, and what each measuring process "
        "takes longer over ssh than without it, by the two benchmarks above.",
        "",
        "| run | seconds | connections | processes | in the transport | share | sent |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, run in zip(("first", "second"), runs, strict=True):
        lines.append(
            f"| {name} | {run.seconds:.1f} | {run.connections} | {run.processes} | {run.transport_seconds:.1f} s "
            f"| {run.transport_share:.1%} | {run.sent_bytes / 1e6:.1f} MB |"
        )
    write_text(_RESULTS.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
