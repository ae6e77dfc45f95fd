"""Groups are plain data: hashable, comparable, JSON and back."""

import json

import pytest
import torch
from torch import nn

from edgeprune.network.drawing import draw_couplings
from edgeprune.network.groups import (
    EqualCounts,
    Group,
    Slice,
    coverage,
    needed_units,
    structure_from_dict,
    structure_to_dict,
    structure_to_text,
)
from edgeprune.network.structure import network_structure
from tests.network.random_networks import RandomNetwork


@pytest.fixture
def structure():
    network = RandomNetwork([("shuffle", 8, "batch", 0), ("padded", 8, "batch", 0), ("grouped", 8, "batch", 0)], "pool")
    return network_structure(network, torch.randn(2, 3, 8, 8))


def test_groups_hash_and_compare_by_value(structure):
    again = structure_from_dict(structure_to_dict(structure))
    assert again == structure
    assert hash(again) == hash(structure)


def test_json_gives_back_an_equal_structure(structure):
    text = json.dumps(structure_to_dict(structure))
    assert structure_from_dict(json.loads(text)) == structure


def test_text_shows_groups_coverage_and_what_is_left_alone():
    network = nn.Sequential(nn.Conv1d(3, 8, 1), nn.Conv1d(8, 4, 1), _Recurrent())
    text = structure_to_text(network_structure(network, torch.randn(1, 3, 6)))
    assert text.splitlines()[0].startswith("group")
    assert "1 groups; " in text
    assert "left alone: 1: a recurrent layer" in text


class _Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.layer(x.transpose(1, 2))[0]


def test_coverage_is_the_part_of_macs_that_some_group_touches(structure):
    assert coverage(structure) == 1.0


def test_units_of_a_tensor_that_has_no_others_are_needed():
    index = ((0,), (1,), (), ())
    slices = (Slice("a", 0, "writer", index), Slice("b", 0, "writer", ((), (), (0,), (1,))))
    bound = Group("a", 4, slices, (EqualCounts(((0, 1), (2, 3)), "halves"),))
    assert needed_units(bound) == ((0, 1), (2, 3))


def test_the_drawing_names_every_layer_and_group(structure):
    drawing = draw_couplings(structure)
    assert drawing.startswith("<svg")
    assert all(f">{layer.name}</text>" in drawing for layer in structure.layers)
    assert all(f"<title>{group.name}: {group.size} units" in drawing for group in structure.groups)
