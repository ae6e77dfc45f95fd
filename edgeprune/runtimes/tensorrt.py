"""TensorRT on an NVIDIA GPU: the board builds its engine from the ONNX file, and keeps it.

Build: the exported ONNX at the asked precision, shown to NVIDIA's parser where TensorRT for RTX is installed.
Board: what JetPack brings, trtexec or the Python bindings, of TensorRT 8.0 or later.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgeprune.contracts import BuildRequest, Session

_NOTHING = "neither trtexec nor the Python package tensorrt is here; on a Jetson run: sudo apt-get install tensorrt"
_PACKAGES = ("tensorrt", "tensorrt_rtx")


class TensorRt:
    """Runs ONNX files as engines of the board.

    A target's `workspace_mib` bounds the memory that a build may use; without it, a quarter of what is free. `engines`
    is the folder on the board for what was built.
    """

    format = "onnx"
    precisions = ("fp32", "fp16", "int8")
    requirements = ("tensorrt>=8.0", "numpy")
    substitutes = {"tensorrt": "/usr/src/tensorrt/bin/trtexec"}  # noqa: RUF012  # read, never written
    companions = (
        "edgeprune.runtimes._tensorrt_formats",
        "edgeprune.runtimes._tensorrt_onnx",
        "edgeprune.runtimes._tensorrt_cuda",
        "edgeprune.runtimes._tensorrt_trtexec",
        "edgeprune.runtimes._tensorrt_bindings",
        "edgeprune.runtimes._tensorrt_engines",
    )

    def unavailable(self) -> str:
        """Say that TensorRT is missing, or a GPU for its bindings."""
        from edgeprune.runtimes._tensorrt_cuda import CudaError, Gpu
        from edgeprune.runtimes._tensorrt_trtexec import find_trtexec

        if find_trtexec():
            return ""
        if not any(map(find_spec, _PACKAGES)):
            return _NOTHING
        try:
            Gpu()
        except CudaError as error:
            return f"an engine runs on an NVIDIA GPU only: {error}"
        return ""

    def build(self, request: BuildRequest, out: Path) -> None:
        """Write the ONNX at the asked precision; raises ValueError with what NVIDIA's parser refuses of it."""
        from edgeprune.runtimes import _onnx_precision as precision

        if request.precision not in self.precisions:
            raise ValueError(f"tensorrt builds {self.precisions}, not {request.precision!r}")
        if request.precision == "int8":
            precision.write_int8(request.onnx, out, request.samples, precision.SYMMETRIC)
        elif request.precision == "fp16":
            precision.write_half(request.onnx, out)
        else:
            precision.copy_onnx(request.onnx, out)
        if find_spec("tensorrt_rtx"):
            from edgeprune.runtimes._tensorrt_bindings import Bindings

            Bindings(import_module("tensorrt_rtx")).parse(str(out))

    def open(self, artifact: str, settings: Mapping[str, Any]) -> Session:
        """Build the engine of an ONNX file, or take the one that this board has built, and load it."""
        from edgeprune.runtimes._tensorrt_engines import engine_for

        tool = _tool()
        engine, built = engine_for(tool, artifact, settings, _gpu_facts())
        session: Session = tool.open(engine, artifact)
        session.facts = dict(built, **session.facts)
        return session

    def profile(self, artifact: str, settings: Mapping[str, Any], inputs: Sequence[Any]) -> Mapping[str, float]:
        """Return milliseconds per inference by layer; a fused kernel counts for the layer that it starts with."""
        from edgeprune.runtimes._tensorrt_engines import engine_for
        from edgeprune.runtimes._tensorrt_formats import by_layer

        tool = _tool()
        engine, _ = engine_for(tool, artifact, settings, _gpu_facts())
        return by_layer(tool.profile(engine, artifact, inputs))


def _tool() -> Any:
    """Return the bindings where this Python has them, because they time as every other engine is timed; or trtexec."""
    from edgeprune.runtimes._tensorrt_bindings import Bindings
    from edgeprune.runtimes._tensorrt_trtexec import Trtexec, find_trtexec

    program = find_trtexec()
    for name in _PACKAGES:
        if find_spec(name) and not (program and name != _PACKAGES[0]):
            return Bindings(import_module(name))
    if program is None:
        raise ModuleNotFoundError(_NOTHING, name="tensorrt")
    return Trtexec(program)


def _gpu_facts() -> Mapping[str, str]:
    """Return what the driver says of the GPU; empty where trtexec is all there is to ask."""
    from edgeprune.runtimes._tensorrt_cuda import CudaError, Gpu

    try:
        return Gpu().facts()
    except CudaError:
        return {}
