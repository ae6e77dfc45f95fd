"""Any network, any units: the cut either is refused by name or proves equal to the masked original."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.selection import allowed_counts, select_units
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply
from tests.network.random_networks import BLOCKS, HEADS, NORMS, WIDTHS, RandomNetwork

_BLOCK = st.tuples(st.sampled_from(sorted(BLOCKS)), st.sampled_from(WIDTHS), st.sampled_from(NORMS), st.integers(0, 3))


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Statistics and scales that are not one number everywhere, so that no channel goes unnoticed."""
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.5)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(-0.5, 0.5).add_(parameter.sign())
    return network.eval()


def random_plan(structure, seed: int, some: bool) -> Plan:
    """A random allowed count of random units of all groups, or of about half of them."""
    chance = random.Random(seed)
    edits = []
    for group in structure.groups:
        if some and chance.random() < 0.5:
            continue
        kept = chance.choice(allowed_counts(group))
        edits.append(PruneChannels(group.name, select_units(group, [chance.random() for _ in range(group.size)], kept)))
    return Plan(tuple(edits))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(_BLOCK, min_size=1, max_size=5), st.sampled_from(HEADS), st.integers(0, 10**6), st.booleans())
def test_every_cut_of_a_random_network_is_proved(choices, head, seed, some):
    torch.manual_seed(seed)
    network = lively(RandomNetwork(choices, head))
    inputs = torch.randn(2, 3, 8, 8)
    structure = network_structure(network, inputs)
    plan = random_plan(structure, seed, some)
    report = check_masked_equivalence(network, apply(plan, network, inputs, via="auto"), plan, inputs)
    assert report.parameters_after == report.parameters_expected
    if report.exact:
        assert report.largest_difference < 1e-9


@pytest.mark.parametrize("kind", sorted(BLOCKS))
@pytest.mark.parametrize("number", range(4))
def test_each_block_has_groups_to_cut(kind, number):
    network = lively(RandomNetwork([(kind, 12, "batch", number)], "pool"))
    inputs = torch.randn(2, 3, 8, 8)
    structure = network_structure(network, inputs)
    assert [group for group in structure.groups if _touches_blocks(group)], structure.quarantined
    plan = random_plan(structure, number, some=False)
    report = check_masked_equivalence(network, apply(plan, network, inputs), plan, inputs)
    assert report.exact
    assert report.parameters_after < report.parameters_before


def _touches_blocks(group) -> bool:
    return any(piece.tensor.startswith("blocks") for piece in group.slices)
