"""Runs on the board: opens one artifact with one runtime file and streams what it sees as JSON lines.

    python agent.py measure --runtime onnxruntime.py --artifact model.onnx --settings '{"threads": 1}'

The standard library of Python 3.8 is enough for this file itself; arrays are made with the NumPy that every engine
brings along. Modes: `measure` times inferences, `run` answers given inputs, `profile` times layers, `sweep` times
every artifact of a .zip briefly. `--telemetry` names a file whose `read()` looks at the board and whose
`between(before, after)` says what it did beside a block.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import gc
import importlib.util
import inspect
import json
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DEFAULTS = {
    "seed": 0,
    "warmup_runs": 10,
    "warmup_s": 0.3,
    "warmup_limit_s": 5.0,
    "blocks": 4,
    "block_runs": 10,
    "block_s": 0.1,
}
STEADY_WITHIN = 0.01  # warm-up ends when the recent median is no more than this part below the one before


class StageError(Exception):
    """Something failed; `stage` says what was being done."""

    def __init__(self, stage: str, error: BaseException) -> None:
        """Remember the stage, and the module that is missing where one is."""
        super().__init__(f"{type(error).__name__}: {error}")
        self.stage = stage
        self.missing = error.name if isinstance(error, ImportError) else None


def main() -> int:
    """Do what the command line asks; the exit status is 1 when an `error` line was written."""
    arguments = parse_arguments()
    die_with_parent()
    emit = take_stdout()
    modes = {"measure": measure, "run": answer, "profile": profile, "sweep": sweep}
    try:
        modes[arguments.mode](arguments, emit)
    except StageError as error:
        said = {"stage": error.stage, "message": str(error), "missing": error.missing, "python": sys.executable}
        emit(dict(event="error", **said))
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure one artifact on this board.")
    parser.add_argument("mode", choices=("measure", "run", "profile", "sweep"))
    parser.add_argument("--runtime", required=True, help="runtime plug-in, a Python file")
    parser.add_argument("--companions", type=json.loads, default={}, help="JSON: modules it imports, name to file")
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON for the engine")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON over DEFAULTS")
    parser.add_argument("--inputs", help=".npz with input_0, input_1, ...: (samples, *shape)")
    parser.add_argument("--telemetry", help="what looks at the board beside each block, a Python file")
    return parser.parse_args()


# ---------------------------------------------------------------- the four modes


def measure(arguments: argparse.Namespace, emit: Callable[[Any], None]) -> None:
    """Time the cold start, the warm-up and the blocks."""
    options = dict(DEFAULTS, **arguments.options)
    telemetry = load_telemetry(arguments.telemetry)
    kind, state = read_text("/etc/edgeprune-kind") or "real", telemetry.read() if telemetry else None
    emit({"event": "board", "facts": board_facts(), "kind": kind, "state": state})
    runtime = load_runtime(arguments.runtime, arguments.companions)
    started = time.perf_counter_ns()
    with stage("open"):
        session = runtime.open(arguments.artifact, arguments.settings)
    opened = {"open_ms": (time.perf_counter_ns() - started) / 1e6, "version": session.version}
    inputs = make_inputs(session, arguments.inputs, options["seed"])
    gc.collect()
    gc.disable()  # a collection inside a timed inference is not the network's
    with stage("run"):
        first_ms = times_of(session, inputs, 1, 0.0)[0] / 1e6
        emit(dict(opened, event="opened", first_ms=first_ms, engine=dict(getattr(session, "facts", {}))))
        emit({"event": "warmup", "samples_ns": warm_up(session, inputs, options)})
        for _ in range(options["blocks"]):
            emit(dict(event="block", **block(session, inputs, options, telemetry)))
    emit({"event": "done", "peak_memory_bytes": peak_memory_bytes()})


def answer(arguments: argparse.Namespace, emit: Callable[[Any], None]) -> None:
    """Run every given sample and write its outputs."""
    runtime = load_runtime(arguments.runtime, arguments.companions)
    with stage("open"):
        session = runtime.open(arguments.artifact, arguments.settings)
    with stage("run"):
        for inputs in read_samples(arguments.inputs):
            emit({"event": "outputs", "arrays": [encode(array) for array in session.run(inputs)]})
    emit({"event": "done"})


def profile(arguments: argparse.Namespace, emit: Callable[[Any], None]) -> None:
    """Write the milliseconds of each layer."""
    runtime = load_runtime(arguments.runtime, arguments.companions)
    options = dict(DEFAULTS, **arguments.options)
    with stage("open"):
        session = runtime.open(arguments.artifact, arguments.settings)
    inputs = make_inputs(session, arguments.inputs, options["seed"])
    del session
    with stage("run"):
        layers = runtime.profile(arguments.artifact, arguments.settings, inputs)
    emit({"event": "profile", "layers_ms": dict(layers)})
    emit({"event": "done"})


def sweep(arguments: argparse.Namespace, emit: Callable[[Any], None]) -> None:
    """Time one block of every artifact in a .zip, in the order in which they lie there."""
    options = dict(DEFAULTS, **arguments.options)
    emit({"event": "board", "facts": board_facts()})
    runtime = load_runtime(arguments.runtime, arguments.companions)
    gc.disable()
    with zipfile.ZipFile(arguments.artifact) as bundle, tempfile.TemporaryDirectory() as folder:
        for name in bundle.namelist():
            with stage("open"):
                session = runtime.open(bundle.extract(name, folder), arguments.settings)
            with stage("run"):
                inputs = make_inputs(session, None, options["seed"])
                warm_up(session, inputs, options)
                emit(dict(event="timed", name=name, version=session.version, **block(session, inputs, options, None)))
            del session, inputs
            gc.collect()
    emit({"event": "done"})


def timed(session: Any, inputs: Sequence[Any]) -> int:
    """Return the nanoseconds of one inference, host memory to host memory."""
    started = time.perf_counter_ns()
    session.run(inputs)
    return time.perf_counter_ns() - started


def times_of(session: Any, inputs: Sequence[Any], runs: int, seconds: float) -> list[int]:
    """Time consecutive inferences for both the asked count and the asked seconds."""
    if hasattr(session, "times_ns"):
        return list(session.times_ns(inputs, runs, seconds))
    samples: list[int] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < runs or time.perf_counter() < deadline:
        samples.append(timed(session, inputs))
    return samples


def warm_up(session: Any, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[int]:
    """Run until the recent median has stopped falling, at least the asked runs and seconds, at most the limit."""
    if hasattr(session, "times_ns"):
        return times_of(session, inputs, options["warmup_runs"], options["warmup_s"])
    started = time.perf_counter()
    samples: list[int] = []
    while True:
        samples.append(timed(session, inputs))
        elapsed = time.perf_counter() - started
        if elapsed > options["warmup_limit_s"]:
            return samples
        if len(samples) >= options["warmup_runs"] and elapsed >= options["warmup_s"] and is_steady(samples):
            return samples


def is_steady(samples: Sequence[int]) -> bool:
    """Compare the last quarter of the samples with the quarter before it."""
    width = max(len(samples) // 4, 1)
    recent, before = samples[-width:], samples[-2 * width : -width] or samples
    return statistics.median(recent) >= statistics.median(before) * (1 - STEADY_WITHIN)


def block(session: Any, inputs: Sequence[Any], options: Mapping[str, Any], telemetry: Any) -> dict[str, Any]:
    """Time consecutive inferences, and look at the board around them."""
    before = telemetry.read() if telemetry else None
    samples = times_of(session, inputs, options["block_runs"], options["block_s"])
    return {"samples_ns": samples, "telemetry": telemetry.between(before, telemetry.read()) if telemetry else {}}


# ---------------------------------------------------------------- the board


def board_facts() -> dict[str, Any]:
    """Return what identifies this kind of board; never its name, its users or its address."""
    return {
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "kernel": ".".join(platform.release().split(".")[:2]),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
    }


def cpu_model() -> str:
    """Return the processor's name: from the device tree on ARM boards, from cpuinfo elsewhere."""
    board = read_text("/proc/device-tree/model").strip("\0")
    names = [line.partition(":")[2].strip() for line in cpuinfo_lines("model name")]
    return board or (names[0] if names else platform.processor() or "unknown")


def cpuinfo_lines(key: str) -> list[str]:
    """Return the lines of /proc/cpuinfo that start with a key."""
    return [line for line in read_text("/proc/cpuinfo").splitlines() if line.startswith(key)]


def peak_memory_bytes() -> int:
    """Return the most memory that this process, or a program that it ran, ever held; 0 where nothing says it.

    NOTE: getrusage also counts the parent's memory at the moment of the fork, so it is not asked of this process.
    """
    lines = [line for line in read_text("/proc/self/status").splitlines() if line.startswith("VmHWM:")]
    own = int(lines[0].split()[1]) * 1024 if lines else 0
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)


def read_text(path: str | Path) -> str:
    """Return a file's text, or "" where the board has no such file or does not show it."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


# ---------------------------------------------------------------- arrays, plug-in, process


def make_inputs(session: Any, path: str | None, seed: int) -> list[Any]:
    """Return the first given sample, or seeded noise of the shapes and types that the session wants."""
    if path is not None:
        return next(read_samples(path))
    import numpy as np

    noise = np.random.RandomState(seed)
    inputs = []
    for shape, name in zip(session.input_shapes, session.input_types):
        dtype = np.dtype(name)
        values = noise.uniform(-1.0, 1.0, shape) if dtype.kind == "f" else noise.randint(0, 2, shape)
        inputs.append(np.ascontiguousarray(values.astype(dtype)))
    return inputs


def read_samples(path: str) -> Iterator[list[Any]]:
    """Yield the inputs of one inference after the other."""
    import numpy as np

    with stage("inputs"), np.load(path, allow_pickle=False) as stored:
        columns = [stored[f"input_{index}"] for index in range(len(stored.files))]
    for row in zip(*columns):
        yield [np.ascontiguousarray(array) for array in row]


def encode(array: Any) -> dict[str, Any]:
    """Return an array as JSON."""
    import numpy as np

    array = np.ascontiguousarray(array)
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"type": array.dtype.str, "shape": list(array.shape), "data": data}


def load_runtime(path: str, companions: Mapping[str, str]) -> Any:
    """Load a runtime file by path, after the modules it imports, and return an instance of its one public class."""
    with stage("load"):
        for name in [name for name in companions if name not in sys.modules]:
            sys.modules[name] = load_file(companions[name], name)
        module = load_file(path, "edgeprune_board_runtime")
        classes = [
            member
            for label, member in vars(module).items()
            if inspect.isclass(member) and member.__module__ == module.__name__ and not label.startswith("_")
        ]
        if len(classes) != 1:
            raise ValueError(f"{path} must define exactly one public class")
        return classes[0]()


def load_telemetry(path: str | None) -> Any:
    """Load what looks at the board, or return None where nothing does."""
    with stage("load"):
        return load_file(path, "edgeprune_board_telemetry") if path else None


def load_file(path: str, name: str) -> Any:
    """Run a Python file as a module of that name."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no Python file at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Tell the workstation what was being done when something failed."""
    try:
        yield
    except Exception as error:
        raise StageError(name, error) from error


def take_stdout() -> Callable[[Any], None]:
    """Keep standard output for JSON lines alone: engines print to it, from now on to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(value: Any) -> None:
        lines.write(json.dumps(value) + "\n")
        lines.flush()

    return emit


def die_with_parent() -> None:
    """Ask Linux to end this process when the one that started it ends, however it ends."""
    if sys.platform.startswith("linux"):
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
