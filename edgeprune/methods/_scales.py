"""The scales of the norms that a unit passes through, which several methods train towards zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from edgeprune.contracts import Context, Step
from edgeprune.network.groups import Group, Scores
from edgeprune.network.reduction import Slot, norm_scales, weight_slots

_STEPS_OF_THE_PAPERS = 60_000
_HARDEST = 100.0

Weights = Mapping[str, torch.Tensor]


def harder(step: Step) -> float:
    """Return how many times harder a penalty pulls than in a training of about 60,000 steps; at most 100 times."""
    return min(_HARDEST, max(1.0, _STEPS_OF_THE_PAPERS / step.total))


def scale_slots(context: Context) -> dict[str, tuple[Slot, ...]]:
    """Return by group the scales of its norms, or the weights that write it where it has none."""
    parameters, scales = dict(context.network.named_parameters()), norm_scales(context.network)
    return {group.name: _slots(group, parameters, scales) for group in context.structure.groups}


def mean_scale(slots: tuple[Slot, ...], parameters: Weights) -> torch.Tensor:
    """Return the mean over slots of each unit's 2-norm (size,): |scale| of a norm, or the norm of a filter."""
    tiny = 1e-24  # the slope of a root at zero is infinite
    norms = [(slot.sums(parameters[slot.tensor].square()) + tiny).sqrt() for slot in slots]
    return torch.stack(norms).mean(0)


def scale_scores(context: Context) -> Scores:
    """Score every unit by its mean scale, on the one scale of the norms."""
    parameters = dict(context.network.named_parameters())
    return {name: tuple(mean_scale(slots, parameters).tolist()) for name, slots in scale_slots(context).items()}


def _slots(group: Group, parameters: Weights, scales: frozenset[str]) -> tuple[Slot, ...]:
    return weight_slots(group, scales, ("carrier",)) or weight_slots(group, parameters, ("writer",))
