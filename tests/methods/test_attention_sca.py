"""Channel pruning by attention: the module, where it is put, and what is left when it is taken out."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import picture_context, train_on_pictures
from small_networks import Residual, randomise

from edgeprune.contracts import Context
from edgeprune.errors import UsageError
from edgeprune.methods._attention import Attention, Attentions
from edgeprune.methods.attention_sca import AttentionSca
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.evaluation import evaluate
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
CONVOLUTIONS = ["stem", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2"]


def context() -> Context:
    network = randomise(Residual()).eval()
    batches = [(IMAGES[:2], torch.tensor([0, 1])), (IMAGES[2:], torch.tensor([2, 3, 4, 0]))]
    data = Data(batches, batches, cross_entropy, top1, "made", (3, 8, 8))
    return Context(network, (IMAGES[:1],), network_structure(network, IMAGES[:1]), data, 0)


@given(channels=st.integers(1, 70), side=st.integers(1, 4))
def test_it_has_two_numbers_a_group_and_two_a_channel_and_gates_lie_between_0_and_1(channels, side):
    attention = Attention(channels)
    groups = attention.parts
    assert channels % groups == 0
    assert groups <= 16
    assert sum(parameter.numel() for parameter in attention.parameters()) == 2 * groups + 2 * channels
    with torch.no_grad():
        positions, gates = attention.gates(torch.randn(2, channels, side, side))
    assert all(bool(torch.isfinite(values).all()) for values in (positions, gates))
    assert 0 < float(gates.min()) <= float(gates.max()) < 1


def test_its_gates_are_those_of_the_paper():
    attention = Attention(32)  # 16 groups of 2 channels
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    x = torch.randn(3, 32, 5, 4)
    expected = torch.zeros_like(x)
    for image in range(3):
        for group in range(16):
            own = x[image, 2 * group : 2 * group + 2]
            seen = own.max(0).values + own.mean(0)
            even = (seen - seen.mean()) / (seen.std() + 1e-5)
            gate = torch.sigmoid(attention.scale[group] * even + attention.shift[group])
            expected[image, 2 * group : 2 * group + 2] = own * gate
        logits = torch.zeros(32)
        for pooled in (expected[image].mean((1, 2)), expected[image].amax((1, 2))):
            blocks = pooled.reshape(4, 8)
            deviation = (blocks.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            normed = ((blocks - blocks.mean(1, keepdim=True)) / deviation).flatten()
            logits += normed * attention.norm.weight + attention.norm.bias
        expected[image] *= torch.sigmoid(logits)[:, None, None]
    assert torch.allclose(attention(x), expected, atol=1e-5)


def test_it_sits_behind_every_convolution_that_writes_a_group_and_leaves_nothing():
    own, before = context(), context().network
    shaping = Shaping(AttentionSca(), own, {"stem": 5}, steps=10)
    found = {name for name, module in own.network.named_modules() if isinstance(module, Attention)}
    assert found == {f"{name}.attention" for name in CONVOLUTIONS}
    assert not torch.allclose(own.network(IMAGES), before(IMAGES))
    shaping.finish()
    assert [type(module) for module in own.network.modules()] == [type(module) for module in before.modules()]
    assert not any(module._forward_hooks for module in own.network.modules())
    assert own.network.state_dict().keys() == before.state_dict().keys()


def test_folding_gates_that_are_always_the_same_changes_nothing():
    own = context()
    attentions = Attentions(own.network, CONVOLUTIONS)
    with torch.no_grad():
        for module in own.network.modules():
            if isinstance(module, Attention):
                module.norm.weight.zero_()
                module.norm.bias.copy_(torch.randn(module.norm.bias.shape))
    with_attention = own.network(IMAGES)
    gates = attentions.looked_at(own, own.data, 2)
    expected = torch.sigmoid(2 * own.network.blocks[0].conv1.attention.norm.bias)
    assert torch.allclose(gates["blocks.0.conv1"].float(), expected, atol=1e-6)
    attentions.fold()
    attentions.remove()
    assert torch.allclose(own.network(IMAGES), with_attention, atol=1e-4)


def test_before_a_training_gates_are_looked_at_and_not_applied():
    own = context()
    before = copy.deepcopy(own.network)
    scores = AttentionSca(batches=2).score(own)
    assert torch.equal(own.network(IMAGES), before(IMAGES))
    positions, gates = Attention(10).gates(before.blocks[0].conv1(before_block(before)))
    mean = gates.mean(0).flatten().double()
    assert torch.allclose(torch.tensor(scores["blocks.0.conv1"], dtype=torch.float64), mean / mean.mean(), atol=1e-5)
    assert positions.shape == (6, 10, 8, 8)


def before_block(network: Residual) -> torch.Tensor:
    return torch.relu(network.norm(network.stem(IMAGES)))


def test_without_data_it_says_so_before_the_training():
    own = context()
    with pytest.raises(UsageError, match="needs training data"):
        AttentionSca().prepare(Context(own.network, own.example_inputs, own.structure, None, 0), {"stem": 5})


@pytest.mark.data
def test_on_real_pictures_it_trains_and_what_is_left_is_a_plain_network_that_works(data_folder):
    own = picture_context(data_folder)
    allocation = {group.name: group.size // 2 for group in own.structure.groups if ".conv1" in group.name}
    method = AttentionSca(batches=3)
    first = method.score(picture_context(data_folder))
    original = evaluate(own.network, own.data)
    shaping = Shaping(method, own, allocation, steps=20)
    assert evaluate(own.network, own.data) > original - 0.03  # the trained network works on with attention in it
    train_on_pictures(shaping, batch_size=16, learning_rate=0.003)
    plan = shaping.plan()
    assert {edit.group: len(edit.keep) for edit in plan.edits} == allocation
    scores = method.score(own)
    assert scores.keys() == first.keys()
    assert scores != first
    assert evaluate(own.network, own.data) > original - 0.05
    smaller = apply(plan, own.network, own.example_inputs)
    assert sum(parameter.numel() for parameter in smaller.parameters()) < 0.7 * sum(
        parameter.numel() for parameter in own.network.parameters()
    )
