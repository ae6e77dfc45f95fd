"""Writes ONNX down a ladder of exporters: the first whose graph is valid and computes what the network computes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import torch
from torch import nn
from torch.export import ExportedProgram

from edgeprune.errors import ExportError, VerificationError
from edgeprune.network.divergence import first_difference
from edgeprune.network.layer_names import name_by_layer
from edgeprune.network.onnx_run import Array, run_onnx
from edgeprune.network.parity import check_parity

# What exporters raise for a network that they do not support.
EXPORTER_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    onnx.checker.ValidationError,
    ExportError,
)
# The dynamo exporter writes this opset without converting; ONNX Runtime reads it since 1.14.
_OPSET = 18


@dataclass(frozen=True)
class OnnxJob:
    """One network in eval mode on the CPU, what it gave for `inputs`, and the stable names of its ends."""

    network: nn.Module
    program: ExportedProgram | None
    inputs: tuple[torch.Tensor, ...]
    reference: tuple[Array, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


@dataclass(frozen=True)
class OnnxGraph:
    """A checked graph; `parameters` counts the elements of each network parameter found before any folding."""

    model: onnx.ModelProto
    rung: str
    parameters: Mapping[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Draft:
    model: onnx.ModelProto
    parameters: Mapping[str, int]
    program: ExportedProgram | None = None  # whose node names the graph's values carry


def write_onnx(job: OnnxJob) -> OnnxGraph:
    """Try the rungs in order; raises ExportError with every rung's reason when none is left."""
    reasons = []
    for rung, write in _ladder(job):
        try:
            draft = write(job)
            onnx.checker.check_model(draft.model, full_check=True)
            _prove(job, draft)
        except (*EXPORTER_ERRORS, VerificationError) as error:
            reasons.append(f"{rung}: {first_line(error)}")
            continue
        name_by_layer(draft.model)
        return OnnxGraph(draft.model, rung, draft.parameters, tuple(f"ONNX export by {reason}" for reason in reasons))
    raise ExportError("No ONNX exporter could write this network. " + ". ".join(reasons))


def first_line(error: BaseException) -> str:
    """Return the part of an exporter's message that a person can use."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def _ladder(job: OnnxJob) -> list[tuple[str, Callable[[OnnxJob], _Draft]]]:
    rungs: list[tuple[str, Callable[[OnnxJob], _Draft]]] = []
    if job.program is not None:
        rungs.append((f"dynamo, opset {_OPSET}", partial(_dynamo, job.program)))
    rungs += [(f"torchscript, opset {opset}", partial(_torchscript, opset)) for opset in (18, 17, 13, 11)]
    return rungs


def _prove(job: OnnxJob, draft: _Draft) -> None:
    try:
        check_parity(job.reference, run_onnx(draft.model, job.inputs), "ONNX against PyTorch")
    except VerificationError as error:
        place = first_difference(draft.program, draft.model, job.inputs) if draft.program else None
        if place is None:
            raise
        raise VerificationError(f"{error} First at {place}.") from error


def _dynamo(program: ExportedProgram, job: OnnxJob) -> _Draft:
    written = torch.onnx.export(
        program,
        job.inputs,
        dynamo=True,
        verbose=False,
        optimize=False,  # the parameters are counted before batch norms are folded
        opset_version=_OPSET,
        input_names=list(job.input_names),
        output_names=list(job.output_names),
    )
    if written is None:
        raise ExportError("The exporter returned nothing.")
    initialisers = written.model.graph.initializers
    found = {name: value.const_value.size for name, value in initialisers.items() if value.const_value is not None}
    written.optimize()
    return _Draft(written.model_proto, _parameters_in(job.network, found), written.exported_program)


def _torchscript(opset: int, job: OnnxJob) -> _Draft:
    buffer = io.BytesIO()
    torch.onnx.export(
        job.network,
        job.inputs,
        buffer,  # type: ignore[arg-type]  # the TorchScript exporter writes to open files too
        dynamo=False,
        verbose=False,
        opset_version=opset,
        input_names=list(job.input_names),
        output_names=list(job.output_names),
        # PRESERVE and no folding keep batch norms and the parameters' names; simplifying folds them later.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    model = onnx.load_from_string(buffer.getvalue())
    found = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    return _Draft(model, _parameters_in(job.network, found))


def _parameters_in(network: nn.Module, found: Mapping[str, int]) -> Mapping[str, int]:
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    return {name: found[name] for name in names if name in found}
