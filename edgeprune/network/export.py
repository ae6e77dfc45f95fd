"""Writes a network as `model.pt2` and `model.onnx`, and proves that both hold the network that went in."""

from __future__ import annotations

import copy
import io
import tempfile
import warnings as python_warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgeprune.errors import ExportError, VerificationError
from edgeprune.files import replacing, storage_error
from edgeprune.network.export_onnx import (
    EXPORTER_ERRORS,
    OnnxJob,
    first_line,
    write_onnx,
)
from edgeprune.network.onnx_run import run_onnx
from edgeprune.network.parameter_counts import ParameterCounts, count_parameters
from edgeprune.network.parity import check_parity
from edgeprune.network.simplify import simplify_onnx
from edgeprune.progress import Progress, Silent

PROGRAM_NAME = "model.pt2"
ONNX_NAME = "model.onnx"
SIMPLIFY_LIMIT_S = 60.0


@dataclass(frozen=True)
class Exported:
    """Both files of one network, and how they came about.

    `exported_program` is None where `torch.export` cannot follow the network; `rung` is the exporter that wrote the
    ONNX; inputs and outputs are called `input` and `output`, or `input_0`, `input_1`, ... where there are several.
    """

    exported_program: Path | None
    onnx: Path
    rung: str
    simplified: bool
    parameters: ParameterCounts
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def export_network(
    network: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    out_dir: Path,
    progress: Progress | None = None,
    simplify: bool = True,
) -> Exported:
    """Write `model.pt2` and `model.onnx` into `out_dir`, for exactly the shapes of `example_inputs`.

    A copy in eval mode on the CPU is exported, the network itself is untouched, and each file appears whole or not
    at all. `simplify=False` leaves out onnxsim; an engine that does not fold what it folds is slower then.
    Raises ExportError naming what could not be exported, VerificationError where the files hold other parameters.
    """
    progress = progress or Silent()
    inputs = tuple(tensor.detach().cpu() for tensor in example_inputs)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out_dir) as scratch, _quiet_exporters():
            exported = _export(_eval_copy(network), inputs, Path(scratch), simplify)
            exported = _publish(exported, out_dir)
    except OSError as error:
        raise storage_error(out_dir, error) from error
    for warning in exported.warnings:
        progress.say(warning)
    return exported


def save_exported_program(network: nn.Module, example_inputs: Sequence[torch.Tensor], path: Path) -> None:
    """Write a copy of the network in eval mode as a `.pt2` archive; the archive appears whole or not at all.

    Raises ExportError where torch.export cannot follow the network, StorageError when the disk refuses.
    """
    with _quiet_exporters():
        program, warnings = _trace(_eval_copy(network), tuple(tensor.detach().cpu() for tensor in example_inputs))
    if program is None:
        raise ExportError(" ".join(warnings))
    with replacing(path) as partial:
        _save_program(program, partial)


def _export(network: nn.Module, inputs: tuple[torch.Tensor, ...], out: Path, simplify: bool) -> Exported:
    with torch.no_grad():
        reference = tuple(tensor.numpy() for tensor in _tensors(network(*inputs)))
    program, warnings = _trace(network, inputs)
    job = OnnxJob(network, program, inputs, reference, _names("input", inputs), _names("output", reference))
    graph = write_onnx(job)
    counts = count_parameters(network, inputs, program, graph.parameters)
    if program is not None:
        _save_program(program, out / PROGRAM_NAME)
    onnx.save(graph.model, out / ONNX_NAME)
    problem = _simplify(job, out / ONNX_NAME) if simplify else ""
    if problem:
        warnings = (*warnings, f"model.onnx is not simplified: {problem}.")
    return Exported(
        exported_program=out / PROGRAM_NAME if program is not None else None,
        onnx=out / ONNX_NAME,
        rung=graph.rung,
        simplified=simplify and not problem,
        parameters=counts,
        input_names=job.input_names,
        output_names=job.output_names,
        warnings=(*warnings, *graph.warnings),
    )


def _publish(exported: Exported, out_dir: Path) -> Exported:
    """Move the finished files to their place; a program of an earlier export must not stay beside another's ONNX."""
    program = exported.exported_program
    if program is None:
        (out_dir / PROGRAM_NAME).unlink(missing_ok=True)
    else:
        program = program.replace(out_dir / PROGRAM_NAME)
    return replace(exported, exported_program=program, onnx=exported.onnx.replace(out_dir / ONNX_NAME))


def _eval_copy(network: nn.Module) -> nn.Module:
    duplicate = copy.deepcopy(network).cpu()
    # A module loaded from a .pt2 is in eval mode for good and refuses eval().
    return duplicate.eval() if any(module.training for module in duplicate.modules()) else duplicate


def _trace(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[ExportedProgram | None, tuple[str, ...]]:
    """Follow the network with `torch.export`, or say why it cannot be followed."""
    reasons = []
    for strict in (False, True):
        try:
            return torch.export.export(network, inputs, strict=strict), ()
        except EXPORTER_ERRORS as error:
            reasons.append(first_line(error))
    return None, (
        f"There is no model.pt2: torch.export cannot follow this network ({reasons[0]}). Control flow that depends "
        "on the values of tensors is frozen as these inputs take it.",
    )


def _save_program(program: ExportedProgram, path: Path) -> None:
    """Save without the stack traces, which hold the paths of the user's source files."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    # NOTE: torch ends the whole process when the disk is full; Python raises.
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def _simplify(job: OnnxJob, path: Path) -> str:
    """Replace the graph at `path` by its simplified form; return why it was kept as it is, or ""."""
    out = path.with_name("simplified.onnx")
    problem = simplify_onnx(path, out, SIMPLIFY_LIMIT_S)
    if problem:
        return problem
    try:
        outputs = run_onnx(onnx.load(out), job.inputs)
        check_parity(run_onnx(onnx.load(path), job.inputs), outputs, "simplified against unsimplified ONNX")
    except (*EXPORTER_ERRORS, VerificationError) as error:
        return first_line(error)
    out.replace(path)
    return ""


def _tensors(outputs: object) -> list[torch.Tensor]:
    """Return the tensors among a network's outputs, in the order in which exporters flatten them."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def _names(stem: str, ends: Sequence[object]) -> tuple[str, ...]:
    return (stem,) if len(ends) == 1 else tuple(f"{stem}_{index}" for index in range(len(ends)))


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Keep the exporters' notes to their own developers off the terminal."""
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        yield
