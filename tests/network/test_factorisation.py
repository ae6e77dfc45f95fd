"""Factorised layers: exact at full rank, exact shapes below it, replayable, refused where it cannot be."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from small_networks import Residual, randomise
from torch import nn

import edgeprune as ep
from edgeprune.errors import PlanError, UnknownNameError, VerificationError
from edgeprune.network.factorisation.layers import Choice, choose, composed_weight, factorised_layer
from edgeprune.network.factorisation.schemes import SCHEMES
from edgeprune.network.factorisation.singular import singular_values, svd
from edgeprune.network.proof import check_plan
from edgeprune.network.structure import network_structure

INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)
LAYERS = {
    "3x3": lambda: nn.Conv2d(6, 8, 3, padding=1),
    "5x5": lambda: nn.Conv2d(8, 6, 5, padding=2),
    "1x1": lambda: nn.Conv2d(6, 8, 1),
    "stride 2": lambda: nn.Conv2d(6, 8, 3, 2, 1, bias=False),
    "dilated": lambda: nn.Conv2d(6, 8, 3, padding=2, dilation=2),
    "grouped": lambda: nn.Conv2d(6, 8, 3, padding="same", groups=2),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, (2, 1), 1, groups=8),
    "uneven": lambda: nn.Conv2d(6, 8, (3, 5), (1, 2), (0, 2)),
    "1x3": lambda: nn.Conv2d(6, 8, (1, 3)),
    "linear": lambda: nn.Linear(6, 8),
}
REFUSED = {
    "channel": {"depthwise"},
    "spatial": {"1x1", "1x3", "linear"},
    "decoupled": {"1x1", "linear", "depthwise"},
    "tucker-2": {"1x1", "linear", "depthwise"},
    "canonical": {"1x1", "1x3", "linear", "depthwise"},
}
PAIRS = [(scheme, kind) for scheme in SCHEMES for kind in LAYERS]


def _choice(scheme: str, kind: str) -> tuple[Choice, torch.Tensor]:
    torch.manual_seed(3)
    layer = LAYERS[kind]()
    size = (5, layer.in_features) if kind == "linear" else (2, layer.in_channels, 9, 11)
    return choose(nn.ModuleDict({"layer": layer}), "layer", scheme), torch.randn(size)


@pytest.mark.parametrize(("scheme", "kind"), [pair for pair in PAIRS if pair[1] not in REFUSED[pair[0]]])
def test_full_rank_computes_the_same(scheme, kind):
    choice, x = _choice(scheme, kind)
    chain = factorised_layer(choice, choice.full_rank)
    assert torch.allclose(chain(x), choice.layer(x), atol=1e-5)
    assert [layer.bias is not None for layer in chain] == [False] * (len(chain) - 1) + [choice.layer.bias is not None]


@pytest.mark.parametrize(("scheme", "kind"), [pair for pair in PAIRS if pair[1] in REFUSED[pair[0]]])
def test_a_layer_that_cannot_gain_is_refused_with_the_reason(scheme, kind):
    with pytest.raises(PlanError, match=rf"'layer' cannot be factorised with the scheme '{scheme}': it"):
        _choice(scheme, kind)


@pytest.mark.parametrize(("scheme", "kind"), [pair for pair in PAIRS if pair[1] not in REFUSED[pair[0]]])
def test_below_full_rank_the_shapes_are_those_of_the_scheme(scheme, kind):
    choice, x = _choice(scheme, kind)
    ranks = tuple(max(1, full // 2) for full in choice.full_rank)
    chain = factorised_layer(choice, ranks)
    assert chain(x).shape == choice.layer(x).shape
    for part, layer in zip(choice.scheme.parts, chain, strict=True):
        inputs, outputs = choice.scheme.widths(part, choice.sizes, ranks)
        assert layer.weight.shape[0] == outputs * choice.groups
        assert layer.weight.shape[1] == (inputs // outputs if part.apart else inputs)
    wanted = choice.layer.weight.double()
    difference = (composed_weight(chain, choice.layer) - wanted).norm() / wanted.norm()
    assert 0 < difference < 1


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
def test_what_is_lost_is_the_energy_of_the_singular_values_left_out(scheme):
    choice, _ = _choice(scheme, "3x3")
    weight = choice.layer.weight.detach().double()
    matrix = weight.reshape(8, -1) if scheme == "channel" else weight.permute(1, 2, 0, 3).reshape(18, 24)
    values = torch.linalg.svdvals(matrix)
    for rank in (1, 3, 5):
        lost = composed_weight(factorised_layer(choice, rank), choice.layer) - weight
        assert float(lost.detach().norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-5)


@pytest.mark.parametrize("scheme", ["channel", "spatial", "decoupled", "canonical"])
def test_the_factors_share_the_size_of_the_weight(scheme):
    choice, _ = _choice(scheme, "3x3")
    sizes = [layer.weight.norm() for layer in factorised_layer(choice, 3)]
    assert max(sizes) < 1.5 * min(sizes)


def test_canonical_terms_are_fitted_and_not_only_cut_off():
    choice, _ = _choice("canonical", "3x3")
    weight = choice.layer.weight.detach().double()
    errors = [(composed_weight(factorised_layer(choice, rank), choice.layer) - weight).norm() for rank in (4, 12, 30)]
    assert errors[0] > errors[1] > errors[2]
    exact = composed_weight(factorised_layer(choice, 54), choice.layer)
    assert errors[2] < 0.8 * (weight - exact + exact * (24 / 54) ** 0.5).norm()


def _network() -> nn.Module:
    return randomise(Residual())


def test_a_plan_replays_to_the_same_bits_and_leaves_the_network_alone():
    network = _network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    edits = (ep.Factorize("blocks.0.conv1", "spatial", 6), ep.Factorize("blocks.1.conv2", "tucker-2", (4, 3)))
    plan = ep.Plan.from_json(ep.Plan((*edits, ep.Factorize("linear", "channel", 2))).to_json())
    assert plan.edits[:2] == edits
    first, second = (ep.apply(plan, network, INPUTS) for _ in range(2))
    assert first.state_dict().keys() == second.state_dict().keys()
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert "blocks.0.conv1.1.weight" in first.state_dict()
    check_plan(network, first, plan, INPUTS)


def test_ranks_of_a_pruned_layer_and_channels_of_a_factorised_one():
    network = _network()
    rank = ep.Factorize("blocks.0.conv1", "channel", 3)
    after = ep.Plan((ep.PruneChannels("blocks.0.conv1", keep=(0, 2, 3, 5, 6)), rank))
    cut = ep.apply(after, network, INPUTS)
    assert [tuple(layer.weight.shape) for layer in cut.blocks[0].conv1] == [(3, 8, 3, 3), (5, 3, 1, 1)]
    check_plan(network, cut, after, INPUTS)
    before = ep.Plan((rank, ep.PruneChannels("blocks.0.conv1.1", keep=(0, 2, 3, 5, 6))))
    cut = ep.apply(before, network, INPUTS)
    assert [tuple(layer.weight.shape) for layer in cut.blocks[0].conv1] == [(3, 8, 3, 3), (5, 3, 1, 1)]
    check_plan(network, cut, before, INPUTS)


def test_the_ranks_of_a_factorised_network_are_coupled_channels():
    plan = ep.Plan((ep.Factorize("blocks.0.conv1", "channel", 4),))
    names = {group.name: group.size for group in network_structure(ep.apply(plan, _network(), INPUTS), INPUTS).groups}
    assert names["blocks.0.conv1.0"] == 4
    assert names["blocks.0.conv1.1"] == 10


def test_another_network_than_the_planned_one_is_found_out():
    network, plan = _network(), ep.Plan((ep.Factorize("blocks.0.conv1", "channel", 4),))
    wider = ep.apply(ep.Plan((ep.Factorize("blocks.0.conv1", "channel", 5),)), network, INPUTS)
    with pytest.raises(VerificationError, match=r"parameters where the ranks of the plan leave"):
        check_plan(network, wider, plan, INPUTS)
    shifted = ep.apply(plan, network, INPUTS)
    with torch.no_grad():
        shifted.norm.weight[0] += 0.1
    with pytest.raises(VerificationError, match=r"low-rank weights by"):
        check_plan(network, shifted, plan, INPUTS)


@settings(deadline=None, max_examples=30)
@given(st.one_of(st.integers(-3, 0), st.integers(9, 99), st.floats(0, 9), st.booleans(), st.none()))
def test_bad_ranks_are_refused_by_their_value(rank):
    with pytest.raises(PlanError, match=r"'blocks.0.conv1'.*Give 1 to 8") as caught:
        ep.apply(ep.Plan((ep.Factorize("blocks.0.conv1", "channel", rank),)), randomise(Residual(6)), INPUTS)
    assert repr(rank) in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_without_singular_values_are_refused(value):
    network = _network()
    with torch.no_grad():
        network.blocks[0].conv1.weight[0, 0, 0, 0] = value
    with pytest.raises(PlanError, match=r"'blocks.0.conv1' is not finite"):
        ep.apply(ep.Plan((ep.Factorize("blocks.0.conv1", "channel", 2),)), network, INPUTS)


def _fail(*_, **__):
    raise torch._C._LinAlgError("linalg.svd: did not converge")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_where_the_fast_algorithm_fails_another_one_finds_the_same_factors(scheme, monkeypatch):
    choice, _ = _choice(scheme, "3x3")
    wanted = composed_weight(factorised_layer(choice, 3), choice.layer)
    monkeypatch.setattr(torch.linalg, "svd", _fail)
    assert torch.allclose(composed_weight(factorised_layer(choice, 3), choice.layer), wanted, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 6), st.lists(st.integers(1, 3), max_size=2), st.booleans())
def test_the_slow_algorithm_splits_matrices_as_the_fast_one_does(rows, columns, batch, whole):
    matrices = torch.randn(*batch, rows, columns, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    fast = svd(matrices, whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "svd", _fail)
        patch.setattr(torch.linalg, "svdvals", _fail)
        slow, values = svd(matrices, whole), singular_values(matrices)
    assert [one.shape for one in slow] == [one.shape for one in fast]
    assert torch.allclose(values, fast[1])
    size = min(rows, columns)
    left, right = slow[0][..., :size], slow[2][..., :size, :]
    assert torch.allclose((left * slow[1][..., None, :]) @ right, matrices, atol=1e-10)


def test_an_svd_that_fails_names_the_layer(monkeypatch):
    def fail_too(*_, **__):
        raise linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(torch.linalg, "svd", _fail)
    monkeypatch.setattr(linalg, "svd", fail_too)
    message = r"'blocks.0.conv1' has no factors: its singular values were not found \(SVD did not converge\)"
    with pytest.raises(PlanError, match=message):
        ep.apply(ep.Plan((ep.Factorize("blocks.0.conv1", "channel", 2),)), _network(), INPUTS)


def test_names_are_looked_up_with_a_suggestion():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'blocks.1.conv2'"):
        ep.apply(ep.Plan((ep.Factorize("blocks.1.conv22", "channel", 2),)), _network(), INPUTS)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'spatial'"):
        ep.apply(ep.Plan((ep.Factorize("stem", "spatal", 2),)), _network(), INPUTS)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.read = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.second(self.first(x)), self.read.weight)


def test_a_weight_with_other_users_is_refused():
    network, inputs = _Tied().eval(), (torch.randn(2, 6),)
    with pytest.raises(PlanError, match=r"'first' cannot be factorised: it shares its weight with 'second'"):
        ep.apply(ep.Plan((ep.Factorize("first", "channel", 2),)), network, inputs)
    with pytest.raises(PlanError, match=r"'read' cannot be factorised: the network does not call it"):
        ep.apply(ep.Plan((ep.Factorize("read", "channel", 2),)), network, inputs)


def test_an_exported_graph_is_refused():
    graph = torch.export.export(_network(), INPUTS).module()
    with pytest.raises(PlanError, match="exported graph"):
        ep.apply(ep.Plan((ep.Factorize("stem", "channel", 2),)), graph, INPUTS)
