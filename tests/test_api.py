from __future__ import annotations

import pytest
import torch
from small_networks import Residual

import edgeprune as ep
from edgeprune.api import model_from_module


def test_public_names_are_there_and_no_others() -> None:
    assert sorted(ep.__all__) == [
        "Budget",
        "EdgepruneError",
        "Factorize",
        "MergeChannels",
        "Plan",
        "Points",
        "PruneChannels",
        "Share",
        "apply",
        "channel_groups",
        "compare",
        "compress",
        "export",
        "gate",
        "measure",
        "shape",
    ]
    assert all(callable(getattr(ep, name)) for name in ep.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = ep.prune


def test_the_readme_steps_work_from_python() -> None:
    network = Residual().eval()
    groups = ep.channel_groups(network, torch.zeros(1, 3, 8, 8))
    plan = ep.Plan(edits=(ep.PruneChannels(groups[0].name, keep=(0, 3, 5)),))
    smaller = ep.apply(plan, network, torch.zeros(1, 3, 8, 8))
    assert smaller.stem.out_channels == 3
    assert network.stem.out_channels == 8


def test_a_network_from_python_is_known_by_its_values() -> None:
    network = Residual()
    same, other = model_from_module(network), model_from_module(Residual())
    assert same.origin.sha256 == model_from_module(network).origin.sha256
    assert same.origin.sha256 != other.origin.sha256
    assert same.module is not network
