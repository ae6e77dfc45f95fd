"""The data that the published numbers are about, as factories for `--data benchmarks.data:NAME`.

They read the folder that the environment variable EDGEPRUNE_DATA names.
"""

from __future__ import annotations

import io
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import DataError
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.image_loaders import Augmentation, Normalisation, TensorLoader

_CIFAR10 = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_MINUS_ONE_TO_ONE = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_TILES = (25, 40)  # rows and columns of pictures on a sheet
_SEED = 0
_JUDGED_DIGITS = 500

Pictures = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]  # bytes (count, height, width, 3), labels (count,)


def cifar10(seed: int = _SEED) -> Data:
    """Return CIFAR-10: 50,000 pictures to train on, in an order by the seed, the 10,000 of the test set to judge by."""
    return _cifar10("cifar10", sheets_train=50, sheets_test=10, seed=seed)


def cifar10_fifth() -> Data:
    """Return the first 10,000 training and 5,000 test pictures of CIFAR-10, all classes alike."""
    return _cifar10("cifar10-fifth", sheets_train=10, sheets_test=5)


def cifar10_small() -> Data:
    """Return the first 2,000 training and 1,000 test pictures of CIFAR-10, all classes alike."""
    return _cifar10("cifar10-small", sheets_train=2, sheets_test=1)


def cifar10_short(seed: int = _SEED) -> Data:
    """Return 2,000 training pictures of CIFAR-10 in batches of 64 and an order by the seed, and 2,000 to judge by."""
    return _cifar10("cifar10-short", sheets_train=2, sheets_test=2, batch_size=64, seed=seed)


def cifar10_two_thousand() -> Data:
    """Return the first 2,000 training pictures of CIFAR-10, unchanged and in their order, to score and to judge by."""
    loader = TensorLoader(*cifar10_pictures("train", 2), _CIFAR10, 125)
    return Data(loader, loader, cross_entropy, top1, "cifar10-two-thousand", (3, 32, 32))


def digits() -> Data:
    """Return scikit-learn's handwritten digits at 32 x 32: 1,297 to train on, and 500 of other hands to judge by."""
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = np.round(found.images * (255 / 16)).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images, labels = np.repeat(grey[..., None], 3, axis=3), found.target.astype(np.int64)
    train, test = (slice(None, -_JUDGED_DIGITS), slice(-_JUDGED_DIGITS, None))
    return Data(
        train=TensorLoader(images[train], labels[train], _MINUS_ONE_TO_ONE, 32, shuffle_seed=_SEED),
        validation=TensorLoader(images[test], labels[test], _MINUS_ONE_TO_ONE, 250),
        loss=cross_entropy,
        metric=top1,
        name="digits",
        input_shape=(3, 32, 32),
    )


def imagenet_samples() -> Data:
    """Return 100 ImageNet pictures of 100 classes, the same to train on and to judge by: for smoke tests only."""
    images, labels = imagenet_pictures()
    loader = TensorLoader(images, labels, _MINUS_ONE_TO_ONE, batch_size=25)
    note = "The 100 pictures are the same for training and validation: accuracies compare two versions of one network."
    return Data(loader, loader, cross_entropy, top1, "imagenet-samples-100", (3, 224, 224), (note,))


def cifar10_pictures(name: str, sheets: int) -> Pictures:
    """Return the pictures of the first `sheets` sheets of `cifar10-NAME.npz`, 1,000 each."""
    from PIL import Image

    with np.load(data_file(f"cifar10-{name}.npz")) as archive:
        keys = sorted(key for key in archive.files if key.startswith("sheet_"))[:sheets]
        images = [_tiles(np.asarray(Image.open(io.BytesIO(archive[key].tobytes())).convert("RGB"))) for key in keys]
        labels = archive["labels"][: 1000 * len(keys)].astype(np.int64)
    return np.concatenate(images), labels


def imagenet_pictures() -> Pictures:
    """Return the middle 224 x 224 pixels of the 100 pictures."""
    from PIL import Image

    images = []
    with np.load(data_file("imagenet-samples-100.npz")) as archive:
        data, offsets, labels = archive["data"].tobytes(), archive["offsets"], archive["labels"].astype(np.int64)
    for start, end in pairwise(offsets):
        picture = Image.open(io.BytesIO(data[start:end])).convert("RGB")
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        images.append(np.asarray(picture.crop((left, top, left + 224, top + 224))))
    return np.stack(images), labels


def data_file(name: str) -> Path:
    """Return the path of a file in the folder that EDGEPRUNE_DATA names; raises DataError."""
    folder = os.environ.get("EDGEPRUNE_DATA")
    if not folder:
        raise DataError(
            "EDGEPRUNE_DATA is not set; it must name the folder that holds the data, e.g. cifar10-train.npz."
        )
    path = Path(folder) / name
    if not path.is_file():
        raise DataError(f"EDGEPRUNE_DATA names the folder {folder}, which has no {name}.")
    return path


def _cifar10(name: str, sheets_train: int, sheets_test: int, batch_size: int = 128, seed: int = _SEED) -> Data:
    train, test = cifar10_pictures("train", sheets_train), cifar10_pictures("test", sheets_test)
    return Data(
        train=TensorLoader(*train, _CIFAR10, batch_size, shuffle_seed=seed, augmentation=Augmentation(4, seed)),
        validation=TensorLoader(*test, _CIFAR10, 250),
        loss=cross_entropy,
        metric=top1,
        name=name,
        input_shape=(3, 32, 32),
        calibration=TensorLoader(*train, _CIFAR10, batch_size, shuffle_seed=seed),
    )


def _tiles(sheet: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(rows * 32, columns * 32, 3) -> (rows * columns, 32, 32, 3)."""
    rows, columns = _TILES
    return sheet.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 1, 3, 4).reshape(rows * columns, 32, 32, 3)
