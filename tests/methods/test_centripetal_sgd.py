"""Centripetal SGD: clusters, its step, and on real pictures that merging what it trained loses nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import picture_context, train_on_pictures
from small_networks import Plain, Residual, randomise
from torch import nn
from torch.nn import functional as F

from edgeprune.contracts import Context, Step
from edgeprune.errors import TrainingError, UnknownNameError
from edgeprune.methods._clusters import Averages, averages, even_clusters, k_means_clusters, largest_distance
from edgeprune.methods.centripetal_sgd import CentripetalSgd
from edgeprune.network.cutting import named_tensors
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.evaluation import evaluate
from edgeprune.network.groups import Slice
from edgeprune.network.plan import MergeChannels
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)


def context_of(network: nn.Module) -> Context:
    return Context(network, INPUTS, network_structure(network, INPUTS), None, 0)


@given(rows=st.integers(1, 12), count=st.integers(1, 12), kinds=st.integers(1, 4), seed=st.integers(0, 99))
def test_k_means_gives_exactly_so_many_clusters_even_of_equal_rows(rows, count, kinds, seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(kinds, 3, generator=generator, dtype=torch.float64)
    filters = points[torch.randint(0, kinds, (rows,), generator=generator)]
    clusters = k_means_clusters(filters, min(count, rows))
    assert len(clusters) == min(count, rows)
    assert all(clusters)
    assert sorted(unit for cluster in clusters for unit in cluster) == list(range(rows))


def test_k_means_finds_what_lies_together_and_even_clusters_are_runs():
    filters = torch.tensor([[0.0, 0], [9, 9], [0.1, 0], [5, 0], [9, 9.1]], dtype=torch.float64)
    assert set(k_means_clusters(filters, 3)) == {(0, 2), (1, 4), (3,)}
    assert even_clusters(8, 3) == ((0, 1, 2), (3, 4, 5), (6, 7))
    with pytest.raises(UnknownNameError, match="even"):
        CentripetalSgd(clusters="evenly")


def test_the_step_averages_gradients_and_pulls_every_tensor_of_a_cluster():
    network = randomise(Residual())
    method, context = CentripetalSgd(clusters="even"), context_of(network)
    method.prepare(context, {"stem": 4})
    before = {name: tensor.clone() for name, tensor in named_tensors(network).items()}
    cross = F.cross_entropy(network.train()(INPUTS[0]), torch.tensor([0, 3]))
    cross.backward()
    raw = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    statistics = network.norm.running_var.clone()
    method.before_step(network, Step(0, 100, 0.01))
    method.after_backward(network)
    method.after_step(network)
    pull = max(0.01 * 3e-3 / 0.1, 10 / 100)
    for name in ("stem.weight", "norm.weight", "norm.bias", "blocks.0.conv2.weight", "blocks.1.norm2.bias"):
        parameter = network.get_parameter(name)
        for first in range(0, 8, 2):
            mean = raw[name][first : first + 2].mean(0)
            assert torch.allclose(parameter.grad[first], mean, atol=1e-8)
            assert torch.equal(parameter.grad[first], parameter.grad[first + 1])
            own, centre = before[name][first], before[name][first : first + 2].mean(0)
            assert torch.allclose(parameter[first], own + pull * (centre - own), atol=1e-6)
    assert not torch.equal(network.norm.running_var, statistics)
    assert torch.equal(network.linear.weight.grad, raw["linear.weight"])
    assert torch.equal(network.blocks[0].conv1.weight, before["blocks.0.conv1.weight"])


def test_an_average_leaves_alone_what_is_in_no_cluster():
    piece = Slice("t", 1, "carrier", ((0, 3), (2, 1), (5, 6)))
    values = torch.arange(14.0).reshape(2, 7)
    averaged = Averages(piece, ((0, 1), (2,)), 7).of(values)
    assert averaged.tolist() == [[1, 2, 1, 2, 4, 5, 6], [8, 9, 8, 9, 11, 12, 13]]


def test_a_training_that_ends_early_is_not_merged():
    network = randomise(Plain())
    shaping = Shaping(CentripetalSgd(), context_of(network), {"conv1": 3}, steps=50)
    for _ in range(20):
        shaping.before_step(0.01)
        shaping.after_step()
    with pytest.raises(TrainingError, match=r"still .* apart .* all of them"):
        shaping.finish()


def test_saved_clusters_win_over_those_of_a_new_start():
    method, context = CentripetalSgd(clusters="even"), context_of(randomise(Plain()))
    method.prepare(context, {"conv1": 3})
    resumed = CentripetalSgd()
    resumed.prepare(context, {"conv1": 3})
    assert resumed.state_dict() != method.state_dict()
    resumed.load_state_dict(method.state_dict())
    assert resumed.state_dict() == method.state_dict()


@pytest.mark.data
def test_merging_after_training_on_real_pictures_changes_no_answer(data_folder):
    context = picture_context(data_folder)
    network, structure, inputs, data = context.network, context.structure, context.example_inputs, context.data
    allocation = {group.name: group.size - group.size * 3 // 8 for group in structure.groups}
    shaping = Shaping(CentripetalSgd(), context, allocation, steps=24)
    train_on_pictures(shaping)
    plan = shaping.plan()
    assert {edit.group: len(edit.keep) for edit in plan.edits} == allocation
    assert all(isinstance(edit, MergeChannels) for edit in plan.edits)
    clusters = {edit.group: edit.clusters for edit in plan.edits}
    tensors = named_tensors(network)
    along = [found for group in structure.groups for found in averages(group, clusters[group.name], tensors)]
    assert largest_distance(tensors, along) < 1e-5
    smaller = apply(plan, network, inputs)
    assert check_masked_equivalence(network, smaller, plan, inputs).merge_difference < 1e-5
    with torch.no_grad():
        pairs = [(network(images), smaller(images)) for images, _ in data.validation]
    assert max(float((before - after).abs().max()) for before, after in pairs) < 1e-4
    assert all(torch.equal(before.argmax(1), after.argmax(1)) for before, after in pairs)
    assert evaluate(smaller, data) == evaluate(network, data) > 0.2
