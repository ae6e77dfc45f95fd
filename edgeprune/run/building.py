"""Turns a network into a file that a target loads, and compares what it answers there with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.bench.measure import run_on_target
from edgeprune.contracts import BuildRequest, Outcome, Runtime
from edgeprune.errors import BuildError
from edgeprune.network.activations import activation_bytes
from edgeprune.network.counting import count_macs, count_parameters
from edgeprune.network.export import Exported, export_network
from edgeprune.network.onnx_run import run_samples
from edgeprune.network.parity import check_parity
from edgeprune.verdict.result import Proof

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from edgeprune.bench.measurement import Measurement
    from edgeprune.bench.target import Target
    from edgeprune.progress import Progress

    Array = np.ndarray[Any, Any]
    Arrays = tuple[Array, ...]


@dataclass(frozen=True)
class BuildOrder:
    """What to build for: the target, its engine, the inputs of one inference, real samples.

    `samples` prove the artifact; `calibration` gives a precision its ranges. `not_run_because` is why the artifact
    cannot be run on the target, "" where it can.
    """

    target: Target
    runtime: Runtime
    example_inputs: tuple[torch.Tensor, ...]
    samples: Sequence[Arrays]
    simplify: bool = True
    calibration: Sequence[Arrays] = ()
    not_run_because: str = ""


@dataclass(frozen=True)
class Built:
    """A network as a file the target can load, with the proof that it still computes the same there."""

    artifact: Path
    files: tuple[Path, ...]  # the artifact and both exports
    size_bytes: int
    macs: int
    parameters: int
    activation_bytes: int
    proofs: tuple[Proof, ...]
    simplified: bool
    warnings: tuple[str, ...]
    not_run_because: str = ""

    def outcome(self, measurement: Measurement, drift: float = 1.0, memory_bytes: int | None = None) -> Outcome:
        """Return what the network costs; `drift` divides out how much slower the board was than at the start."""
        low, high = measurement.latency_interval_ms
        return Outcome(
            latency_ms=measurement.latency_p50_ms / drift,
            latency_interval_ms=(low / drift, high / drift),
            size_bytes=self.size_bytes,
            macs=self.macs,
            parameters=self.parameters,
            memory_bytes=memory_bytes,
            activation_bytes=self.activation_bytes,
        )


def build_verified(network: nn.Module, order: BuildOrder, folder: Path, progress: Progress) -> Built:
    """Export a network into `folder`, build it for the target, and compare its outputs there with PyTorch's.

    Raises ExportError, BuildError or VerificationError.
    """
    exported = export_network(network, order.example_inputs, folder, progress, simplify=order.simplify)
    artifact = _build(exported, order, folder)
    files = dict.fromkeys(path for path in (exported.exported_program, exported.onnx, artifact) if path)
    return Built(
        artifact=artifact,
        files=tuple(files),
        size_bytes=artifact.stat().st_size,
        macs=count_macs(network, order.example_inputs),
        parameters=count_parameters(network),
        activation_bytes=activation_bytes(network, order.example_inputs),
        proofs=_proofs(network, artifact, order),
        simplified=exported.simplified,
        warnings=exported.warnings,
        not_run_because=order.not_run_because,
    )


def _build(exported: Exported, order: BuildOrder, folder: Path) -> Path:
    precision = order.target.precision
    label = "" if precision == "fp32" else f".{precision}"
    artifact = folder / f"model{label}.{order.runtime.format}"
    request = BuildRequest(
        exported_program=exported.exported_program,
        onnx=exported.onnx,
        samples=order.calibration,
        precision=precision,
        settings=order.target.engine_settings(),
    )
    try:
        order.runtime.build(request, artifact)
    except ValueError as error:
        raise BuildError(f"{order.target.runtime} refused the network: {error}") from error
    return artifact


def _proofs(network: nn.Module, artifact: Path, order: BuildOrder) -> tuple[Proof, ...]:
    """Compare the artifact with PyTorch, as the target runs it.

    A lowered ONNX is run by ONNX Runtime here as well, which tells a loss of precision from a fault of an engine.
    """
    target = order.target
    reference, by = _reference_outputs(network, order.samples), "PyTorch"
    proofs = []
    if artifact.suffix == ".onnx" and target.precision != "fp32":
        outputs = run_samples(artifact, order.samples)
        proofs.append(_compare(reference, outputs, f"{artifact.name} in ONNX Runtime here against {by}", target))
        reference, by = outputs, "ONNX Runtime here"
    if not order.not_run_because:
        outputs = run_on_target(artifact, target, order.samples)
        proofs.append(_compare(reference, outputs, f"{artifact.name} on {target.name} against {by}", target))
    return tuple(proofs)


def _compare(reference: Sequence[Array], outputs: Sequence[Array], what: str, target: Target) -> Proof:
    report = check_parity(reference, outputs, what, target.precision)
    return Proof(what, **asdict(report), exact=False)


def _reference_outputs(network: nn.Module, samples: Sequence[Arrays]) -> list[Array]:
    """Return each output of the network over all samples, in the order in which an export flattens them."""
    import numpy as np
    import torch
    from torch.utils import _pytree

    with torch.no_grad():
        rows = [_pytree.tree_leaves(network.eval()(*map(torch.from_numpy, sample))) for sample in samples]
    return [np.concatenate([output.numpy() for output in column]) for column in zip(*rows, strict=True)]
