"""Methods that factorise: spectra, projections, ranks of variational Bayes, and training towards a rank."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from small_networks import Plain, Residual, randomise
from torch import nn
from torch.nn import functional as F

from edgeprune import registry
from edgeprune.contracts import Context
from edgeprune.errors import UsageError
from edgeprune.methods._lowrank import UNFOLDINGS, project, rank_at
from edgeprune.methods.trained_rank_pruning import TrainedRankPruning
from edgeprune.methods.tucker import evbmf_rank
from edgeprune.network.plan import Factorize
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)
METHODS = ["trained-rank-pruning", "spatial-svd", "tucker", "cp"]


def context_of(method, network: nn.Module) -> Context:
    context = Context(network, INPUTS, network_structure(network, INPUTS), None, 0)
    return replace(context, structure=method.units(context))


@pytest.mark.parametrize("scheme", UNFOLDINGS)
def test_unfolding_is_undone(scheme):
    weight = torch.randn(2, 4, 3, 5, 3)
    unfolding = UNFOLDINGS[scheme]
    assert torch.equal(unfolding.fold(unfolding.unfold(weight), tuple(weight.shape)), weight)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.data())
def test_a_projection_is_the_truncated_svd(rows, columns, seed, data):
    matrices = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ranks = torch.tensor(data.draw(st.lists(st.integers(1, min(rows, columns)), min_size=3, max_size=3)))
    found = project(matrices, ranks)
    for matrix, rank, low, steep in zip(matrices, ranks, found.matrices, found.subgradient, strict=True):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        assert torch.allclose(low, (left[:, :rank] * values[:rank]) @ right[:rank], atol=1e-6)
        assert torch.allclose(steep, left[:, :rank] @ right[:rank], atol=1e-4)


def test_a_matrix_that_is_not_finite_stays_and_pushes_nothing():
    matrices = torch.randn(2, 4, 6)
    matrices[0, 1, 1] = torch.nan
    found = project(matrices, torch.tensor([2, 2]))
    assert torch.equal(found.matrices[0].isnan(), matrices[0].isnan())
    assert torch.equal(found.subgradient[0], torch.zeros(4, 6))
    assert int(torch.linalg.matrix_rank(found.matrices[1], rtol=1e-4)) == 2


def test_a_matrix_without_eigenvalues_stays_and_the_others_are_truncated(monkeypatch):
    matrices = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    found = torch.linalg.eigh

    def fails_on_the_second(products: torch.Tensor):
        if any(torch.allclose(one.float(), (matrices[1] @ matrices[1].T), atol=1e-4) for one in products):
            raise torch._C._LinAlgError("linalg.eigh: did not converge")
        return found(products)

    monkeypatch.setattr(torch.linalg, "eigh", fails_on_the_second)
    projected = project(matrices, torch.tensor([2, 2, 3]))
    assert torch.equal(projected.matrices[1], matrices[1])
    assert torch.equal(projected.subgradient[1], torch.zeros(4, 6))
    assert [int(torch.linalg.matrix_rank(projected.matrices[one], rtol=1e-4)) for one in (0, 2)] == [2, 3]


@pytest.mark.parametrize("energy", [None, 0.8])
def test_a_weight_that_is_not_finite_does_not_stop_a_training_step(energy):
    network = randomise(Residual(12))
    method = TrainedRankPruning("channel", interval=1, energy=energy)
    context = context_of(method, network)
    shaping = Shaping(method, context, {group.name: group.counts[0] for group in context.structure.groups}, 1)
    broken, sound = (network.get_parameter(f"blocks.{block}.conv1.weight") for block in (0, 1))
    with torch.no_grad():
        broken[0, 0, 0, 0] = torch.nan
    before = broken.detach().clone()
    shaping.before_step(0.1)
    assert torch.equal(broken.nan_to_num(), before.nan_to_num())
    assert int(torch.linalg.matrix_rank(sound.detach().flatten(1), rtol=1e-4)) < 12


def test_the_rank_at_an_energy_is_the_smallest_that_keeps_it():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0]))[None]
    assert [int(rank_at(energy, matrix)) for energy in (0.5, 9 / 14 + 0.01, 13 / 14 + 0.01, 1.0)] == [1, 2, 3, 3]


@pytest.mark.parametrize("rank", [2, 6])
@pytest.mark.parametrize("shape", [(30, 90), (90, 30)])
def test_variational_bayes_finds_the_rank_under_noise(rank, shape):
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.randn(size, generator=generator) for size in ((shape[0], rank), (rank, shape[1])))
    noise = torch.randn(shape, generator=generator)
    assert evbmf_rank(left @ right + noise) == rank
    assert evbmf_rank(noise) == 0


@pytest.mark.parametrize("name", METHODS)
def test_every_rank_between_the_first_and_the_last_layer_is_a_unit(name):
    method = registry.load("methods", name)()
    context = context_of(method, randomise(Residual(12)))
    layers = {found.layer for found in context.structure.factorisations}
    assert layers == {f"blocks.{block}.conv{conv}" for block in (0, 1) for conv in (1, 2)}
    for group in context.structure.groups:
        scores = method.score(context)[group.name]
        assert group.kind == "rank"
        assert list(scores) == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1.0, abs=1e-6) or name == "tucker"


@pytest.mark.parametrize("name", METHODS)
def test_a_layer_without_singular_values_stays_whole_and_is_reported(name):
    network = randomise(Residual(12))
    with torch.no_grad():
        network.blocks[0].conv2.weight[0, 0, 0, 0] = torch.nan
    structure = context_of(registry.load("methods", name)(), network).structure
    assert "blocks.0.conv2" not in {found.layer for found in structure.factorisations}
    (left,) = (item for item in structure.quarantined if item.operation == "factorise")
    assert (left.name, left.reason) == ("blocks.0.conv2", "its weight is not finite")


@pytest.mark.parametrize("name", METHODS)
def test_layers_whose_singular_values_are_not_found_stay_whole_and_are_reported(name, monkeypatch):
    def fail(*_, **__):
        raise torch._C._LinAlgError("linalg.svd: did not converge")

    def fail_too(*_, **__):
        raise linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(torch.linalg, "svdvals", fail)
    monkeypatch.setattr(linalg, "svd", fail_too)
    structure = context_of(registry.load("methods", name)(), randomise(Residual(12))).structure
    assert not structure.factorisations
    reasons = {item.reason for item in structure.quarantined if item.operation == "factorise"}
    assert reasons == {"its singular values were not found (SVD did not converge)"}


def _trained(method: TrainedRankPruning, network: nn.Module, steps: int) -> tuple[Context, dict[str, int]]:
    """A plain regression of the network's own answers, with the hooks of the method."""
    context = context_of(method, network)
    allocation = {group.name: group.counts[len(group.counts) // 2 - 1] for group in context.structure.groups}
    teacher = copy.deepcopy(network)
    shaping = Shaping(method, context, allocation, steps)
    optimiser = torch.optim.SGD(network.parameters(), 0.02, 0.9)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        x = torch.randn(16, 3, 8, 8, generator=generator)
        shaping.before_step(group["lr"])
        optimiser.zero_grad()
        F.mse_loss(network(x), teacher(x).detach()).backward()
        shaping.after_backward()
        optimiser.step()
        shaping.after_step()
    shaping.finish()
    return context, allocation


def _loss(network: nn.Module, teacher: nn.Module) -> float:
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return float(F.mse_loss(network(x), teacher(x)))


@pytest.mark.parametrize("scheme", ["channel", "spatial", "decoupled"])
def test_training_leaves_next_to_nothing_to_lose_at_the_factorisation(scheme):
    original = randomise(Plain())
    network = copy.deepcopy(original)
    method = TrainedRankPruning(scheme, interval=5)
    context, allocation = _trained(method, network, 120)
    plan = method.plan(context.structure, method.score(context), allocation)
    assert all(isinstance(edit, Factorize) for edit in plan.edits)
    assert plan.edits
    direct = _loss(apply(plan, original, INPUTS), original)
    before, after = _loss(network, original), _loss(apply(plan, network, INPUTS), original)
    assert after < 1.05 * before + 1e-4
    assert after < 0.7 * direct


def test_an_energy_alone_holds_every_layer_at_the_rank_that_keeps_it():
    network = randomise(Plain())
    method = TrainedRankPruning("channel", interval=1, strength=0.0, energy=0.8)
    context = context_of(method, network)
    shaping = Shaping(method, context, {}, 1)
    (found,) = context.structure.factorisations
    weight = network.get_parameter(f"{found.layer}.weight")
    wanted = int(rank_at(0.8, weight.detach().flatten(1)[None]))
    shaping.before_step(0.1)
    assert int(torch.linalg.matrix_rank(weight.detach().flatten(1), rtol=1e-4)) == wanted < len(found.ranks)


@pytest.mark.parametrize("wrong", [{"scheme": "tucker-2"}, {"interval": 0}, {"strength": -1.0}, {"energy": 1.5}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        TrainedRankPruning(**wrong)
