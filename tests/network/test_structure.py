"""Which channels go together, for one coupling at a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.errors import ModelError
from edgeprune.network.counting import count_macs, count_parameters
from edgeprune.network.structure import channel_groups, network_structure
from tests.network.random_networks import RandomNetwork, WindowAttention
from tests.small_networks import Depthwise, Plain, Residual


def slices_of(group):
    return {(piece.tensor, piece.dim): piece for piece in group.slices}


def group_of(network, inputs, name):
    return {group.name: group for group in channel_groups(network, inputs)}[name]


class Run(nn.Module):
    """Layers by name, and what to do with them."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._run = forward

    def forward(self, *inputs):
        return self._run(self, *inputs)


def test_a_plain_network_has_one_group_a_layer_but_the_last():
    groups = channel_groups(Plain(), torch.randn(1, 3, 8, 8))
    assert [(group.name, group.size) for group in groups] == [("conv1", 8), ("conv2", 12)]


def test_a_channel_owns_all_its_pixels_after_a_flatten():
    reader = slices_of(group_of(Plain(), torch.randn(1, 3, 8, 8), "conv2"))["linear.weight", 1]
    assert reader.role == "reader"
    assert reader.index[0] == (0, 1, 2, 3)
    assert reader.index[11] == (44, 45, 46, 47)


def test_a_residual_stream_is_one_group_of_all_its_writers():
    group = group_of(Residual(), torch.randn(1, 3, 8, 8), "stem")
    writers = {piece.tensor for piece in group.slices if piece.role == "writer"}
    assert writers == {"stem.weight", "blocks.0.conv2.weight", "blocks.1.conv2.weight"}
    carriers = {piece.tensor for piece in group.slices if piece.role == "carrier"}
    assert {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"} <= carriers


def test_a_depthwise_convolution_carries_its_channels():
    group = group_of(Depthwise(), torch.randn(1, 3, 8, 8), "expand")
    assert slices_of(group)["depthwise.weight", 0].role == "carrier"


def test_a_concatenation_shifts_positions():
    network = Run(
        lambda self, x: self.c(torch.cat([self.a(x), self.b(x)], 1)),
        a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 6, 1), c=nn.Conv2d(10, 2, 1),
    )  # fmt: skip
    group = group_of(network, torch.randn(1, 3, 4, 4), "b")
    assert slices_of(group)["c.weight", 1].index == tuple((place,) for place in range(4, 10))


def test_padded_channels_form_groups_of_their_own_with_equal_sides():
    network = RandomNetwork([("padded", 8, "batch", 0)], "pool")
    groups = {group.name: group for group in channel_groups(network, torch.randn(1, 3, 8, 8))}
    assert groups["stem"].size == 16
    padded = groups["blocks.0.conv"]
    assert padded.size == 8
    assert padded.constraints[0].blocks == ((0, 1, 2, 3), (4, 5, 6, 7))


@pytest.mark.parametrize(("groups", "size", "blocks"), [(12, 12, []), (2, 12, [2])])
def test_a_grouped_convolution_goes_by_block_or_by_place(groups, size, blocks):
    network = Run(
        lambda self, x: self.c(self.b(self.a(x))),
        a=nn.Conv2d(3, 24, 1), b=nn.Conv2d(24, 24, 1, groups=groups), c=nn.Conv2d(24, 2, 1),
    )  # fmt: skip
    found = channel_groups(network, torch.randn(1, 3, 4, 4))
    assert found[0].size == size
    assert [len(c.blocks) for group in found for c in group.constraints] == blocks


def test_a_shared_layer_is_listed_once_and_unites_its_uses():
    layer = nn.Conv2d(6, 6, 1)
    network = Run(lambda self, x: self.last(self.b(self.a(self.first(x)))), first=nn.Conv2d(3, 6, 1), a=layer, b=layer,
                  last=nn.Conv2d(6, 2, 1))  # fmt: skip
    groups = channel_groups(network, torch.randn(1, 3, 4, 4))
    assert len(groups) == 1
    assert {("a.weight", 0), ("a.weight", 1)} <= set(slices_of(groups[0]))


def test_heads_are_units_and_their_table_follows():
    network = nn.Sequential(nn.Conv2d(3, 12, 1), WindowAttention(12, "batch"), nn.Conv2d(12, 2, 1))
    heads = group_of(network, torch.randn(1, 3, 4, 4), "1.qkv")
    assert (heads.kind, heads.size) == ("head", 2)
    assert slices_of(heads)["1.table", 1].index == ((0,), (1,))
    assert slices_of(heads)["1.qkv.weight", 0].index[1] == (4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23)


def test_an_empty_range_of_tokens_still_has_its_channels():
    def run(self, x):
        y = self.a(x)
        return self.b(torch.cat([y[:, :0], y[:, 0:] * 2], 1))

    network = Run(run, a=nn.Linear(3, 6), b=nn.Linear(6, 2))
    assert group_of(network, torch.randn(2, 4, 3), "a").size == 6


def test_a_layer_that_mixes_tokens_shrinks_with_the_channels_beside_them():
    network = Run(lambda self, x: self.b(self.mix(self.a(x).transpose(1, 2)).transpose(1, 2) * self.a(x)),
                  a=nn.Linear(3, 6), mix=nn.Linear(4, 4), b=nn.Linear(6, 2))  # fmt: skip
    layers = {layer.name: layer for layer in network_structure(network, torch.randn(2, 4, 3)).layers}
    assert layers["mix"].in_group == "a"


def test_heads_go_on_where_the_channels_of_a_head_have_a_layer_of_their_own():
    def run(self, x):
        n = x.shape[0]
        y = self.pool(self.a(x).reshape(n, 5, 2, 4).permute(0, 2, 3, 1).reshape(n * 2, 4, 5))
        return self.b(y.reshape(n, 2, 4, 5).permute(0, 3, 1, 2).reshape(n, 5, 8))

    network = Run(run, a=nn.Linear(3, 8), pool=nn.Conv1d(4, 4, 1, groups=4), b=nn.Linear(8, 2))
    group = group_of(network, torch.randn(2, 5, 3), "a")
    assert slices_of(group)["b.weight", 1].index == ((0, 1, 2, 3), (4, 5, 6, 7))


def test_inputs_and_outputs_stay_whole():
    network = Run(lambda self, x: (self.a(x) + x, self.b(x)), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 3, 1))
    structure = network_structure(network, torch.randn(1, 4, 4, 4))
    assert structure.groups == ()


def test_several_inputs_are_followed_together():
    network = Run(lambda self, x, y: self.c(self.a(x) + self.b(y)), a=nn.Linear(3, 5), b=nn.Linear(4, 5),
                  c=nn.Linear(5, 2))  # fmt: skip
    group = group_of(network, (torch.randn(2, 3), torch.randn(2, 4)), "a")
    assert ("b.weight", 0) in slices_of(group)


def test_an_embedding_writes_channels():
    network = Run(lambda self, x: self.out(self.table(x)), table=nn.Embedding(11, 6), out=nn.Linear(6, 2))
    group = group_of(network, torch.tensor([[1, 2, 3]]), "table")
    assert slices_of(group)["table.weight", 1].role == "writer"


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.RMSNorm(6), nn.GroupNorm(2, 6)])
def test_a_norm_across_channels_makes_a_group_inexact(norm):
    network = Run(lambda self, x: self.b(self.norm(self.a(x))), a=nn.Linear(3, 6), norm=norm, b=nn.Linear(6, 2))
    assert not group_of(network, torch.randn(2, 3), "a").exact


@pytest.mark.parametrize("layer", [nn.LSTM(4, 5), nn.GRU(4, 5)])
def test_a_recurrent_layer_is_quarantined_with_a_place_and_a_remedy(layer):
    network = Run(lambda self, x: self.out(self.layer(self.enter(x))[0]), enter=nn.Linear(3, 4), layer=layer,
                  out=nn.Linear(5, 2))  # fmt: skip
    structure = network_structure(network, torch.randn(6, 2, 3))
    found = {item.name: item for item in structure.quarantined}["enter"]
    assert "recurrent layer" in found.reason
    assert found.module == "layer"
    assert found.location.startswith(__file__)
    assert found.remedy


def test_what_is_not_known_is_quarantined_not_guessed():
    network = Run(lambda self, x: self.b(torch.cdist(self.a(x), self.a(x)) + 0), a=nn.Linear(3, 6), b=nn.Linear(4, 2))
    structure = network_structure(network, torch.randn(1, 4, 3))
    assert structure.groups == ()
    assert "is not known" in structure.quarantined[0].reason


def test_a_group_says_what_one_unit_saves():
    network = Plain()
    group = group_of(network, torch.randn(1, 3, 8, 8), "conv1")
    assert group.macs == 8 * 8 * 27 + 4 * 4 * 9 * 12
    assert group.parameters == 27 + 1 + 9 * 12


def test_layers_name_the_groups_on_both_sides():
    layers = {layer.name: layer for layer in network_structure(Depthwise(), torch.randn(1, 3, 8, 8)).layers}
    depthwise = layers["depthwise"]
    assert (depthwise.kind, depthwise.in_group, depthwise.out_group) == ("depthwise", "expand", "expand")
    assert depthwise.macs == 8 * 9 * 8 * 8


def test_counts_are_those_of_the_layers():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert count_macs(network, torch.randn(2, 3, 4, 4)) == 2 * (16 * 27 * 8 + 128 * 5)
    assert count_parameters(network) == 3 * 8 * 9 + 8 + 128 * 5 + 5


def test_looking_leaves_the_network_as_it_was():
    network = Residual().train()
    network.norm.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    channel_groups(network, torch.randn(2, 3, 8, 8))
    assert network.training
    assert not network.norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(hasattr(tensor, "_edgeprune_tag") for tensor in network.state_dict(keep_vars=True).values())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(1, 4, 8, 8), "fails on the example inputs .*1, 4, 8, 8"),
        ((torch.randn(1, 3, 8, 8), torch.randn(1)), "TypeError"),
        ((), "hold no tensor"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs, message):
    with pytest.raises(ModelError, match=message):
        channel_groups(Plain(), inputs)


def test_a_network_that_fails_by_itself_is_told_apart():
    def broken(self, x):
        return self.a(x)[:, 7] + F.relu(x).sum(9)

    with pytest.raises(ModelError, match=r"before anything was cut.*test_structure.py:\d+"):
        channel_groups(Run(broken, a=nn.Linear(3, 6)), torch.randn(2, 3))
