"""The proof notices a wrong cut, and anyone can redo it from the groups' fields alone."""

import copy

import pytest
import torch
from torch import nn

from benchmarks import networks
from edgeprune.errors import VerificationError
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.structure import channel_groups
from edgeprune.network.surgery import apply
from tests.network.random_networks import RandomNetwork
from tests.network.test_random_networks import lively
from tests.small_networks import Residual

PLAN = Plan((PruneChannels("stem", keep=(0, 2, 3, 6)), PruneChannels("blocks.0.conv1", keep=(1, 2, 8))))


@pytest.fixture
def pictures():
    return torch.randn(2, 3, 8, 8)


def test_a_right_cut_is_exact_to_rounding(pictures):
    network = lively(Residual())
    report = check_masked_equivalence(network, apply(PLAN, network, pictures), PLAN, pictures)
    assert report.exact
    assert report.largest_difference < 1e-12
    assert report.parameters_after == report.parameters_expected < report.parameters_before


def test_the_wrong_channels_are_noticed(pictures):
    network = lively(Residual())
    other = Plan((PruneChannels("stem", keep=(0, 2, 3, 7)), PLAN.edits[1]))
    with pytest.raises(VerificationError, match=r"differs from the masked original by .* after pruning"):
        check_masked_equivalence(network, apply(other, network, pictures), PLAN, pictures)


def test_a_swapped_channel_of_one_reader_is_noticed(pictures):
    network = lively(Residual())
    cut = apply(PLAN, network, pictures)
    with torch.no_grad():
        cut.linear.weight.copy_(cut.linear.weight[:, [1, 0, 2, 3]])
    with pytest.raises(VerificationError, match="differs from the masked original"):
        check_masked_equivalence(network, cut, PLAN, pictures)


def test_a_tensor_of_another_shape_is_named(pictures):
    network = lively(Residual())
    cut = apply(PLAN, network, pictures)
    cut.linear = nn.Linear(4, 6)
    with pytest.raises(VerificationError, match=r"linear.weight is \(6, 4\) instead of \(5, 4\)"):
        check_masked_equivalence(network, cut, PLAN, pictures)


def test_a_layer_that_never_runs_may_be_missing_but_none_that_runs(pictures):
    network = lively(RandomNetwork([("conv", 12, "batch", 0)], "pool"))  # its `second` layer never runs
    plan = Plan((PruneChannels("blocks.0.conv", keep=(0, 2, 3)),))
    cut = apply(plan, network, pictures, via="export")
    assert not any(name.startswith("second") for name, _ in cut.named_parameters())
    assert check_masked_equivalence(network, cut, plan, pictures).exact
    del cut.linear.bias
    with pytest.raises(VerificationError, match=r"linear.bias is None instead of \(5,\)"):
        check_masked_equivalence(network, cut, plan, pictures)


def test_numbers_that_are_not_finite_are_noticed(pictures):
    network = RandomNetwork([("conv", 8, "wide-group", 0)], "pool").eval()
    group = next(group for group in channel_groups(network, pictures) if not group.exact)
    plan = Plan((PruneChannels(group.name, tuple(range(0, group.size, 2))),))
    cut = apply(plan, network, pictures)
    assert check_masked_equivalence(network, cut, plan, pictures).inexact_groups == (group.name,)
    cut.linear.weight.data.fill_(float("inf"))
    with pytest.raises(VerificationError, match="not all finite"):
        check_masked_equivalence(network, cut, plan, pictures)


def test_a_third_party_redoes_the_proof_from_the_fields(pictures):
    network = lively(Residual()).double()
    pictures = pictures.double()
    cut = apply(PLAN, network, pictures)
    kept = {edit.group: set(edit.keep) for edit in PLAN.edits}
    masked = copy.deepcopy(network)
    tensors = dict(masked.named_parameters())
    for group in channel_groups(network, pictures):
        for piece in group.slices:
            if piece.role == "reader" and group.name in kept:
                gone = [p for unit, own in enumerate(piece.index) if unit not in kept[group.name] for p in own]
                tensors[piece.tensor].data.index_fill_(piece.dim, torch.tensor(gone), 0)
    with torch.no_grad():
        assert torch.allclose(masked(pictures), cut(pictures), rtol=0, atol=1e-12)


@pytest.mark.data
@pytest.mark.parametrize(
    ("build", "file", "side"),
    [
        (networks.resnet20, "cifar10-resnet20.pt", 32),
        (networks.resnet56, "cifar10-resnet56.pt", 32),
        (networks.mobilenet_v1_075, "imagenet-mobilenetv1-075-224.pt", 224),
        (networks.mobilenet_v2_100_folded, "imagenet-mobilenetv2-100-224-folded.pt", 224),
    ],
)
def test_pretrained_networks_are_cut_to_half_their_units(data_folder, build, file, side):
    network = build()
    network.load_state_dict(torch.load(data_folder / file, weights_only=True))
    inputs = torch.randn(1, 3, side, side)
    groups = channel_groups(network, inputs)
    plan = Plan(tuple(PruneChannels(group.name, tuple(range(1, group.size, 2))) for group in groups))
    report = check_masked_equivalence(network, apply(plan, network, inputs), plan, inputs)
    assert report.exact
    assert report.parameters_after < 0.4 * report.parameters_before
