"""The proof of a whole plan: every stage of it is compared with what the network before it must compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edgeprune.errors import VerificationError
from edgeprune.network.cutting import copied
from edgeprune.network.equivalence import (
    TOLERANCE,
    EquivalenceReport,
    check_masked_equivalence,
    output_difference,
    parameter_count,
)
from edgeprune.network.factorisation.layers import Choice, checked_rank, choose, composed_weight
from edgeprune.network.plan import Factorize, Plan
from edgeprune.network.surgery import apply


def check_plan(original: nn.Module, cut: nn.Module, plan: Plan, example_inputs: Any) -> EquivalenceReport:
    """Prove that a network is what a plan leaves of another; raises VerificationError.

    Removed channels are compared with the masked network, factorised layers with the weights that their chains
    amount to; what lies between two stages is made again for it.
    """
    stages, network, reports = plan.stages(), original, []
    for place, stage in enumerate(stages, start=1):
        after = cut if place == len(stages) else apply(stage, network, example_inputs, via="auto")
        if stage.factorisations:
            reports.append(check_low_rank_equivalence(network, after, stage.factorisations, example_inputs))
        else:
            reports.append(check_masked_equivalence(network, after, stage, example_inputs))
        network = after
    return _together(reports)


def _together(reports: Sequence[EquivalenceReport]) -> EquivalenceReport:
    """One report on all stages: the largest difference, and every group that could not be compared exactly."""
    merged = [report.merge_difference for report in reports if report.merge_difference is not None]
    differences = [report.largest_difference for report in reports if report.largest_difference is not None]
    return EquivalenceReport(
        exact=all(report.exact for report in reports),
        largest_difference=max(differences, default=None),
        parameters_before=reports[0].parameters_before,
        parameters_after=reports[-1].parameters_after,
        parameters_expected=reports[-1].parameters_expected,
        inexact_groups=tuple(name for report in reports for name in report.inexact_groups),
        merge_difference=max(merged, default=None),
    )


def check_low_rank_equivalence(
    before: nn.Module, after: nn.Module, edits: Sequence[Factorize], example_inputs: Any
) -> EquivalenceReport:
    """Compare a factorised network with the one before, given the weights that its chains amount to, in float64.

    Raises VerificationError where they differ, or where the parameters are not those of the ranks.
    """
    dense = copied(before)
    layers, chains = dict(dense.named_modules()), dict(after.named_modules())
    expected = parameter_count(before)
    with torch.no_grad():
        for edit in edits:
            choice = choose(before, edit.layer, edit.scheme)
            expected += _added_parameters(choice, edit)
            weight = composed_weight(chains[edit.layer].children(), choice.layer)
            layers[edit.layer]._parameters["weight"] = nn.Parameter(weight)
    count = parameter_count(after)
    if count != expected:
        raise VerificationError(
            f"The factorised network has {count} parameters where the ranks of the plan leave {expected}."
        )
    difference = output_difference(dense, after, example_inputs)
    if difference is not None and not difference <= TOLERANCE:
        raise VerificationError(
            f"The factorised network differs from the one with its low-rank weights by {difference:.3g} of the largest "
            f"output (allowed: {TOLERANCE:g}) after factorising {', '.join(edit.layer for edit in edits)}."
        )
    return EquivalenceReport(True, difference, parameter_count(before), count, expected)


def _added_parameters(choice: Choice, edit: Factorize) -> int:
    """What a chain has more than its layer, worked out from widths alone; usually below zero."""
    ranks, sizes = checked_rank(choice, edit.rank), choice.sizes
    total = 0
    for part in choice.scheme.parts:
        inputs, outputs = choice.scheme.widths(part, sizes, ranks)
        window = [sizes[2 + axis] for axis in part.axes]
        pairs = inputs if part.apart else inputs * outputs
        for side in window:
            pairs *= side
        total += pairs * choice.groups
    return total - choice.layer.weight.numel()
