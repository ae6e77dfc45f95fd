"""Runs an ONNX graph on the workstation, as the reference that every export is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from edgeprune.errors import ExportError

Array = npt.NDArray[np.generic]


def run_onnx(
    model: onnx.ModelProto, inputs: Sequence[torch.Tensor], watched: Sequence[str] | None = None
) -> list[Array]:
    """Run a graph once on the CPU; return its outputs, or the `watched` ones with nothing fused.

    Raises ExportError saying what ONNX Runtime refused.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if watched is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        names = [end.name for end in session.get_inputs()]
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        outputs = session.run(watched, feed)
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise ExportError(f"ONNX Runtime refuses the graph: {error}") from error
    return [np.asarray(output) for output in outputs]
