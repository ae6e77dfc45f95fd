"""Loaders of image batches whose order and augmentation depend on the seed and the epoch only."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from edgeprune.errors import DataError
from edgeprune.network.batches import epoch_generator

if TYPE_CHECKING:
    from edgeprune.network.image_data import DataOptions

Batch = tuple[torch.Tensor, torch.Tensor]
# Pictures are resized to this much more than the input before the crop, as is usual since AlexNet.
_RESIZE_MARGIN = 256 / 224


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Turn (batch, height, width, channels) bytes into normalised (batch, channels, height, width)."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return images.float().div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Augmentation:
    """Random shifts by up to `padding` pixels, black outside, and horizontal flips."""

    padding: int
    seed: int

    def batch(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Shift and flip each of (batch, height, width, channels) bytes on its own."""
        count, height, width, channels = images.shape
        p = self.padding
        padded = images.new_zeros((count, height + 2 * p, width + 2 * p, channels))
        padded[:, p : p + height, p : p + width] = images
        top, left = torch.randint(0, 2 * p + 1, (2, count, 1), generator=generator)
        flip = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.arange(width)
        rows = (top + torch.arange(height)).unsqueeze(2)  # (batch, height, 1)
        columns = (left + torch.where(flip, columns.flip(0), columns)).unsqueeze(1)  # (batch, 1, width)
        return padded[torch.arange(count).view(-1, 1, 1), rows, columns]


class TensorLoader:
    """Batches of pictures that are held in memory as bytes; the whole batch is augmented at once."""

    def __init__(
        self,
        images: np.ndarray[Any, Any],
        labels: np.ndarray[Any, Any],
        normalisation: Normalisation,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Hold (count, height, width, channels) bytes and (count,) labels; without a seed the order stays."""
        self.images = torch.from_numpy(np.ascontiguousarray(images))
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.normalisation = normalisation
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.augmentation = augmentation
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return _batches(len(self.labels), self.batch_size, self.shuffle_seed)

    def __iter__(self) -> Iterator[Batch]:
        generator = epoch_generator(self.shuffle_seed or 0, self.epoch)
        order = _order(len(self.labels), self.shuffle_seed, generator)
        for batch in range(len(self)):
            chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            images = self.images[chosen]
            if self.augmentation is not None:
                images = self.augmentation.batch(images, generator)
            yield self.normalisation(images), self.labels[chosen]


class EncodedLoader:
    """Batches of PNG, JPEG or WebP pictures, decoded when they are needed and brought to one size."""

    def __init__(
        self,
        sources: Sequence[Path | bytes],
        labels: np.ndarray[Any, Any],
        normalisation: Normalisation,
        options: DataOptions,
        *,
        shuffle_seed: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Hold paths or bytes of pictures and (count,) labels; without a seed the order stays."""
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.normalisation = normalisation
        self.batch_size = options.batch_size
        self.workers = options.workers
        self.shuffle_seed = shuffle_seed
        self.epoch = 0
        size = options.input_size or (0, 0)
        self.pictures = _Pictures(sources, self.labels, size, augmentation)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return _batches(len(self.labels), self.batch_size, self.shuffle_seed)

    def __iter__(self) -> Iterator[Batch]:
        order = _order(len(self.labels), self.shuffle_seed, epoch_generator(self.shuffle_seed or 0, self.epoch))
        sampler = [(self.epoch, int(index)) for index in order[: len(self) * self.batch_size]]
        generator = torch.Generator().manual_seed(0)  # NOTE: without it, each pass draws from the global generator
        loader = DataLoader(
            self.pictures, self.batch_size, sampler=sampler, num_workers=self.workers, generator=generator
        )
        for images, labels in loader:
            yield self.normalisation(images), labels


class _Pictures(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Decodes one picture; its index is (epoch, number), so that its augmentation needs no state."""

    def __init__(
        self,
        sources: Sequence[Path | bytes],
        labels: torch.Tensor,
        size: tuple[int, int],
        augmentation: Augmentation | None,
    ) -> None:
        self.sources = sources
        self.labels = labels
        self.size = size
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, number = index
        pixels = _decode(self.sources[number], number, self.size)
        if self.augmentation is not None:
            generator = epoch_generator(self.augmentation.seed, epoch, number + 1)
            pixels = self.augmentation.batch(pixels.unsqueeze(0), generator)[0]
        return pixels, self.labels[number]


def _batches(count: int, batch_size: int, shuffle_seed: int | None) -> int:
    """Count the batches; where the order changes, a last incomplete one is left out: its statistics are poor."""
    whole, rest = divmod(count, batch_size)
    return whole if rest == 0 or (whole and shuffle_seed is not None) else whole + 1


def _order(count: int, shuffle_seed: int | None, generator: torch.Generator) -> torch.Tensor:
    return torch.arange(count) if shuffle_seed is None else torch.randperm(count, generator=generator)


def _decode(source: Path | bytes, number: int, size: tuple[int, int]) -> torch.Tensor:
    """Return (height, width, 3) bytes: resized to a little more than the input, and the middle of that."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            picture = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        name = f"number {number}" if isinstance(source, bytes) else str(source)
        raise DataError(f"The picture {name} cannot be read: {error}. Remove or replace it.") from error
    height, width = size
    if picture.size != (width, height):
        scale = max(height / picture.height, width / picture.width) * _RESIZE_MARGIN
        resized = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
        picture = picture.resize(resized, Image.Resampling.BILINEAR)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    pixels = np.array(picture.crop((left, top, left + width, top + height)))
    return torch.from_numpy(pixels)
