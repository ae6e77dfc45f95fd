"""`edgeprune export`: one network as one file format, compared with PyTorch where this machine can run the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import registry
from edgeprune.bench.target import Target, list_families, load_target
from edgeprune.errors import UnknownNameError
from edgeprune.listing import Answer
from edgeprune.network.stand_in import samples_of
from edgeprune.run.building import BuildOrder, Built, build_verified
from edgeprune.run.precision import check_precision

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeprune.progress import Progress
    from edgeprune.run.building import Arrays


@dataclass(frozen=True)
class Wanted:
    """What an export is for: a format or an engine, a precision, and real inputs where that needs them."""

    to: str
    precision: str = "fp32"
    calibration: Sequence[Arrays] = ()


def export_to(
    network: nn.Module, inputs: tuple[torch.Tensor, ...], wanted: Wanted, out: Path, progress: Progress
) -> Answer:
    """Write the network to `out` for an engine and prove it on `inputs`; the first of them is one inference.

    Raises UnknownNameError for what nothing here builds, UsageError for a precision that the engine does not have,
    ExportError, BuildError or VerificationError.
    """
    target = check_precision(_target_that_runs(wanted.to), wanted.precision)
    runtime = registry.load("runtimes", target.runtime)()
    order = BuildOrder(
        target=target,
        runtime=runtime,
        example_inputs=tuple(tensor[:1] for tensor in inputs),
        samples=samples_of(inputs, 1),
        calibration=wanted.calibration,
        not_run_because=runtime.unavailable(),
    )
    built = build_verified(network, order, out, progress)
    return Answer(_data(built), _text(built))


def _data(built: Built) -> dict[str, object]:
    proofs = [asdict(proof) for proof in built.proofs]
    return {
        "files": [str(path) for path in built.files],
        "size_bytes": built.size_bytes,
        "macs": built.macs,
        "parameters": built.parameters,
        "proof": proofs[-1] if proofs else None,
        "proofs": proofs,
        "not_run_because": built.not_run_because,
        "warnings": list(built.warnings),
    }


def _text(built: Built) -> str:
    lines = [
        f"{built.artifact}: {built.size_bytes / 1e6:.2f} MB, {built.macs / 1e6:.1f} M MACs, "
        f"{built.parameters:,} parameters"
    ]
    for proof in built.proofs:
        noise = "" if proof.snr_db is None else f", {proof.snr_db:.1f} dB below the output"
        same = "" if proof.top1_agreement is None else f", the same class on {proof.top1_agreement:.1%}"
        lines.append(f"{proof.what}: largest difference {proof.max_abs:.2g}{noise}{same} of {proof.samples} samples")
    if built.not_run_because:
        lines.append(f"not run on the target: {built.not_run_because}")
    return "\n".join([*lines, *built.warnings])


def _target_that_runs(to: str) -> Target:
    """Return a target of this machine whose engine has that name, or reads that format, at full precision."""
    targets = [load_target(entry.name) for entry in list_families().values() if not entry.problem]
    reached = [found for found in targets if not registry.load("transports", found.transport).needs_address]
    here = [replace(found, precision="fp32") for found in reached if found.kind == "real"]
    local = {registry.load("runtimes", found.runtime).format: found for found in reversed(here)}
    local |= {found.runtime: found for found in here}
    if to not in local:
        raise UnknownNameError("format or engine", to, local)
    return local[to]
