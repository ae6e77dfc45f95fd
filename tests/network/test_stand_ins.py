"""Heavy networks are looked at without numbers: the same groups, and nothing left behind."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from edgeprune.errors import ModelError
from edgeprune.network.coupling import ride
from edgeprune.network.coupling.ride import trace_network
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.structure import network_structure, structure_of
from edgeprune.network.surgery import apply
from tests.network.random_networks import BLOCKS, RandomNetwork
from tests.network.test_random_networks import lively
from tests.small_networks import Plain

PICTURES = torch.randn(2, 3, 8, 8)


@pytest.fixture
def heavy(monkeypatch):
    """Every network counts as one that computes much."""
    monkeypatch.setattr(ride, "MOST_MACS", 0)


def half(network):
    groups = network_structure(network, PICTURES).groups
    return Plan(tuple(PruneChannels(group.name, tuple(range(0, group.size, 2))) for group in groups))


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_the_structure_is_that_of_real_numbers(kind, monkeypatch):
    network = lively(RandomNetwork([(kind, 12, "wide-group", 1)], "two"))
    real = trace_network(network, PICTURES)
    monkeypatch.setattr(ride, "MOST_MACS", 0)
    hollow = trace_network(network, PICTURES)
    assert isinstance(hollow.inputs[0], FakeTensor)
    assert structure_of(hollow) == structure_of(real)
    assert [(step.name, step.shapes) for step in hollow.steps] == [(step.name, step.shapes) for step in real.steps]


@pytest.mark.usefixtures("heavy")
@pytest.mark.parametrize("via", ["modules", "export"])
def test_a_cut_on_stand_ins_is_proved_with_numbers(via):
    network = lively(RandomNetwork([("padded", 8, "batch", 0), ("squeeze", 8, "batch", 0)], "two"))
    plan = Plan((PruneChannels("blocks.0.conv", keep=(0, 1, 2, 5, 6, 7)),))
    cut = apply(plan, network, PICTURES, via=via)
    assert check_masked_equivalence(network, cut, plan, PICTURES).exact
    assert all(type(tensor) is not FakeTensor for tensor in cut.state_dict().values())


class Looking(nn.Module):
    """Decides by a number that it has computed."""

    def __init__(self, question):
        super().__init__()
        self.a, self.b, self.question = nn.Linear(8, 6), nn.Linear(6, 2), question

    def forward(self, x):
        return self.b(self.question(self.a(x)))


QUESTIONS = {
    "branch": lambda x: x if x.sum() > 0 else -x,
    "list": lambda x: x * x.flatten().tolist()[0],
    "array": lambda x: x * float(x.numpy().max()),
    "mask": lambda x: x + x[x > 0].mean(),
    "written": lambda x: torch.zeros(x.shape).copy_(x),
}


@pytest.mark.usefixtures("heavy")
@pytest.mark.parametrize("question", sorted(QUESTIONS))
def test_a_network_that_looks_at_numbers_gets_them(question):
    trace = trace_network(Looking(QUESTIONS[question]), PICTURES)
    assert trace.inputs[0] is PICTURES


class Remembering(nn.Module):
    """Stores what it has computed in every way that modules do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last, self.by_size, self.all = nn.Linear(8, 6), nn.Linear(6, 2), None, {}, []
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x):
        x = self.a(x)
        self.last, self.seen = x, x.mean()
        self.by_size[x.shape[0]] = x
        self.all.append(x)
        return self.b(x)


@pytest.mark.usefixtures("heavy")
def test_nothing_is_left_in_the_network():
    network = Remembering().train()
    assert isinstance(trace_network(network, PICTURES).inputs[0], FakeTensor)
    kept = [network.last, network.seen, *network.by_size.values(), *network.all]
    assert not any(isinstance(tensor, FakeTensor) for tensor in kept)
    assert network.training
    cut = apply(Plan((PruneChannels("a", keep=(0, 2)),)), network, PICTURES)
    assert not any(isinstance(tensor, FakeTensor) for tensor in [cut.last, cut.seen, *cut.by_size.values(), *cut.all])
    assert network(PICTURES).shape == cut(PICTURES).shape == (2, 3, 8, 2)


@pytest.mark.usefixtures("heavy")
def test_an_error_of_the_network_s_own_is_still_the_network_s():
    with pytest.raises(ModelError, match=r"fails on the example inputs .*1, 5, 8, 8"):
        trace_network(Plain(), torch.zeros(1, 5, 8, 8))
