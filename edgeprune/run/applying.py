"""`edgeprune apply`: a plan replayed on the original weights, proven, and written without pickles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.files import replacing
from edgeprune.listing import Answer
from edgeprune.network.counting import count_macs, count_parameters
from edgeprune.network.export import save_exported_program
from edgeprune.network.proof import check_plan
from edgeprune.network.surgery import apply
from edgeprune.network.weights import save_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeprune.network.plan import Plan


def apply_to_file(plan: Plan, network: nn.Module, inputs: tuple[torch.Tensor, ...], out: Path) -> Answer:
    """Cut, compare with the masked original, and write the network (.pt2) or its weights (.safetensors) to `out`.

    Raises PlanError for a plan that does not fit the network, VerificationError, ExportError or StorageError.
    """
    cut = apply(plan, network, inputs, via="auto")
    report = check_plan(network, cut, plan, inputs)
    if out.suffix == ".safetensors":
        with replacing(out) as partial:
            save_weights(cut, partial)
    else:
        save_exported_program(cut, inputs, out)
    macs, parameters = count_macs(cut, inputs), count_parameters(cut)
    data = {
        "file": str(out),
        "macs": macs,
        "parameters": parameters,
        "largest_difference": report.largest_difference,
        "merge_difference": report.merge_difference,
        "exact": report.exact,
    }
    text = (
        f"{out}: {macs / 1e6:.1f} M MACs, {parameters:,} parameters\n"
        f"masked equivalence of the cut: {_difference(report.largest_difference)}"
    )
    if report.merge_difference is not None:
        text += f"\nmerging units that are alike: largest difference {report.merge_difference:.2g}"
    return Answer(data, text)


def _difference(largest: float | None) -> str:
    return "shapes and counts only" if largest is None else f"largest difference {largest:.2g}"
