"""Draws the units of each cluster together until they are one and the same, and merges them without a loss.

Xiaohan Ding, Guiguang Ding, Yuchen Guo, Jungong Han: "Centripetal SGD for Pruning Very Deep Convolutional Networks
With Complicated Structure", CVPR 2019, https://arxiv.org/abs/1904.03837.

Task gradients are averaged over a cluster, and every member is pulled towards the mean: filters, biases, norms and
depthwise filters alike. All writers of a group follow the clusters of the first; behind a concatenation every group
has its own place in the norm. Deviations: the pull acts on the weights after the optimiser's step, so that it needs
no known momentum; it is the paper's or, in a shorter training, as strong as it takes for the distances to fall with
the tenth power of the steps that are left; norms are pulled as hard as filters, and running statistics with them.
Groups that cannot be merged without a loss (a norm runs across the units) are pruned instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import TrainingError, UnknownNameError
from edgeprune.methods._clusters import (
    KINDS,
    Averages,
    Clusters,
    averages,
    clusters_within,
    largest_distance,
    pacesetter,
)
from edgeprune.network.cutting import named_tensors
from edgeprune.network.groups import Allocation, Scores, Structure
from edgeprune.network.merging import cells, mergeable
from edgeprune.network.plan import ChannelEdit, MergeChannels, Plan
from edgeprune.network.reduction import over_mean
from edgeprune.network.selection import select_units

_STRENGTH = 3e-3 / (1 - 0.9)  # the paper's, per step and learning rate, at its momentum
_POWER = 10
_ALIKE = 1e-5


class CentripetalSgd(Method):
    """Importance = distance of a unit's filter to the nearest other one; trains clusters of units to be alike."""

    trains = True

    def __init__(self, clusters: str = "k-means") -> None:
        """Take how clusters are chosen, "k-means" or "even"; raises UsageError."""
        if clusters not in KINDS:
            raise UnknownNameError("kind of clusters", clusters, KINDS)
        self.kind = clusters
        self._clusters: dict[str, Clusters] = {}
        self._averages: tuple[Averages, ...] = ()
        self._context: Context | None = None
        self._pull = 0.0
        self._alike = False

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1."""
        weights = dict(context.network.named_parameters())
        return {group.name: _nearest(pacesetter(group, weights)) for group in context.structure.groups}

    def plan(self, structure: Structure, scores: Scores, allocation: Allocation) -> Plan:
        """Return the merges of the clusters once they are alike; before, and for other groups, what is pruned."""
        cuts = super().plan(structure, scores, allocation).cuts
        return Plan(tuple(self._merged(cut) if self._alike else cut for cut in cuts))

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Choose the clusters once and for all."""
        weights, scores = dict(context.network.named_parameters()), self.score(context)
        self._alike = False
        self._clusters = {}
        for group in context.structure.groups:
            kept = allocation.get(group.name, group.size)
            if kept < group.size and not mergeable(group):
                stay = frozenset(select_units(group, scores[group.name], kept))
                counts = {cell: len(stay.intersection(cell)) for cell in cells(group)}
                if all(counts.values()):
                    self._clusters[group.name] = clusters_within(pacesetter(group, weights), counts, self.kind)
        self._context = context
        self._averages = self._over_clusters()

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Set the strength of the pull; it is whole in the last steps."""
        self._pull = min(1.0, max(_STRENGTH * step.learning_rate, _POWER / (step.total - step.number)))

    def after_backward(self, network: nn.Module) -> None:
        """Give all members of a cluster the mean of their gradients."""
        parameters = dict(network.named_parameters())
        for average in self._averages:
            parameter = parameters.get(average.tensor)
            if parameter is not None and parameter.grad is not None:
                parameter.grad = average.of(parameter.grad)

    def after_step(self, network: nn.Module) -> None:
        """Pull all members of a cluster towards their mean."""
        tensors = named_tensors(network)
        with torch.no_grad():
            for average in self._averages:
                tensors[average.tensor].lerp_(average.of(tensors[average.tensor]), self._pull)

    def finish(self, context: Context) -> None:
        """Assert that the members of every cluster are alike; raises TrainingError where they are not."""
        distance = largest_distance(named_tensors(context.network), self._averages)
        if distance > _ALIKE:
            raise TrainingError(
                f"The units to be merged are still {distance:.2g} apart (allowed: {_ALIKE:g} of the largest weight). "
                "The training had fewer steps than it was to have; give it all of them."
            )
        self._alike = True

    def state_dict(self) -> dict[str, Any]:
        """Return the clusters."""
        return {"clusters": {name: [list(units) for units in clusters] for name, clusters in self._clusters.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved clusters."""
        self._clusters = {name: tuple(map(tuple, clusters)) for name, clusters in state["clusters"].items()}
        self._averages = self._over_clusters()

    def _over_clusters(self) -> tuple[Averages, ...]:
        if self._context is None:
            return ()
        groups, tensors = self._context.structure.groups, named_tensors(self._context.network)
        return tuple(
            average
            for group in groups
            if group.name in self._clusters
            for average in averages(group, self._clusters[group.name], tensors)
        )

    def _merged(self, cut: ChannelEdit) -> ChannelEdit:
        clusters = self._clusters.get(cut.group)
        return cut if clusters is None else MergeChannels(cut.group, clusters)


def _nearest(filters: torch.Tensor) -> tuple[float, ...]:
    """Return each unit's distance to the nearest other one, over the mean of the group."""
    distances = torch.cdist(filters, filters)
    return over_mean(distances.fill_diagonal_(torch.inf).min(1).values)
