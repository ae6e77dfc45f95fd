"""LiteRT (TensorFlow Lite) on the processor, through XNNPACK.

Build: litert-torch turns `model.pt2` into `.tflite`, in a converter process that one instance keeps warm.
Board: `pip install ai-edge-litert`; where only the older tflite-runtime exists, that one: without
profiles, and with int8 on its built-in kernels instead of XNNPACK's.
"""

from __future__ import annotations

import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeprune.contracts import BuildRequest
    from edgeprune.runtimes._litert_converter import Converter


class LiteRt:
    """Runs `.tflite` files; float32 inputs and outputs, channels first as in PyTorch."""

    format = "tflite"
    precisions = ("fp32", "fp16", "int8")
    requirements = ("ai-edge-litert>=2.0", "numpy")
    substitutes = {"ai-edge-litert": "tflite-runtime"}  # noqa: RUF012  # read, never written
    companions = ("edgeprune.runtimes._litert_profile",)
    convert_limit_s = 600.0

    def __init__(self) -> None:
        """Start nothing yet: only `build` needs the converter."""
        self._converter: Converter | None = None

    def unavailable(self) -> str:
        """Say whether both packages are missing."""
        installed = find_spec("ai_edge_litert") or find_spec("tflite_runtime")
        return "" if installed else "ai-edge-litert is not installed; run: pip install ai-edge-litert"

    def build(self, request: BuildRequest, out: Path) -> None:
        """Convert the exported program; the first call of an instance also loads the converter (some seconds).

        Without one, an ONNX of a few operators is written as it is, at fp32. fp16 is a way to store weights: the
        processor computes as it likes. int8 is int8 throughout.
        """
        if request.precision not in self.precisions:
            raise ValueError(f"litert builds {self.precisions}, not {request.precision!r}")
        if request.exported_program is None:
            from edgeprune.runtimes._litert_onnx import write_tflite

            why = "litert converts model.pt2, and this network has none (see the export's warnings)"
            if request.precision != "fp32":
                raise ValueError(f"{why}; an ONNX is written at fp32 only")
            try:
                write_tflite(request.onnx, out)
            except (ImportError, ValueError) as error:
                raise ValueError(f"{why}; from its ONNX: {error}") from error
            return
        if request.precision == "int8" and not request.samples:
            raise ValueError("int8 takes its ranges from real inputs, and there are none; give --calibration or --data")
        import numpy as np

        from edgeprune.runtimes._litert_converter import Converter

        if self._converter is None or not self._converter.alive:
            self._converter = Converter()
        with tempfile.TemporaryDirectory() as folder:
            samples = Path(folder) / "samples.npz"
            columns = {f"input_{number}": np.stack(column) for number, column in enumerate(zip(*request.samples))}
            np.savez(samples, allow_pickle=False, **columns)
            self._converter.convert(request.exported_program, out, self.convert_limit_s, request.precision, samples)

    def open(self, artifact: str, settings: Mapping[str, Any]) -> _Session:
        """Load a .tflite file with `threads` threads."""
        return _Session(artifact, int(settings.get("threads", 1)))

    def profile(self, artifact: str, settings: Mapping[str, Any], inputs: Sequence[Any]) -> Mapping[str, float]:
        """Return milliseconds per inference by layer, with one thread and inputs of the engine's choice.

        What follows a layer counts for it; transposes are `(layout)`. Empty where the profiler does not know the
        engine's version, or finds kernels that do not match the layers of the file one to one.
        """
        from edgeprune.runtimes._litert_profile import layers_ms

        session = self.open(artifact, settings)
        return layers_ms(artifact, session.interpreter, session.version)


class _Session:
    def __init__(self, artifact: str, threads: int) -> None:
        name = "ai_edge_litert" if find_spec("ai_edge_litert") or not find_spec("tflite_runtime") else "tflite_runtime"
        self.version = import_module(name).__version__
        self.interpreter = import_module(name + ".interpreter").Interpreter(model_path=artifact, num_threads=threads)
        self.interpreter.allocate_tensors()
        inputs, outputs = _ends(self.interpreter)
        self._inputs = [end["index"] for end in inputs]
        self._outputs = [end["index"] for end in outputs]
        self.input_shapes = [tuple(int(size) for size in end["shape"]) for end in inputs]
        self.input_types = [end["dtype"].__name__ for end in inputs]
        self.facts = {"operators": _placement(self.interpreter)}

    def run(self, inputs: Sequence[Any]) -> Sequence[Any]:
        for index, array in zip(self._inputs, inputs):
            self.interpreter.set_tensor(index, array)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(index) for index in self._outputs]


def _placement(interpreter: Any) -> Mapping[str, int]:
    """Return how many operators XNNPACK took, and how many run on the engine's own kernels.

    The engine lists the operators of the file, then one more for each part that the delegate took; what is not
    behind one of these is followed back from the outputs.
    """
    operators = interpreter._get_ops_details()
    parts = [operator for operator in operators if _is_delegate(operator)]
    maker = {output: operator for operator in operators for output in operator["outputs"]}  # the last one wins: a part
    wanted, seen = [end["index"] for end in interpreter.get_output_details()], set()
    while wanted:
        made_by = maker.get(wanted.pop())
        if made_by is not None and made_by["index"] not in seen:
            seen.add(made_by["index"])
            wanted += list(made_by["inputs"])
    own = sum(operator["index"] in seen for operator in operators if not _is_delegate(operator))
    counts = {"XNNPACK": len(operators) - len(parts) - own, "built-in kernels": own}
    return {name: count for name, count in counts.items() if count}


def _is_delegate(operator: Mapping[str, Any]) -> bool:
    return "delegate" in str(operator["op_name"]).lower()


def _ends(interpreter: Any) -> tuple[list[Any], list[Any]]:
    """Return the inputs and outputs in PyTorch's order: the file's own order of outputs is any."""
    if not interpreter.get_signature_list():
        return interpreter.get_input_details(), interpreter.get_output_details()
    runner = interpreter.get_signature_runner()
    return _by_number(runner.get_input_details()), _by_number(runner.get_output_details())


def _by_number(ends: Mapping[str, Any]) -> list[Any]:
    """Sort `args_0`, ..., `args_10` by their number."""
    return [ends[name] for name in sorted(ends, key=lambda name: (len(name), name))]
