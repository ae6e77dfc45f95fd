"""Cutting: what follows, what is refused, and that the caller's network stays as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.errors import ExportError
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.following import FixedSizeError
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.structure import channel_groups
from edgeprune.network.surgery import apply, fixed_size
from tests.hashing import hashed
from tests.network.random_networks import RandomNetwork
from tests.network.test_random_networks import lively
from tests.small_networks import Depthwise, Plain, Residual

PICTURES = torch.zeros(2, 3, 8, 8)


def half(network, inputs, names=None):
    """A plan that keeps every second unit of some groups, or of all."""
    groups = [group for group in channel_groups(network, inputs) if names is None or group.name in names]
    return Plan(tuple(PruneChannels(group.name, tuple(range(0, group.size, 2))) for group in groups))


def proved(network, plan, inputs, via="modules"):
    cut = apply(plan, network, inputs, via=via)
    report = check_masked_equivalence(network, cut, plan, inputs)
    assert report.exact
    return cut


def test_sizes_of_layers_follow_their_tensors():
    network = lively(Depthwise())
    cut = proved(network, half(network, PICTURES), torch.randn(2, 3, 8, 8))
    assert (cut.expand.in_channels, cut.expand.out_channels) == (3, 4)
    assert (cut.depthwise.groups, cut.depthwise.in_channels, cut.depthwise.out_channels) == (4, 4, 4)
    assert cut.norm1.num_features == 4


def test_parameters_stay_leaves_and_keep_whether_they_learn():
    network = Residual()
    network.stem.weight.requires_grad_(False)
    cut = apply(half(network, PICTURES), network, PICTURES)
    assert cut.stem.weight.is_leaf
    assert not cut.stem.weight.requires_grad
    assert cut.blocks[0].conv1.weight.requires_grad
    cut.train()(torch.randn(4, 3, 8, 8)).sum().backward()
    assert cut.blocks[0].conv1.weight.grad.shape == cut.blocks[0].conv1.weight.shape


def test_a_shared_parameter_is_still_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.a, self.b, self.out = (nn.Linear(*size) for size in ((3, 6), (6, 6), (6, 6), (6, 2)))
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.out(self.b(F.relu(self.a(F.relu(self.enter(x))))))

    network = Tied()
    cut = proved(network, half(network, torch.randn(2, 3)), torch.randn(2, 3))
    assert cut.a.weight is cut.b.weight
    assert cut.a.weight.shape == (3, 3)


def test_an_attribute_of_the_network_s_own_follows():
    network = lively(RandomNetwork([("padded", 8, "batch", 0)], "pool"))
    inputs = torch.randn(2, 3, 8, 8)
    plan = Plan((PruneChannels("blocks.0.conv", keep=(0, 1, 2, 5, 6, 7)),))
    assert proved(network, plan, inputs).blocks[0].pad == 3


class Literal(nn.Module):
    """Writes the width of its own layer as a number."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6 * 4, 5)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(F.relu(self.conv(x)), 2)
        return self.linear(x.reshape(-1, 24))


def test_a_size_in_the_code_is_refused_with_its_line_and_a_way_out():
    network = Literal()
    with pytest.raises(FixedSizeError, match=r"test_surgery.py:\d+.*via=\"export\"") as refusal:
        apply(half(network, PICTURES), network, PICTURES)
    assert "24 to 12" in str(refusal.value)


def test_a_size_in_the_code_names_the_groups_that_it_belongs_to_and_touches_nothing():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), Literal())
    before = hashed(network)
    with pytest.raises(FixedSizeError, match=r"Nothing was cut.*whole \('2.conv'\)"):
        apply(half(network, PICTURES), network, PICTURES)
    assert hashed(network) == before
    assert "24 to 12" in fixed_size(network, PICTURES)
    assert hashed(network) == before
    assert not fixed_size(Plain(), PICTURES)


@pytest.mark.parametrize("via", ["export", "auto"])
def test_the_exported_graph_follows_where_code_fixes_a_size(via):
    network = Literal()
    inputs = torch.randn(2, 3, 8, 8)
    cut = proved(network, half(network, inputs), inputs, via)
    assert dict(cut.named_parameters())["conv.weight"].shape[0] == 3
    assert cut(torch.randn(5, 3, 8, 8)).shape == (5, 5)


def test_an_exported_graph_can_be_cut_again():
    network = lively(Residual())
    inputs = torch.randn(2, 3, 8, 8)
    once = apply(half(network, inputs, {"blocks.0.conv1"}), network, inputs, via="export")
    plan = half(once, inputs, {"blocks.1.conv1"})
    assert check_masked_equivalence(once, apply(plan, once, inputs), plan, inputs).exact


def test_what_the_tracer_refuses_says_so():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(self.a(x)) if x.sum() > 0 else self.b(self.a(-x))

    network = Branching()
    with pytest.raises(ExportError, match=r"tracer refuses the network: GuardOnDataDependent.*[^\n]$"):
        apply(half(network, torch.ones(2, 3)), network, torch.ones(2, 3), via="export")


def test_attention_heads_and_its_stream_are_cut_apart():
    network = lively(RandomNetwork([("whole-attention", 8, "batch", 0)], "pool"))
    inputs = torch.randn(2, 3, 8, 8)
    heads = next(group for group in channel_groups(network, inputs) if group.kind == "head")
    cut = proved(network, Plan((PruneChannels(heads.name, keep=(0, 2, 3)),)), inputs)
    attention = cut.blocks[0].attention
    assert (attention.num_heads, attention.embed_dim, attention.head_dim) == (3, 16, 4)
    assert attention.in_proj_weight.shape == (36, 16)


@pytest.mark.parametrize("via", ["modules", "export"])
def test_the_caller_s_network_is_untouched(via):
    network = lively(Residual()).train()
    before = hashed(network)
    apply(half(network, PICTURES), network, PICTURES, via=via)
    assert hashed(network) == before


def test_a_module_that_several_blocks_hold_keeps_its_numbers_when_a_graph_is_recorded():
    class Sharing(nn.Module):
        """One convolution that is a part of both blocks, as position encodings are of all blocks of a stage."""

        def __init__(self):
            super().__init__()
            self.first, shared = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.blocks = nn.ModuleList(nn.Sequential(shared, nn.ReLU()) for _ in range(2))
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.last(self.blocks[1](self.blocks[0](self.first(x))))

    network = lively(Sharing())
    before, expected = hashed(network), network(PICTURES)
    proved(network, half(network, PICTURES), PICTURES, "export")
    assert hashed(network) == before
    assert torch.equal(network(PICTURES), expected)


def test_an_empty_plan_is_a_plain_copy():
    network = lively(Residual())
    cut = apply(Plan(), network, PICTURES)
    assert hashed(cut) == hashed(network)
    assert cut is not network
