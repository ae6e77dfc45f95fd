"""Built-in image data for classification: a `.npz` file, or folders of image files, split into fixed parts."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import DataError
from edgeprune.network.image_loaders import Augmentation, EncodedLoader, Normalisation, TensorLoader

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif"})
_VALIDATION_PART = 0.2
_NPZ_RULE = (
    "A data .npz holds `images` (uint8, count x height x width x channels) and `labels` (whole numbers), or, for "
    "encoded pictures, `images` (all files end to end, uint8), `offsets` (count + 1) and `labels`"
)

Loaders = tuple[Any, Any, Any, list[str]]  # train, validation, calibration, notes


@dataclass(frozen=True)
class DataOptions:
    """How built-in image data is read.

    `mean` and `std` are per channel of pixels in 0..1; `input_size` is the (height, width) that pictures are
    brought to; `augment` flips the training pictures and shifts them by up to an eighth of their shorter side.
    """

    batch_size: int = 128
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: tuple[int, int] | None = None
    seed: int = 0
    augment: bool = True
    workers: int = 0
    trust_pickle: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing; raises DataError."""
        if self.batch_size < 1:
            raise DataError(f"The batch size {self.batch_size} is not above zero.")
        if self.input_size is not None and min(self.input_size) < 1:
            raise DataError(f"The input size {self.input_size} is not above zero.")
        if self.std is not None and min(self.std) <= 0:
            raise DataError(f"The standard deviations {self.std} are not all above zero.")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise DataError(
                f"There are {len(self.mean)} means and {len(self.std)} standard deviations; give one a channel."
            )


def npz_loaders(path: Path, options: DataOptions) -> Loaders:
    """Split one `.npz` 80/20 into training and validation, every class alike, by the seed; raises DataError."""
    arrays = _read_npz(path, options.trust_pickle)
    labels = _checked_labels(arrays["labels"], path)
    images = _images(arrays, path)
    if len(images) != len(labels):
        raise DataError(
            f"{path} holds {len(images)} images and {len(labels)} labels; there must be one label an image."
        )
    if not len(labels):
        raise DataError(f"{path} holds no images.")
    train, validation = _split(labels, options.seed)
    notes: list[str] = []
    if isinstance(images, np.ndarray):
        return _tensor_loaders(images, labels, (train, validation), options, notes)
    parts = [([images[i] for i in part], labels[part]) for part in (train, validation)]
    return _encoded_loaders(parts[0], parts[1], options, notes)


def folder_loaders(path: Path, options: DataOptions) -> Loaders:
    """Read `train/CLASS/picture` and `val/CLASS/picture`; classes are numbered by name; raises DataError."""
    parts = {}
    for part in ("train", "val"):
        if not (path / part).is_dir():
            found = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
            raise DataError(
                f"The folder {path} has no {part}/; it holds: {found}. Put pictures in train/CLASS/ and val/CLASS/."
            )
        parts[part] = sorted(p.name for p in (path / part).iterdir() if p.is_dir())
    classes = parts["train"]
    if strangers := sorted(set(parts["val"]) - set(classes)):
        raise DataError(f"{path}/val has the class {strangers[0]!r}, which {path}/train has not.")
    train, validation = (_pictures(path / part, classes) for part in ("train", "val"))
    return _encoded_loaders(train, validation, options, [])


def _pictures(folder: Path, classes: Sequence[str]) -> tuple[list[Path], np.ndarray[Any, Any]]:
    found = [
        (file, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise DataError(f"There is no picture in {folder}/CLASS/ ({', '.join(sorted(_SUFFIXES))}).")
    return [file for file, _ in found], np.array([label for _, label in found], dtype=np.int64)


def _tensor_loaders(
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any],
    parts: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
    options: DataOptions,
    notes: list[str],
) -> Loaders:
    if options.input_size is not None and images.shape[1:3] != options.input_size:
        raise DataError(
            f"The images are {images.shape[1]} x {images.shape[2]} and --input-size is {options.input_size[0]} x "
            f"{options.input_size[1]}; store them at that size, or as encoded pictures, which are resized."
        )
    normalisation = _normalisation(options, images.shape[3], notes)
    augmentation = _augmentation(options, min(images.shape[1:3]))
    train, validation = ((images[part], labels[part]) for part in parts)
    size = options.batch_size
    return (
        TensorLoader(*train, normalisation, size, shuffle_seed=options.seed, augmentation=augmentation),
        TensorLoader(*validation, normalisation, size),
        TensorLoader(*train, normalisation, size, shuffle_seed=options.seed),
        notes,
    )


def _encoded_loaders(train: Any, validation: Any, options: DataOptions, notes: list[str]) -> Loaders:
    if options.input_size is None:
        raise DataError(
            "Pictures of any size need --input-size, the height and width that the network was trained with."
        )
    normalisation = _normalisation(options, 3, notes)
    augmentation = _augmentation(options, min(options.input_size))

    def loader(part: Any, seed: int | None, augmentation: Augmentation | None) -> EncodedLoader:
        sources, labels = part
        return EncodedLoader(sources, labels, normalisation, options, shuffle_seed=seed, augmentation=augmentation)

    augmented = loader(train, options.seed, augmentation)
    return augmented, loader(validation, None, None), loader(train, options.seed, None), notes


def _augmentation(options: DataOptions, shorter_side: int) -> Augmentation | None:
    """Shift pictures of 32 pixels by up to 4, as is usual, and others in proportion."""
    return Augmentation(shorter_side // 8, options.seed) if options.augment else None


def _normalisation(options: DataOptions, channels: int, notes: list[str]) -> Normalisation:
    if options.mean is None and options.std is None:
        notes.append(
            "No --mean and --std were given: pixels are only divided by 255, which must be how the network was trained."
        )
    mean, std = options.mean or (0.0,) * channels, options.std or (1.0,) * channels
    for what, values in (("means", mean), ("standard deviations", std)):
        if len(values) != channels:
            raise DataError(
                f"There are {len(values)} {what} and the images have {channels} channels; give one a channel."
            )
    return Normalisation(mean, std)


def _read_npz(path: Path, trust_pickle: bool) -> dict[str, np.ndarray[Any, Any]]:
    if not path.is_file():
        raise DataError(f"The data file {path} does not exist.")
    try:
        with np.load(path, allow_pickle=trust_pickle) as archive:
            missing = [key for key in ("images", "labels") if key not in archive.files]
            if missing:
                raise DataError(
                    f"{path} has no `{missing[0]}`; it holds: {', '.join(archive.files) or 'nothing'}. {_NPZ_RULE}."
                )
            return {key: archive[key] for key in ("images", "labels", "offsets") if key in archive.files}
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise DataError(f"The data file {path} cannot be read: {error}.") from error
        raise DataError(
            f"{path} holds Python objects, and reading them can run any code. Add --trust-pickle if you trust where "
            f"it came from, or store it without objects. {_NPZ_RULE}."
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"The data file {path} cannot be read: it is cut short or damaged ({error}).") from error


def _checked_labels(labels: np.ndarray[Any, Any], path: Path) -> np.ndarray[Any, Any]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"The labels of {path} are {labels.dtype} of shape {labels.shape}; give whole numbers, one an image."
        )
    return labels.astype(np.int64)


def _images(arrays: dict[str, np.ndarray[Any, Any]], path: Path) -> np.ndarray[Any, Any] | list[bytes]:
    """Return the pixels, or the encoded pictures one by one."""
    images = arrays["images"]
    if images.ndim == 1 and images.dtype == np.uint8 and "offsets" in arrays:
        data, offsets = images.tobytes(), arrays["offsets"]
        return [data[a:b] for a, b in pairwise(offsets)]
    if images.ndim == 1 and images.dtype.kind in "SO":
        # NOTE: numpy drops the zero bytes at the end of fixed-length bytes; a WebP picture may end in some.
        return [bytes(item).ljust(images.dtype.itemsize, b"\0") for item in images]
    if images.ndim == 4 and images.dtype == np.uint8:
        return images
    raise DataError(f"The images of {path} are {images.dtype} of shape {images.shape}. {_NPZ_RULE}.")


def _split(labels: np.ndarray[Any, Any], seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the indices of the two parts; of each class one in five, at least one, is kept to judge by."""
    generator = np.random.default_rng(seed)
    held_back = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        held_back.append(members[: max(1, round(len(members) * _VALIDATION_PART))])
    validation = np.sort(np.concatenate(held_back))
    train = np.setdiff1d(np.arange(len(labels)), validation)
    if not len(train):
        raise DataError(
            f"{len(labels)} images are too few: every class needs two, one to train on and one to judge by."
        )
    return train, validation
