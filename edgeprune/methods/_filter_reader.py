"""A small network that reads the filters of a group and says of each unit whether it should stay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.contracts import Context
from edgeprune.network.groups import Group
from edgeprune.network.reduction import unit_rows

WIDTH = 32
_OPEN = 2.5  # the mean logit of the units at the start: 0.92 after a sigmoid
_LEAD, _LARGEST_LEAD = 0.8, 2.0  # per deviation of the norms, and deviations that count; all units are open at first

Filters = tuple[torch.Tensor, ...]  # of each writer of a group: (units, numbers), standardised


def filters_of(context: Context, group: Group) -> Filters:
    """Return the trained filters that write a group, each writer with mean 0 and deviation 1; biases left out."""
    weights = dict(context.network.named_parameters())
    writers = [piece for piece in group.slices if piece.role == "writer" and piece.tensor in weights]
    matrices = [piece for piece in writers if weights[piece.tensor].dim() > 1] or writers
    return tuple(_standardised(unit_rows(weights[piece.tensor], piece)) for piece in matrices)


class FilterReader(nn.Module):
    """Embeds every filter, sets it beside the mean of its layer, and answers with one logit a unit.

    A filter of a larger L1 norm has a lead: without any, the first gates to close would be those of a whole group.
    """

    def __init__(self, filters: Filters) -> None:
        """Start with every unit open; weights come from the global generator."""
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Linear(rows.shape[1], WIDTH) for rows in filters)
        self.mix = nn.Linear(2 * WIDTH, WIDTH)
        self.answer = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.answer.weight)
        nn.init.constant_(self.answer.bias, _OPEN)

    def forward(self, filters: Filters) -> torch.Tensor:
        """Filters of each writer (units, numbers) -> logits (units,), the mean over writers."""
        logits = []
        for embed, rows in zip(self.embeddings, filters, strict=True):
            own = F.relu(embed(rows))
            both = torch.cat([own, own.mean(0, keepdim=True).expand_as(own)], 1)
            logits.append(self.answer(F.relu(self.mix(both)))[:, 0] + _LEAD * _lead(rows))
        return torch.stack(logits).mean(0)


def new_readers(filters: Sequence[Filters], seed: int) -> list[FilterReader]:
    """Return a reader for each group, the same for the same seed, whatever the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [FilterReader(own) for own in filters]


def _lead(rows: torch.Tensor) -> torch.Tensor:
    norms = rows.abs().sum(1)
    return ((norms - norms.mean()) / norms.std(correction=0).clamp_min(1e-12)).clamp(-_LARGEST_LEAD, _LARGEST_LEAD)


def _standardised(rows: torch.Tensor) -> torch.Tensor:
    return ((rows - rows.mean()) / rows.std(correction=0).clamp_min(1e-12)).float()
