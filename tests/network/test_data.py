"""Data from files and factories: what comes out, and every way in which data can be wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import Residual
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from edgeprune.errors import DataError
from edgeprune.network.batches import epoch_generator
from edgeprune.network.data import Data, calibration_batches, check_data, cross_entropy, example_inputs, load_data, top1
from edgeprune.network.image_data import DataOptions
from edgeprune.network.image_loaders import Augmentation, Normalisation, TensorLoader

PICTURES = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(50, dtype=np.int64) % 5
PLAIN = DataOptions(batch_size=16, augment=False)


def _npz(path: Path, **arrays: Any) -> str:
    np.savez(path / "data.npz", **{"images": PICTURES, "labels": LABELS, **arrays})
    return str(path / "data.npz")


def _encoded(kind: str, picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def _all(loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(loader)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


# ---------------------------------------------------------------- .npz


def test_npz_is_split_by_class_and_normalised(tmp_path):
    options = DataOptions(batch_size=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), augment=False)
    data = load_data(_npz(tmp_path), options)
    train, validation = _all(data.train), _all(data.validation)
    assert torch.bincount(train[1]).tolist() == [8] * 5
    assert torch.bincount(validation[1]).tolist() == [2] * 5
    assert data.input_shape == (3, 8, 8)
    expected = (torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255 - torch.tensor(options.mean).view(3, 1, 1)) / (
        torch.tensor(options.std).view(3, 1, 1)
    )
    distances = torch.cdist(torch.cat([train[0], validation[0]]).flatten(1), expected.flatten(1))
    nearest = distances.argmin(1)
    assert sorted(nearest.tolist()) == list(range(50))  # nothing lost, nothing twice
    assert torch.equal(torch.cat([train[1], validation[1]]), torch.from_numpy(LABELS)[nearest])


def test_the_split_depends_on_the_seed_only(tmp_path):
    spec = _npz(tmp_path)
    first, again, other = (_all(load_data(spec, DataOptions(seed=s)).validation)[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_mean_and_std_a_note_says_so(tmp_path):
    data = load_data(_npz(tmp_path), PLAIN)
    assert any("--mean" in note for note in data.notes)
    assert float(_all(data.train)[0].max()) <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("layout", ["offsets", "bytes", "objects"])
def test_encoded_pictures_are_the_same_pixels(tmp_path, kind, layout):
    files = [_encoded(kind, picture) for picture in PICTURES]
    if layout == "offsets":
        offsets = np.cumsum([0, *map(len, files)])
        spec = _npz(tmp_path, images=np.frombuffer(b"".join(files), np.uint8), offsets=offsets)
    else:
        spec = _npz(tmp_path, images=np.array(files, dtype=object if layout == "objects" else None))
    options = DataOptions(batch_size=16, augment=False, input_size=(8, 8), trust_pickle=layout == "objects")
    raw_folder = tmp_path / "raw"
    raw_folder.mkdir()
    expected = load_data(_npz(raw_folder), PLAIN)
    assert torch.equal(_all(load_data(spec, options).validation)[0], _all(expected.validation)[0])


def test_larger_pictures_are_resized_and_cropped(tmp_path):
    picture = np.zeros((40, 64, 3), dtype=np.uint8)
    picture[:, 32:] = 255
    files = [_encoded("PNG", picture)] * 4
    spec = _npz(tmp_path, images=np.array(files), labels=np.array([0, 0, 1, 1]))
    inputs, _ = _all(load_data(spec, DataOptions(input_size=(8, 8), augment=False)).validation)
    assert inputs.shape == (2, 3, 8, 8)
    assert float(inputs[..., 0].max()) == 0
    assert float(inputs[..., -1].min()) == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": LABELS[:-1]}, "holds 50 images and 49 labels"),
        ({"labels": LABELS.astype(float)}, r"labels .* are float64 of shape \(50,\); give whole numbers"),
        ({"labels": LABELS[:, None]}, r"int64 of shape \(50, 1\)"),
        ({"images": PICTURES.astype(np.float32)}, r"images .* are float32 of shape \(50, 8, 8, 3\)"),
        ({"images": PICTURES[..., 0]}, r"uint8 of shape \(50, 8, 8\)"),
        ({"images": PICTURES[:0], "labels": LABELS[:0]}, "holds no images"),
        ({"images": PICTURES[:1], "labels": LABELS[:1]}, "1 images are too few"),
        ({"images": np.array([b"x", None], dtype=object)}, r"Python objects, .* any code\. Add --trust-pickle"),
    ],
)
def test_wrong_npz_says_what_is_wrong(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_data(_npz(tmp_path, **arrays), PLAIN)


def test_missing_keys_list_what_is_there(tmp_path):
    np.savez(tmp_path / "data.npz", x=PICTURES, labels=LABELS)
    with pytest.raises(DataError, match=r"has no `images`; it holds: x, labels\."):
        load_data(str(tmp_path / "data.npz"))


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_truncated_npz_is_one_clear_error(tmp_path, kept):
    path = Path(_npz(tmp_path))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(DataError, match="cannot be read"):
        load_data(str(path))


def test_unreadable_picture_is_named(tmp_path):
    files = [_encoded("PNG", picture) for picture in PICTURES]
    files[7] = files[7][:40]
    data = load_data(_npz(tmp_path, images=np.array(files)), DataOptions(input_size=(8, 8)))
    with pytest.raises(DataError, match=r"The picture number \d+ cannot be read"):
        _all(data.train), _all(data.validation)


def test_options_that_do_not_fit_the_pictures(tmp_path):
    spec = _npz(tmp_path)
    with pytest.raises(DataError, match="1 means and the images have 3 channels"):
        load_data(spec, DataOptions(mean=(0.5,)))
    with pytest.raises(DataError, match=r"8 x 8 and --input-size is 9 x 9"):
        load_data(spec, DataOptions(input_size=(9, 9)))
    with pytest.raises(DataError, match="batch size 0"):
        DataOptions(batch_size=0)
    with pytest.raises(DataError, match="not all above zero"):
        DataOptions(std=(1.0, 0.0, 1.0))


# ---------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, picture in enumerate(PICTURES):
        part = tmp_path / "set" / ("val" if number % 5 == 0 else "train") / f"class{LABELS[number] // 3}"
        part.mkdir(parents=True, exist_ok=True)
        (part / f"{number:02}.png").write_bytes(_encoded("PNG", picture))
    return tmp_path / "set"


def test_folders_number_the_classes_by_name(folder):
    (folder / "train" / "class1" / "notes.txt").write_text("no picture")
    (folder / "val" / "class1").mkdir()
    (folder / "val" / "class1" / "extra.png").write_bytes(_encoded("PNG", PICTURES[3]))
    data = load_data(str(folder), DataOptions(input_size=(8, 8), augment=False, batch_size=8))
    assert torch.bincount(_all(data.train)[1]).tolist() == [20, 20]
    inputs, labels = _all(data.validation)
    assert labels.tolist() == [0] * 10 + [1]
    assert torch.equal(inputs[-1], torch.from_numpy(PICTURES[3]).permute(2, 0, 1) / 255)


def test_workers_change_nothing(folder):
    alone, helped = (
        _all(load_data(str(folder), DataOptions(input_size=(8, 8), seed=3, workers=n)).train) for n in (0, 2)
    )
    assert torch.equal(alone[0], helped[0])
    assert torch.equal(alone[1], helped[1])


def test_wrong_folders_say_what_is_wrong(folder, tmp_path):
    options = DataOptions(input_size=(8, 8))
    with pytest.raises(DataError, match=r"has no train/; it holds: train, val\.|has no train/; it holds: set"):
        load_data(str(tmp_path), options)
    with pytest.raises(DataError, match="need --input-size"):
        load_data(str(folder))
    (folder / "train" / "class0" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png cannot be read"):
        _all(load_data(str(folder), options).train)
    (folder / "val" / "zebra").mkdir()
    with pytest.raises(DataError, match=r"has the class 'zebra', which .*train has not"):
        load_data(str(folder), options)
    for empty in ("train", "val"):
        (tmp_path / "empty" / empty / "class0").mkdir(parents=True)
    with pytest.raises(DataError, match=r"There is no picture in .*train/CLASS/"):
        load_data(str(tmp_path / "empty"), options)


# ---------------------------------------------------------------- factories

FACTORIES = """
import torch
from torch.utils.data import DataLoader, TensorDataset
def batches(count=8, labels=5):
    return DataLoader(TensorDataset(torch.randn(count, 3, 8, 8), torch.arange(count) % labels), batch_size=4)
def two(): return batches(), batches(4)
def four(): return batches(), batches(), (lambda out, y: out.sum() * 0), (lambda net, loader: 0.25)
def three(): return batches(), batches(), None
def one_pass(): return iter([1]), batches()
def empty(): return batches(), []
def strange(): return batches(), [torch.zeros(3)]
def bad_loss(): return batches(), batches(), "mse", None
def numbers(): return batches(), [([1, 2], torch.zeros(2))]
"""


@pytest.fixture
def factories(tmp_path, monkeypatch) -> None:
    name = f"factories_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def test_factory_of_two_loaders_is_classification(factories):
    data = load_data(f"{factories}:two")
    assert (data.loss, data.metric, data.input_shape) == (cross_entropy, top1, (3, 8, 8))
    assert example_inputs(data, 2)[0].shape == (2, 3, 8, 8)


def test_factory_may_bring_its_own_loss_and_metric(factories):
    data = load_data(f"{factories}:four")
    assert data.metric(nn.Identity(), data.validation) == 0.25
    assert check_data(data, Residual()) is data


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("three", r"returned a tuple of 3; it must return \(train, validation\)"),
        ("one_pass", r"training loader .* cannot be gone through twice"),
        ("empty", "The validation data of .* is empty"),
        ("strange", r"validation batch .* is a Tensor; it must be \(inputs, targets\)"),
        ("bad_loss", "the loss and the metric must be functions"),
        ("numbers", "must be tensors, batch first"),
        ("too", "has no 'too'. Did you mean 'two'"),
    ],
)
def test_wrong_factory_says_what_is_wrong(factories, name, message):
    with pytest.raises(DataError, match=message):
        load_data(f"{factories}:{name}")


def test_names_that_lead_nowhere(tmp_path):
    np.savez(tmp_path / "digits.npz", images=PICTURES, labels=LABELS)
    with pytest.raises(DataError, match=r"digit\.npz does not exist"):
        load_data(str(tmp_path / "digit.npz"))
    with pytest.raises(DataError, match=r"does not exist\. Did you mean 'digits\.npz'"):
        load_data(str(tmp_path / "digits"))
    (tmp_path / "digits.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"neither a .npz file nor a folder"):
        load_data(str(tmp_path / "digits.csv"))


# ---------------------------------------------------------------- does it fit the network


def _data(images: torch.Tensor, labels: torch.Tensor) -> Data:
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    return Data(loader, loader, cross_entropy, top1, "made", tuple(images.shape[1:]))


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((8, 1, 8, 8), torch.zeros(8, dtype=torch.long), r"shape \(1, 8, 8\) of float32; .*'stem' expects 3 channels"),
        ((8, 3, 8, 8), torch.full((8,), 5), r"label 5 is out of range: the network has 5 classes, labels 0 to 4"),
        ((8, 3, 8, 8), torch.full((8,), -1), r"label -1 is out of range"),
        ((8, 3, 8, 8), torch.zeros(8), r"labels be whole numbers .* training labels \(8,\) of float32"),
        ((8, 3, 8, 8), torch.zeros(8, 5), r"got outputs \(8, 5\) of float32 and training labels \(8, 5\)"),
    ],
)
def test_data_that_does_not_fit_the_network(shape, labels, message):
    with pytest.raises(DataError, match=message):
        check_data(_data(torch.randn(shape), labels), Residual())


def test_a_label_out_of_range_is_found_beyond_the_first_batch(tmp_path):
    labels = LABELS.copy()
    labels[labels == 4] = 6
    with pytest.raises(DataError, match="label 6 is out of range"):
        check_data(load_data(_npz(tmp_path, labels=labels), DataOptions(batch_size=2, seed=0)), Residual())


def test_data_that_fits_passes():
    data = _data(torch.randn(8, 3, 8, 8), torch.arange(8) % 5)
    assert check_data(data, Residual()) is data


# ---------------------------------------------------------------- order and augmentation


def test_an_epoch_depends_on_the_seed_and_its_number_only(tmp_path):
    spec = _npz(tmp_path)

    def epoch(seed: int, number: int, passes: int = 0) -> torch.Tensor:
        loader = load_data(spec, DataOptions(batch_size=16, seed=seed)).train
        for _ in range(passes):
            list(loader)
        loader.set_epoch(number)
        return _all(loader)[0]

    assert torch.equal(epoch(0, 2), epoch(0, 2, passes=3))
    assert not torch.equal(epoch(0, 2), epoch(0, 3))
    assert not torch.equal(epoch(0, 2), epoch(1, 2))


def test_calibration_is_not_augmented_and_always_the_same(tmp_path):
    data = load_data(_npz(tmp_path), DataOptions(batch_size=10))
    originals = {tuple(picture.reshape(-1)) for picture in PICTURES}
    first = [inputs for inputs, _ in calibration_batches(data, 3)]
    list(data.train)
    again = [inputs for inputs, _ in calibration_batches(data, 3)]
    assert len(first) == 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    pixels = (torch.cat(first) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).reshape(30, -1)
    assert {tuple(row.tolist()) for row in pixels} <= originals


def test_a_loader_that_shuffles_gives_the_same_samples_for_calibration_and_as_examples():
    images = torch.randn(40, 3, 8, 8)
    loader = DataLoader(TensorDataset(images, torch.arange(40)), batch_size=8, shuffle=True)
    data = Data(loader, loader, cross_entropy, top1, "made", (3, 8, 8))
    torch.manual_seed(1)
    first = [labels.tolist() for _, labels in calibration_batches(data, 3)]
    (example,) = example_inputs(data)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # the caller's own random numbers go on as if nothing had happened
    assert [labels.tolist() for _, labels in calibration_batches(data, 3)] == first
    assert torch.equal(example_inputs(data)[0], example)
    assert first[0] != list(range(8))


def test_augmentation_is_a_shift_or_a_mirrored_shift():
    picture = torch.from_numpy(PICTURES[:1])
    padded = torch.nn.functional.pad(picture, (0, 0, 2, 2, 2, 2))
    possible = {}
    for top in range(5):
        for left in range(5):
            shifted = padded[:, top : top + 8, left : left + 8]
            possible[tuple(shifted.flatten().tolist())] = (top, left, False)
            possible[tuple(shifted.flip(2).flatten().tolist())] = (top, left, True)
    made = Augmentation(padding=2, seed=0).batch(picture.repeat(2000, 1, 1, 1), epoch_generator(0, 0))
    seen = {possible[tuple(one.flatten().tolist())] for one in made}  # KeyError for anything else
    assert len(seen) == 50


def test_shuffled_loaders_leave_out_an_incomplete_batch_and_others_keep_it():
    normal = Normalisation((0.0,) * 3, (1.0,) * 3)
    shuffled = TensorLoader(PICTURES, LABELS, normal, 16, shuffle_seed=0)
    in_order = TensorLoader(PICTURES, LABELS, normal, 16)
    assert [len(y) for _, y in shuffled] == [16, 16, 16]
    assert [len(y) for _, y in in_order] == [16, 16, 16, 2]
    assert (len(shuffled), len(in_order)) == (3, 4)
    assert torch.equal(_all(in_order)[1], torch.from_numpy(LABELS))
