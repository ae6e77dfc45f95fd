"""Where the network and the data of a command come from, as the user named them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import UsageError

if TYPE_CHECKING:
    import torch

    from edgeprune.network.data import Data
    from edgeprune.network.model import Model


@dataclass(frozen=True)
class Pictures:
    """How built-in image data is read, in the user's words."""

    mean: str | None = None
    std: str | None = None
    input_size: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """Where the network and the data come from, as the user named them."""

    model: Path
    arch: str | None = None
    trust_pickle: bool = False
    data: str | None = None
    pictures: Pictures = field(default_factory=Pictures)


def load_source_model(source: Source) -> Model:
    """Load the network; raises EdgepruneError."""
    from edgeprune.network.model import load_model

    return load_model(source.model, source.arch, source.trust_pickle)


def load_source_data(source: Source) -> Data:
    """Load the data, which must have been named; raises EdgepruneError."""
    from edgeprune.network.data import load_data
    from edgeprune.network.image_data import DataOptions

    pictures = source.pictures
    options = DataOptions(
        mean=_numbers("--mean", pictures.mean),
        std=_numbers("--std", pictures.std),
        input_size=_picture_size(pictures.input_size),
        seed=pictures.seed,
    )
    return load_data(str(source.data), options)


def source_inputs(source: Source, model: Model, count: int = 1) -> tuple[torch.Tensor, ...]:
    """Return inputs of the right shape: `count` real ones where there is data, else a random one of --input-size."""
    import torch

    from edgeprune.network.data import example_inputs

    if source.data is not None:
        return example_inputs(load_source_data(source), count)
    if source.pictures.input_size is not None:
        shape = _shape(source.pictures.input_size)
        return (torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)),)
    if model.example_inputs is not None:
        return model.example_inputs
    raise UsageError("Say how large an input is: --input-size 3x224x224, or --data.")


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise UsageError(f"--input-size {text!r} is no shape; write it like 3x224x224.") from error
    if min(shape) < 1:
        raise UsageError(f"--input-size {text!r} has a size below 1; write it like 3x224x224.")
    return shape


def _picture_size(text: str | None) -> tuple[int, int] | None:
    """Return height and width of `224x224` or `3x224x224`."""
    if text is None:
        return None
    shape = _shape(text)
    if len(shape) not in (2, 3):
        raise UsageError(f"--input-size {text!r} is no size of pictures; write it like 224x224.")
    return shape[-2], shape[-1]


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{flag} {text!r} is no list of numbers; write it like 0.485,0.456,0.406.") from error
