"""Splitting by responses: what comes behind a layer, the fit through a clamp, and what it saves on pictures."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Plain, Residual, randomise
from torch import nn
from torch.nn import functional as F

from benchmarks.data import cifar10_small
from benchmarks.networks import resnet20
from edgeprune.contracts import Context, Limits, Outcome, Problem
from edgeprune.controllers._options import group_node
from edgeprune.errors import PlanError, UsageError
from edgeprune.methods import _responses
from edgeprune.methods._response_fit import Regression, stand_in
from edgeprune.methods._responses import Sampling, responses_of, tails_of
from edgeprune.methods.asymmetric_svd import AsymmetricSvd
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.evaluation import evaluate
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)


RELU, RELU6 = (0.0, math.inf), (0.0, 6.0)
CLAMPS = {
    "relu6": (F.relu6, RELU6),
    "relu6 in place": (nn.ReLU6(inplace=True), RELU6),
    "clamp to 0 and above": (lambda x: x.clamp(min=0), RELU),
    "clamp to 6 and below": (lambda x: x.clamp(max=6), (-math.inf, 6.0)),
    "hardtanh": (nn.Hardtanh(), (-1.0, 1.0)),
    "clamp of each channel": (lambda x: x.clamp(torch.zeros(1), torch.ones(1)), None),
    "silu": (F.silu, None),
}


class Behind(nn.Module):
    """What can come behind a layer: a rectifier in place, two readers, a batch norm without an offset, nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.in_place = nn.Conv2d(3, 6, 3, padding=1)
        self.two_readers = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False)
        self.plain_norm = nn.BatchNorm2d(8, affine=False)
        self.bare = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
        self.linear = nn.Linear(8 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.in_place(x), inplace=True)
        y = self.two_readers(x)
        x = F.relu(self.norm(y)) + y
        x = F.relu(self.plain_norm(self.grouped(x)))
        return self.linear(self.bare(x).flatten(1))


def data_of(batches: int = 4) -> Data:
    generator = torch.Generator().manual_seed(5)
    found = [(torch.randn(32, 3, 8, 8, generator=generator), torch.arange(32) % 5) for _ in range(batches)]
    return Data(found, found, cross_entropy, top1, "made", (3, 8, 8))


def context_of(network: nn.Module, data: Data | None, inputs: tuple[torch.Tensor, ...] = INPUTS) -> Context:
    context = Context(network, inputs, network_structure(network, inputs), data, 0)
    return replace(context, structure=AsymmetricSvd().units(replace(context, network=copy.deepcopy(network))))


def fitted(network: nn.Module, context: Context, allocation: dict[str, int]) -> tuple[nn.Module, nn.Module]:
    """The network as it is fitted, and the chains that it is split into without a training."""
    whole = copy.deepcopy(network)
    plan = Shaping(AsymmetricSvd(), replace(context, network=whole), allocation, 0).plan()
    return whole, apply(plan, whole, context.example_inputs)


@pytest.mark.parametrize("rectified", [True, False])
def test_what_comes_right_behind_a_layer_is_found(rectified):
    network = randomise(Residual(12))
    tails = tails_of(network, INPUTS)
    name, norm = ("conv1", "norm1") if rectified else ("conv2", "norm2")
    tail = tails[f"blocks.0.{name}"]
    assert tail.bounds == (RELU if rectified else None)
    assert tail.offset.data_ptr() == network.get_parameter(f"blocks.0.{norm}.bias").data_ptr()
    x = torch.randn(5, len(tail.scale))
    batch_norm = network.get_submodule(f"blocks.0.{norm}")
    assert torch.allclose(tail.of(x.double()).float(), batch_norm(x[..., None, None])[..., 0, 0], atol=1e-5)


def test_an_output_that_is_read_twice_has_nothing_behind_it():
    tails = tails_of(randomise(Behind()), INPUTS)
    assert tails["in_place"].bounds == RELU
    assert tails["two_readers"].bounds is None
    assert torch.equal(tails["two_readers"].scale, torch.ones(6, dtype=torch.float64))
    assert tails["two_readers"].offset is None
    assert tails["grouped"].bounds == RELU
    assert tails["grouped"].offset is None
    assert tails["bare"].offset is None
    assert tails["linear"].offset is not None


class Clamped(nn.Module):
    """A residual-free chain of wide answers: many of them lie above 6."""

    def __init__(self, clamp) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 5)
        self.clamp = clamp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.clamp(self.norm(self.stem(x)))
        return self.linear(self.clamp(self.norm2(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("kind", CLAMPS)
def test_a_clamp_behind_a_layer_is_found_with_both_its_ends(kind):
    clamp, bounds = CLAMPS[kind]
    tails = tails_of(randomise(Clamped(clamp)), INPUTS)
    assert {name: tails[name].bounds for name in ("stem", "conv", "linear")} == {
        "stem": bounds,
        "conv": bounds,
        "linear": None,
    }


@settings(deadline=None, max_examples=100)
@given(st.floats(-3, 9), st.floats(-3, 9), st.sampled_from([0.01, 1.0]), st.sampled_from([RELU, RELU6, (-1.0, 1.0)]))
def test_what_stands_in_for_an_output_is_the_best_of_all(wanted, fit, penalty, bounds):
    goal, near = torch.tensor([wanted]).double().clamp(*bounds), torch.tensor([fit]).double()
    grid = torch.linspace(-4, 10, 14001).double()

    def cost(z: torch.Tensor) -> torch.Tensor:
        return (goal - z.clamp(*bounds)).square() + penalty * (z - near).square()

    assert float(cost(stand_in(goal, near, penalty, bounds))) <= float(cost(grid).min()) + 1e-9


@pytest.mark.parametrize("rows", [4, 200])
def test_at_full_rank_the_wanted_answers_are_left_as_they_are(rows):
    outputs = torch.randn(rows, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for found in (
        Regression(outputs, 9, shifted=True).fit_clamped(outputs, RELU6),
        Regression(outputs, 9, False).fit(outputs),
    ):
        assert torch.allclose(found.matrix, torch.eye(9, dtype=torch.float64), atol=1e-8)
        assert torch.allclose(found.offset, torch.zeros(9, dtype=torch.float64), atol=1e-8)


def test_a_fit_to_its_own_answers_keeps_their_principal_components():
    outputs = torch.randn(300, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * torch.arange(1, 7)
    found = Regression(outputs, 2, shifted=True).fit(outputs)
    directions = torch.linalg.eigh(torch.cov(outputs.T)).eigenvectors[:, -2:]
    assert torch.allclose(found.matrix, directions @ directions.T, atol=1e-6)


@pytest.mark.parametrize(("bounds", "shift"), [(RELU, -0.8), (RELU6, 5.2), ((-1.0, 1.0), 0.0)])
def test_a_fit_behind_a_clamp_is_nearer_there(bounds, shift):
    generator = torch.Generator().manual_seed(4)
    wanted = torch.randn(400, 8, generator=generator, dtype=torch.float64) + shift
    outputs = wanted + 0.3 * torch.randn(400, 8, generator=generator, dtype=torch.float64)
    regression = Regression(outputs, 3, shifted=True)
    plain, clamped = regression.fit(wanted), regression.fit_clamped(wanted, bounds)

    def loss(found) -> float:
        return float((found.of(outputs).clamp(*bounds) - wanted.clamp(*bounds)).square().sum())

    assert int(torch.linalg.matrix_rank(clamped.matrix)) == 3
    assert loss(clamped) < 0.97 * loss(plain)


def test_a_network_with_relu6_is_fitted_to_what_its_clamp_lets_through(monkeypatch):
    network = randomise(Clamped(F.relu6))
    with torch.no_grad():  # about as many answers above 6 as below
        network.norm2.weight.mul_(3.0)
        network.norm2.bias.add_(6.0)
    context = context_of(network, data_of())
    (found,) = context.structure.factorisations
    allocation = {found.group: found.chains[len(found.chains) // 2][0]}
    as_it_is, _ = fitted(network, context, allocation)
    monkeypatch.setattr(_responses, "_CLAMPS", {})
    as_if_linear, _ = fitted(network, context, allocation)
    x = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        losses = [float(F.mse_loss(one(x), network(x))) for one in (as_it_is, as_if_linear)]
    assert losses[0] < 0.9 * losses[1]


def test_the_scores_add_up_to_the_logarithm_of_the_product_of_energies():
    context = context_of(randomise(Residual(12)), data_of())
    scores = AsymmetricSvd().score(context)
    for found in context.structure.factorisations:
        energies, values = found.energies, scores[found.group]
        assert sum(energies) == pytest.approx(1.0)
        for kept in (2, len(values) // 2, len(values)):
            assert sum(values[1:kept]) == pytest.approx(math.log(sum(energies[:kept]) / energies[0]))
        assert values[0] > max(values[1:])


def test_a_controller_is_given_the_product_of_energies_to_maximise():
    context = context_of(randomise(Residual(12)), data_of())
    outcome = Outcome(1.0, (1.0, 1.0), 1, 1, 1)
    method = AsymmetricSvd()
    problem = Problem(
        context.structure,
        method.score(context),
        Limits(macs=1.0),
        outcome,
        scores_are_losses=method.scores_are_losses,
    )
    for group, found in zip(problem.structure.groups, problem.structure.factorisations, strict=True):
        node = group_node(group, problem)
        logarithms = [math.log(sum(found.energies[:count])) for count in node.counts]
        gains = [value - node.values[-1] for value in node.values]
        assert gains == pytest.approx(logarithms, abs=1e-9)


def test_layers_whose_answers_have_a_rank_lose_nothing_at_it():
    network = randomise(Behind())
    with torch.no_grad():
        for name in ("two_readers", "grouped", "bare"):
            weight = network.get_parameter(f"{name}.weight")
            groups = getattr(network, name).groups
            rows = weight.reshape(groups, -1, weight[0].numel())
            weight.copy_(
                (rows[:, :2].repeat(1, rows.shape[1] // 2, 1) * torch.rand(rows.shape[1], 1)).reshape(weight.shape)
            )
    context = context_of(network, data_of())
    allocation = {}
    for found in context.structure.factorisations:
        if found.layer in ("two_readers", "grouped", "bare"):
            allocation[found.group] = next(n for n, rank in enumerate(found.ranks, start=1) if rank == (2,))
    assert len(allocation) == 3
    whole, thin = fitted(network, context, allocation)
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(8))
    for found in (whole, thin):
        assert torch.allclose(found(x), network(x), rtol=1e-3, atol=1e-4)


def test_the_whole_layer_answers_as_it_was_fitted_also_with_a_bias_of_its_own():
    network, data = randomise(Plain()), data_of()
    with torch.no_grad():
        network.conv2.bias.add_(3.0 * torch.rand(12, generator=torch.Generator().manual_seed(6)))
    context = context_of(network, data)
    (found,) = context.structure.factorisations
    how = Sampling(512, 10, context.seed)
    wanted = responses_of(network, ["conv2"], data, how)["conv2"]
    whole, _ = fitted(network, context, {found.group: found.chains[0][0]})
    expected = Regression(wanted, found.ranks[found.chains[0][0] - 1][0], True).fit_clamped(wanted, RELU).of(wanted)
    assert torch.allclose(responses_of(whole, ["conv2"], data, how)["conv2"], expected, atol=1e-4)


@pytest.mark.parametrize("kind", [Plain, lambda: Residual(12), Behind])
def test_answers_are_kept_better_than_by_the_weights_alone(kind):
    network, data = randomise(kind()), data_of()
    context = context_of(network, data)
    allocation = {group.name: group.counts[len(group.counts) // 2 - 1] for group in context.structure.groups}
    direct = apply(AsymmetricSvd().plan(context.structure, AsymmetricSvd().score(context), allocation), network, INPUTS)
    _, thin = fitted(network, context, allocation)
    x = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        losses = [float(F.mse_loss(found(x), network(x))) for found in (thin, direct)]
    assert losses[0] < 0.8 * losses[1]


def test_the_same_places_are_looked_at_twice_and_no_more_than_asked_for():
    network, data = randomise(Plain()), data_of()
    first, again = (responses_of(network, ["conv2", "linear"], data, Sampling(40, 3, 7)) for _ in range(2))
    assert {name: len(rows) for name, rows in first.items()} == {"conv2": 120, "linear": 40}
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_answers_that_are_not_finite_leave_a_layer_whole():
    network = randomise(Plain())
    with torch.no_grad():
        network.conv1.weight[0] = torch.inf
    structure = context_of(network, data_of()).structure
    assert not structure.factorisations
    assert {item.reason for item in structure.quarantined} == {"its responses are not finite"}


def test_a_layer_that_answers_nothing_is_fitted_all_the_same():
    network = randomise(Plain())
    with torch.no_grad():
        network.conv2.weight.zero_()
    context = context_of(network, data_of())
    _, thin = fitted(network, context, {group.name: group.counts[0] for group in context.structure.groups})
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(8))
    assert torch.allclose(thin(x), network(x), atol=1e-4)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_fit_that_breaks_down_names_the_layer(broken):
    network = randomise(Plain())
    context = context_of(network, data_of())
    with torch.no_grad():
        network.conv1.weight[0] = broken
    allocation = {group.name: group.counts[0] for group in context.structure.groups}
    with pytest.raises(PlanError, match="responses of the layer 'conv2' were not fitted"):
        fitted(network, context, allocation)


def test_without_data_it_says_so():
    with pytest.raises(UsageError, match="asymmetric-svd needs training data"):
        context_of(randomise(Plain()), None)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"places": 0}])
def test_counts_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError):
        AsymmetricSvd(**wrong)


@pytest.mark.data
def test_on_real_pictures_it_saves_most_of_what_the_weights_alone_lose(data_folder):
    network = resnet20()
    network.load_state_dict(torch.load(data_folder / "cifar10-resnet20.pt", weights_only=True))
    data, inputs = cifar10_small(), (torch.zeros(1, 3, 32, 32),)
    context = context_of(network.eval(), data, inputs)
    allocation = {
        found.group: next(n for n in reversed(range(len(found.ranks))) if sum(found.energies[:n]) < 0.97)
        for found in context.structure.factorisations
    }
    allocation = {
        group.name: min(group.counts, key=lambda count, name=group.name: abs(count - allocation[name]))
        for group in context.structure.groups
    }
    method = AsymmetricSvd(samples=256)
    direct = apply(method.plan(context.structure, method.score(context), allocation), network, inputs)
    _, thin = fitted(network, context, allocation)
    accuracies = [evaluate(found, data) for found in (network, direct, thin)]
    assert accuracies[0] - accuracies[2] < 0.5 * (accuracies[0] - accuracies[1])
