"""Clusters of units that a training makes alike: how they are chosen, and how their members are averaged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.cluster.vq import kmeans2

from edgeprune.network.groups import Group, Slice
from edgeprune.network.reduction import unit_rows

Clusters = tuple[tuple[int, ...], ...]


def even_clusters(size: int, count: int) -> Clusters:
    """Divide the units in their order into `count` runs whose lengths differ by at most one."""
    return tuple(tuple(run.tolist()) for run in np.array_split(np.arange(size), count))


def k_means_clusters(rows: torch.Tensor, count: int) -> Clusters:
    """Divide units (size, numbers) into exactly `count` clusters by k-means, begun from rows that lie far apart."""
    distances = torch.cdist(rows, rows)
    starts = _far_apart(distances, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster is dealt with below
        found = kmeans2(rows.numpy(), rows[starts].numpy(), minit="matrix")[1].tolist()
    if len(set(found)) < count:  # where rows are equal
        for number, start in enumerate(starts):
            found[start] = number
    return tuple(tuple(unit for unit, own in enumerate(found) if own == number) for number in range(count))


KINDS: Mapping[str, Callable[[torch.Tensor, int], Clusters]] = {
    "k-means": k_means_clusters,
    "even": lambda rows, count: even_clusters(len(rows), count),
}


def clusters_within(filters: torch.Tensor, counts: Mapping[tuple[int, ...], int], kind: str) -> Clusters:
    """Divide each set of units into so many clusters of a kind; `filters` (units, numbers) are those of all units."""
    clusters = []
    for units, count in counts.items():
        for places in KINDS[kind](filters[list(units)], count):
            clusters.append(tuple(units[place] for place in places))
    return tuple(clusters)


def _far_apart(distances: torch.Tensor, count: int) -> list[int]:
    chosen = [int(distances.sum(1).argmax())]
    nearest = distances[chosen[0]].clone()
    while len(chosen) < count:
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distances[chosen[-1]])
    return chosen


def pacesetter(group: Group, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the filters of the layer that writes a group first (units, numbers), of several where none writes all."""
    writers = [piece for piece in group.slices if piece.role == "writer" and piece.tensor in weights]
    kernels = [piece for piece in writers if weights[piece.tensor].dim() > 1] or writers
    whole = [piece for piece in kernels if all(piece.index)][:1]
    return torch.cat([unit_rows(weights[piece.tensor], piece) for piece in whole or kernels], 1)


class Averages:
    """The mean over each cluster along one dimension of a tensor; positions outside of clusters keep their own."""

    def __init__(self, piece: Slice, clusters: Clusters, length: int) -> None:
        """Give the members of a cluster, position by position, one number."""
        self.tensor = piece.tensor
        self.dim = piece.dim
        number_of = list(range(length))
        for first, *others in clusters:
            for unit in others:
                for position, own in zip(piece.index[first], piece.index[unit], strict=True):
                    number_of[own] = position
        self._number_of = torch.tensor(number_of)
        self._counts = torch.bincount(self._number_of, minlength=length).clamp(min=1)

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the same shape, each replaced by the mean of its cluster, to the same bits in all of it."""
        numbers, counts = self._number_of.to(values.device), self._counts.to(values.device)
        shape = [-1 if dim == self.dim % values.dim() else 1 for dim in range(values.dim())]
        sums = torch.zeros_like(values).index_add(self.dim, numbers, values)
        return (sums / counts.reshape(shape)).index_select(self.dim, numbers)


def averages(group: Group, clusters: Clusters, tensors: Mapping[str, torch.Tensor]) -> tuple[Averages, ...]:
    """Return the averages over all that makes the units of a group: filters, biases, norms and their statistics."""
    makers: Sequence[Slice] = [piece for piece in group.slices if piece.role != "reader"]
    return tuple(Averages(piece, clusters, tensors[piece.tensor].shape[piece.dim]) for piece in makers)


def largest_distance(tensors: Mapping[str, torch.Tensor], along: Sequence[Averages]) -> float:
    """Return how far a member is from the mean of its cluster at most, over the largest value of the tensor."""
    found = 0.0
    for average in along:
        values = tensors[average.tensor].detach()
        largest = float(values.abs().max())
        if largest > 0:
            found = max(found, float((values - average.of(values)).abs().max()) / largest)
    return found
