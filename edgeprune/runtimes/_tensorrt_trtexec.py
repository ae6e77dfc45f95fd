"""TensorRT through its own program trtexec, with the flags of the version that the board has. Runs on the board.

What comes with JetPack often has Python bindings for the system's Python alone; trtexec is always there.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.runtimes._tensorrt_formats import (
    complaint_of,
    explained,
    layer_counts,
    layers_ms_in,
    layers_ms_of,
    outputs_of,
    times_ns_of,
    version_of,
)
from edgeprune.runtimes._tensorrt_onnx import inputs_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeprune.runtimes._tensorrt_engines import Order

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
_WARM_UP_MS = 200
_PROFILED_RUNS = 50
_PARENT_DEATH_SIGNAL = 1
# What memory that ran out looks like in a log.
_NO_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "bad_alloc", "cuda failure: 2", "cudaerror 2")


def find_trtexec() -> str | None:
    """Return the path of trtexec, or None: JetPack's packages leave it off the path."""
    places = (place for place in PLACES if os.access(place, os.X_OK))
    return shutil.which("trtexec") or next(places, None)


def build_flags(version: tuple[int, int, int], order: Order) -> list[str]:
    """Return what says the same to every version: precision, memory, detail, and that nothing is to be run."""
    pool = "--memPoolSize=workspace:" if version >= (8, 4) else "--workspace="
    flags = [
        f"{pool}{order.workspace_mib}",
        f"--timingCacheFile={order.timing_cache}",
        "--profilingVerbosity=detailed" if version >= (8, 4) else "--nvtxMode=verbose",
        "--skipInference" if version >= (8, 6) else "--buildOnly",
    ]
    if order.level is not None and version >= (8, 6):
        flags.append(f"--builderOptimizationLevel={order.level}")
    if order.precision == "fp32":
        flags.append("--noTF32")
    elif version < (11,):  # from 11 on, the number types of the network decide alone
        # Layers between quantised ones need not fall back to 32 bits.
        flags += ["--int8", "--fp16"] if order.precision == "int8" else ["--fp16"]
    return flags


def run_flags(version: tuple[int, int, int]) -> list[str]:
    """Return what makes all versions time the same thing: to the GPU, one plain launch, and back."""
    if version >= (11,):
        return ["--includeDataTransfers", "--noCudaGraph"]
    return ["--useSpinWait"]


class Trtexec:
    """The program on this board."""

    def __init__(self, program: str) -> None:
        """Ask it for its version; raises ValueError where it does not run."""
        self._program = program
        self._version = version_of(self._run("--help", may_fail=True))
        self.name = "{}.{}.{} (trtexec)".format(*self._version)

    def build(self, order: Order, engine: Path) -> Mapping[str, Any]:
        """Write an engine and return what is known of it; raises MemoryError or ValueError."""
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / "layers.json"
            flags = [*build_flags(self._version, order), f"--exportLayerInfo={exported}"]
            self._run(f"--onnx={order.onnx}", f"--saveEngine={engine}", *flags)
            # Some versions end before they write it when nothing is to be run.
            return {"layers": layer_counts(exported.read_text(encoding="utf-8")) if exported.is_file() else {}}

    def open(self, engine: Path, onnx: str) -> TrtexecSession:
        """Get ready to run an engine, and run it once."""
        return TrtexecSession(self, engine, onnx)

    def profile(self, engine: Path, onnx: str, arrays: Sequence[Any]) -> Mapping[str, float]:
        """Return milliseconds per inference by kernel."""
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / "profile.json"
            flags = [f"--iterations={_PROFILED_RUNS}", "--duration=0", f"--exportProfile={exported}", "--dumpProfile"]
            # From 11 on, layers are always timed in a run of their own.
            flags += [] if self._version >= (11,) else ["--separateProfileRun"]
            log = self.infer(engine, inputs_of(onnx), arrays, flags)
            kernels_ms = layers_ms_of(exported.read_text(encoding="utf-8")) if exported.is_file() else {}
            return kernels_ms or layers_ms_in(log)

    def infer(self, engine: Path, inputs: Sequence[Any], arrays: Sequence[Any], flags: Sequence[str]) -> str:
        """Run an engine on arrays and return the log."""
        import numpy as np

        with tempfile.TemporaryDirectory() as folder:
            given = []
            for number, (end, array) in enumerate(zip(inputs, arrays)):
                path = Path(folder) / f"{number}.bin"
                np.ascontiguousarray(array, dtype=end.type).tofile(str(path))
                given.append(f"{end.name}:{path}")
            load = [f"--loadEngine={engine}", f"--loadInputs={','.join(given)}", f"--warmUp={_WARM_UP_MS}"]
            return self._run(*load, *run_flags(self._version), *flags)

    def _run(self, *arguments: str, may_fail: bool = False) -> str:
        done = subprocess.run(
            [self._program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            preexec_fn=_die_with_parent,  # no thread runs in this process
        )
        log = done.stdout.decode(errors="replace")
        if done.returncode == 0 or may_fail:
            return log
        if done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL) or _ran_out_of_memory(log):
            raise MemoryError(complaint_of(log))
        raise ValueError(f"trtexec: {explained(complaint_of(log))}")


class TrtexecSession:
    """An engine that trtexec runs, one program start a call; it times itself, by the clock of the GPU."""

    def __init__(self, trtexec: Trtexec, engine: Path, onnx: str) -> None:
        """Look at the inputs; the first call will tell whether the engine runs."""
        self._trtexec, self._engine = trtexec, engine
        self._inputs = inputs_of(onnx)
        self.version = trtexec.name
        self.facts: dict[str, Any] = {}
        self.input_shapes = [end.shape for end in self._inputs]
        self.input_types = [end.type for end in self._inputs]

    def run(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Return the outputs of one inference."""
        import numpy as np

        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / "output.json"
            flags = ["--iterations=1", "--duration=0", f"--exportOutput={exported}"]
            self._trtexec.infer(self._engine, self._inputs, inputs, flags)
            outputs = outputs_of(exported.read_text(encoding="utf-8"))
        return [np.array(values, dtype=np.float32).reshape(shape) for shape, values in outputs.values()]

    def times_ns(self, inputs: Sequence[Any], runs: int, seconds: float) -> Sequence[int]:
        """Return the time of each of at least `runs` inferences over at least `seconds`."""
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder) / "times.json"
            flags = [f"--iterations={runs}", f"--duration={seconds:g}", f"--exportTimes={exported}"]
            self._trtexec.infer(self._engine, self._inputs, inputs, flags)
            return times_ns_of(exported.read_text(encoding="utf-8"))


def _ran_out_of_memory(log: str) -> bool:
    text = log.lower()
    return any(sign in text for sign in _NO_MEMORY)


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
