"""`edgeprune export`: one network as one file format, compared with PyTorch where this machine can run the file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import registry
from edgeprune.bench.target import Target, list_families, load_target
from edgeprune.errors import UnknownNameError
from edgeprune.listing import Answer
from edgeprune.run.building import BuildOrder, build_verified, samples_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeprune.progress import Progress


def export_to(network: nn.Module, inputs: tuple[torch.Tensor, ...], to: str, out: Path, progress: Progress) -> Answer:
    """Write the network to `out` in a format and prove it on `inputs`; the first of them is one inference.

    Raises UnknownNameError for a format that nothing here builds, ExportError, BuildError or VerificationError.
    """
    target = _target_that_runs(to)
    runtime = registry.load("runtimes", target.runtime)()
    example = tuple(tensor[:1] for tensor in inputs)
    order = BuildOrder(target, runtime, example, samples_of(inputs, 1), simplify=True)
    built = build_verified(network, order, out, progress)
    (proof,) = built.proofs
    text = (
        f"{built.artifact}: {built.size_bytes / 1e6:.2f} MB, {built.macs / 1e6:.1f} M MACs, "
        f"{built.parameters:,} parameters\n"
        f"{proof.what}: largest difference {proof.max_abs:.2g} on {proof.samples} samples"
    )
    data = {
        "files": [str(path) for path in built.files],
        "size_bytes": built.size_bytes,
        "macs": built.macs,
        "parameters": built.parameters,
        "proof": asdict(proof),
        "warnings": list(built.warnings),
    }
    return Answer(data, "\n".join([text, *built.warnings]))


def _target_that_runs(form: str) -> Target:
    """Return a target of this machine whose engine reads a format."""
    targets = [load_target(name) for name in list_families()]
    here = [found for found in targets if not registry.load("transports", found.transport).needs_address]
    local = {registry.load("runtimes", found.runtime).format: found for found in here}
    if form not in local:
        raise UnknownNameError("format", form, local)
    return local[form]
