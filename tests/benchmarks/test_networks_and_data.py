"""The networks and data that the published numbers are about reproduce the accuracies that their origins state."""

from __future__ import annotations

import pytest
import torch

from benchmarks.data import cifar10, cifar10_small, digits, imagenet_samples
from benchmarks.networks import vgg16_bn
from edgeprune.errors import DataError, ModelError
from edgeprune.network.counting import count_macs
from edgeprune.network.data import check_data, load_data
from edgeprune.network.evaluation import evaluate
from edgeprune.network.model import load_model

pytestmark = pytest.mark.data

CASES = [
    ("cifar10-resnet20.pt", "resnet20", 269_722),
    ("cifar10-resnet56.pt", "resnet56", 853_018),
    ("imagenet-mobilenetv1-075-224.pt", "mobilenet_v1_075", 2_585_560),
    ("imagenet-mobilenetv2-100-224-folded.pt", "mobilenet_v2_100_folded", 3_487_816),
]


@pytest.mark.parametrize(("file", "factory", "parameters"), CASES)
def test_the_weights_fit_the_factory_exactly(data_folder, file, factory, parameters):
    model = load_model(data_folder / file, f"benchmarks.networks:{factory}")
    assert sum(p.numel() for p in model.module.parameters()) == parameters
    assert model.notes == ()


def test_resnet20_reaches_its_stated_accuracy(data_folder):
    """9,173 of the 10,000 test pictures; ten sheets take about ten seconds on one core."""
    module = load_model(data_folder / "cifar10-resnet20.pt", "benchmarks.networks:resnet20").module
    assert evaluate(module, load_data("benchmarks.data:cifar10")) == 0.9173


@pytest.mark.slow
def test_resnet56_reaches_its_stated_accuracy(data_folder):
    """On half of the test pictures; on all of them it is 93.39 %."""
    module = load_model(data_folder / "cifar10-resnet56.pt", "benchmarks.networks:resnet56").module
    assert evaluate(module, load_data("benchmarks.data:cifar10_fifth")) == 0.9354


def test_vgg16_has_thirteen_convolutions_and_their_work():
    network, inputs = vgg16_bn(), (torch.zeros(2, 3, 32, 32),)
    assert network(*inputs).shape == (2, 10)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in network.modules()) == 13
    assert count_macs(network, (torch.zeros(1, 3, 32, 32),)) == 313_201_664


def test_digits_are_pictures_of_32_pixels_and_judged_by_other_hands():
    data = digits()
    images, labels = next(iter(data.validation))
    assert images.shape == (250, 3, 32, 32)
    assert torch.equal(images[:, :, ::4, ::4], images[:, :, 3::4, 3::4])
    assert (len(data.train.labels), len(data.validation.labels)) == (1297, 500)
    assert labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize(("case", "accuracy"), [(CASES[2], 0.85), (CASES[3], 0.81)])
def test_mobilenets_reach_their_stated_accuracy(data_folder, case, accuracy):
    module = load_model(data_folder / case[0], f"benchmarks.networks:{case[1]}").module
    data = check_data(imagenet_samples(), module)
    assert evaluate(module, data) == accuracy
    assert data.input_shape == (3, 224, 224)


def test_cifar10_is_whole_and_balanced(data_folder):
    data = cifar10()
    assert torch.bincount(data.train.labels).tolist() == [5000] * 10
    assert torch.bincount(data.validation.labels).tolist() == [1000] * 10
    pixels = data.train.images.float().div(255).mean((0, 1, 2))
    assert torch.allclose(pixels, torch.tensor([0.4914, 0.4822, 0.4465]), atol=5e-5)
    assert [tuple(x.shape) for x, _ in data.train][-1] == (128, 3, 32, 32)


def test_the_small_part_is_the_beginning_of_the_whole(data_folder):
    small, whole = cifar10_small(), cifar10()
    assert torch.bincount(small.train.labels).tolist() == [200] * 10
    assert torch.equal(small.train.images, whole.train.images[:2000])
    assert torch.equal(small.validation.labels, whole.validation.labels[:1000])


def test_a_missing_folder_or_file_is_one_clear_error(data_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"has no cifar10-train\.npz"):
        load_data("benchmarks.data:cifar10")
    monkeypatch.delenv("EDGEPRUNE_DATA")
    with pytest.raises(DataError, match="EDGEPRUNE_DATA is not set"):
        cifar10_small()


def test_a_weight_of_another_depth_does_not_fit(data_folder):

    with pytest.raises(ModelError, match=r"missing in the file: layer1\.3\..* and \d+ more"):
        load_model(data_folder / "cifar10-resnet20.pt", "benchmarks.networks:resnet56")


def test_notes_say_that_training_and_validation_are_the_same(data_folder):
    data = imagenet_samples()
    assert "the same for training and validation" in data.notes[0]
    assert data.train is data.validation
