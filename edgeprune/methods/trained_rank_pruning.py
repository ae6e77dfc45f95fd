"""Trains layers to a low rank, so that nothing is lost when they are factorised.

Yuhui Xu, Yuxi Li, Shuai Zhang, Wei Wen, Botao Wang, Yingyong Qi, Yiran Chen, Weiyao Lin, Hongkai Xiong: "TRP: Trained
Rank Pruning for Efficient Deep Neural Networks", IJCAI 2020, https://arxiv.org/abs/2004.14566.

Deviations: the rank of a layer is the one that the controller allocated, where the paper takes the smallest that keeps
a part of the energy (`energy`); the sub-gradient of the last projection acts at every step, as the paper's formula
has it, where its code adds it at projections only; strided layers are factorised, too; a window of one pixel, which
the paper leaves alone for small networks, is split by channels. The eigenvectors of the smaller Gram matrix stand for
the singular vectors, all layers of one shape at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UsageError
from edgeprune.methods._lowrank import UNFOLDINGS, energy_spectrum, project, rank_at, ranks_of, tensors_of
from edgeprune.network.factorisation.layers import choose
from edgeprune.network.factorisation.units import rank_scores
from edgeprune.network.groups import Allocation, Scores, Structure


@dataclass(frozen=True)
class _Held:
    """A layer that is held at a rank; `shape` is that of its weight by channel group."""

    layer: str
    scheme: str
    rank: int
    shape: tuple[int, ...]

    def matrices(self, network: nn.Module) -> torch.Tensor:
        weight: torch.Tensor = network.get_parameter(f"{self.layer}.weight")
        return UNFOLDINGS[self.scheme].unfold(weight.detach().reshape(self.shape))

    def folded(self, matrices: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return UNFOLDINGS[self.scheme].fold(matrices, self.shape).reshape(like.shape)


class TrainedRankPruning(Method):
    """Importance = part of the energy in a singular value; training projects every few steps to the kept ranks."""

    trains = True

    def __init__(
        self, scheme: str = "spatial", interval: int = 20, strength: float = 3e-4, energy: float | None = None
    ) -> None:
        """Take the scheme, the steps from one projection to the next, and the weight of the nuclear norm.

        With `energy` every layer is held at the smallest rank that keeps this part of its energy, but at no lower one
        than allocated. Raises UsageError.
        """
        if scheme not in UNFOLDINGS:
            raise UsageError(f"Ranks are not trained for the scheme {scheme!r}; one of {', '.join(UNFOLDINGS)}.")
        if interval < 1 or strength < 0 or not (energy is None or 0 < energy <= 1):
            raise UsageError(
                f"The method trained-rank-pruning needs an interval of 1 step or more, a strength of 0 or more and an "
                f"energy up to 1, not {interval}, {strength} and {energy}."
            )
        self.scheme, self.interval, self.strength, self.energy = scheme, interval, strength, energy
        self._batches: list[list[_Held]] = []  # layers whose matrices have one shape
        self._steep: dict[str, torch.Tensor] = {}

    def units(self, context: Context) -> Structure:
        """Return the ranks of the layers."""
        return ranks_of(context, self.scheme, energy_spectrum)

    def score(self, context: Context) -> Scores:
        """Score every rank by its part of its layer's energy."""
        return rank_scores(context.structure, context.network, energy_spectrum)

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Pick the layers that will be factorised, and their ranks."""
        batches: dict[tuple[int, ...], list[_Held]] = defaultdict(list)
        for found in context.structure.factorisations:
            kept = allocation.get(found.group, len(found.ranks))
            if kept < len(found.ranks) or self.energy is not None:
                choice = choose(context.network, found.layer, found.scheme)
                rank = found.ranks[kept - 1][0] if kept < len(found.ranks) else 1
                held = _Held(found.layer, found.scheme, rank, (choice.groups, *choice.sizes))
                batches[tuple(held.matrices(context.network).shape[1:])].append(held)
        self._batches = list(batches.values())
        self._steep = {}

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Project the weights at the first step and every few steps after it."""
        if step.number % self.interval:
            return
        for batch in self._batches:
            matrices = [held.matrices(network) for held in batch]
            counts = [len(one) for one in matrices]
            least = torch.tensor([held.rank for held, count in zip(batch, counts, strict=True) for _ in range(count)])
            ranks = least if self.energy is None else least.maximum(rank_at(self.energy, torch.cat(matrices)).cpu())
            projected = project(torch.cat(matrices), ranks)
            lows, steeps = projected.matrices.split(counts), projected.subgradient.split(counts)
            with torch.no_grad():
                for held, low, steep in zip(batch, lows, steeps, strict=True):
                    weight = network.get_parameter(f"{held.layer}.weight")
                    weight.copy_(held.folded(low, weight))
                    self._steep[held.layer] = held.folded(steep, weight).clone()

    def after_backward(self, network: nn.Module) -> None:
        """Add the sub-gradient of the nuclear norms."""
        for name, steep in self._steep.items():
            gradient = network.get_parameter(f"{name}.weight").grad
            if gradient is not None:
                gradient += self.strength * steep

    def state_dict(self) -> dict[str, Any]:
        """Return the sub-gradients; the rest follows from the network as it came."""
        return {"steep": dict(self._steep)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved sub-gradients."""
        self._steep = tensors_of(state["steep"])
