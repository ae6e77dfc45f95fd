"""The user's data: what to train on, what to judge by, and a check that both fit the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.errors import DataError
from edgeprune.network.batches import (
    Loader,
    are_class_logits,
    as_inputs,
    device_of,
    epoch_randomness,
    moved,
    start_epoch,
)
from edgeprune.network.factories import call_factory, nearest
from edgeprune.network.image_data import DataOptions, folder_loaders, npz_loaders

Loss = Callable[[Any, Any], torch.Tensor]
Metric = Callable[[nn.Module, Loader], float]


@dataclass(frozen=True)
class Data:
    """What a network is trained on and judged by.

    `loss` takes (outputs, targets); `metric` takes (network in eval mode, loader) and returns 0..1, higher is
    better. `input_shape` is that of one sample of the first input, without the batch. `distillation` takes
    (outputs, the original's outputs); None means: between class logits, and not at all for other outputs.
    `calibration` is training data without augmentation, in an order that never changes; None means `train`.

    A loader that has `set_epoch` is told the epoch, as PyTorch's distributed samplers are.
    """

    train: Loader
    validation: Loader
    loss: Loss
    metric: Metric
    name: str
    input_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()
    distillation: Loss | None = None
    calibration: Loader | None = None


def load_data(spec: str, options: DataOptions | None = None) -> Data:
    """Read a `.npz` file, a folder with `train/` and `val/`, or call `package.module:factory`; raises DataError.

    A factory takes no arguments and returns Data, (train, validation), or (train, validation, loss, metric).
    Without a loss and a metric the task is classification: cross entropy and top-1.
    """
    options = options or DataOptions()
    path = Path(spec)
    if path.is_dir():
        return _classification(spec, *folder_loaders(path, options))
    if path.suffix == ".npz":
        return _classification(spec, *npz_loaders(path, options))
    if ":" in spec and not path.exists():
        return _from_factory(spec)
    known = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    problem = "is neither a .npz file nor a folder" if path.exists() else "does not exist"
    raise DataError(
        f"The data {spec!r} {problem}.{nearest(path.name, known)} Give a .npz, a folder or package.module:factory."
    )


def example_inputs(data: Data, count: int = 1) -> tuple[torch.Tensor, ...]:
    """Return the first `count` validation samples as the network takes them, batch first; raises DataError."""
    inputs, _ = _first_batch(data.validation, "validation", data.name)
    return tuple(tensor[:count] for tensor in as_inputs(inputs))


def calibration_batches(data: Data, count: int) -> Iterator[tuple[Any, Any]]:
    """Yield at most `count` batches without augmentation, the same at every call, for ranges and scores."""
    yield from _first_batches(data.train if data.calibration is None else data.calibration, count)


def training_batches(data: Data, count: int) -> Iterator[tuple[Any, Any]]:
    """Yield at most `count` batches as they are trained on, the same at every call, for statistics."""
    yield from _first_batches(data.train, count)


def _first_batches(loader: Loader, count: int) -> Iterator[tuple[Any, Any]]:
    start_epoch(loader, 0)
    with epoch_randomness(seed=0, epoch=0):  # a loader that shuffles draws from the global generator
        yield from islice(loader, count)


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of (batch, classes) and (batch,); raises DataError for labels out of range."""
    _check_labels(targets, outputs.shape[1])
    return F.cross_entropy(outputs.float(), targets)


def top1(network: nn.Module, loader: Loader) -> float:
    """Return the share of samples whose largest of (batch, classes) outputs is the label."""
    right, count = 0, 0
    for inputs, targets in loader:
        outputs = network(*as_inputs(inputs))
        _check_labels(targets, outputs.shape[1])
        right += int((outputs.argmax(1) == targets).sum())
        count += len(targets)
    if not count:
        raise DataError("There is no validation sample to judge by.")
    return right / count


def check_data(data: Data, network: nn.Module) -> Data:
    """Run one batch of each kind through the network and return the data; raises DataError saying what does not fit."""
    for kind, loader in (("training", data.train), ("validation", data.validation)):
        inputs, targets = _first_batch(loader, kind, data.name)
        outputs = _forward(network, as_inputs(inputs), kind)
        loss = _loss(data, outputs, moved(targets, device_of(network)), kind)
        if not bool(torch.isfinite(loss)):
            raise DataError(
                f"The loss of the first {kind} batch is {float(loss)}; the original must have a finite one."
            )
        labels = getattr(loader, "labels", None)
        if labels is not None and are_class_logits(outputs, targets):
            _check_labels(labels, outputs.shape[1])
    return data


def _classification(name: str, train: Any, validation: Any, calibration: Any, notes: Sequence[str]) -> Data:
    data = Data(train, validation, cross_entropy, top1, Path(name).name, (), tuple(notes), calibration=calibration)
    return _with_input_shape(data)


def _from_factory(spec: str) -> Data:
    made = call_factory(spec, "--data", DataError)
    if isinstance(made, Data):
        return made if made.input_shape else _with_input_shape(made)
    if not isinstance(made, tuple | list) or len(made) not in (2, 4):
        raise DataError(
            f"--data {spec!r} returned {_described(made)}; it must return (train, validation), "
            "(train, validation, loss, metric) or edgeprune.Data."
        )
    loss, metric = made[2:] or (cross_entropy, top1)
    if not callable(loss) or not callable(metric):
        raise DataError(f"--data {spec!r}: the loss and the metric must be functions.")
    return _with_input_shape(Data(made[0], made[1], loss, metric, spec, ()))


def _with_input_shape(data: Data) -> Data:
    for kind, loader in (("training", data.train), ("validation", data.validation)):
        if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
            raise DataError(
                f"The {kind} loader of {data.name!r} is {_described(loader)}, which cannot be gone through twice; "
                "give a torch DataLoader or a list of batches."
            )
    inputs, _ = _first_batch(data.validation, "validation", data.name)
    return replace(data, input_shape=tuple(as_inputs(inputs)[0].shape[1:]))


def _described(thing: Any) -> str:
    size = f" of {len(thing)}" if isinstance(thing, tuple | list) else ""
    return f"a {type(thing).__name__}{size}"


def _first_batch(loader: Loader, kind: str, name: str) -> tuple[Any, Any]:
    start_epoch(loader, 0)
    with epoch_randomness(seed=0, epoch=0):
        batch = next(iter(loader), None)
    if batch is None:
        raise DataError(f"The {kind} data of {name!r} is empty.")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(f"A {kind} batch of {name!r} is {_described(batch)}; it must be (inputs, targets).")
    inputs = as_inputs(batch[0])
    if not all(isinstance(tensor, torch.Tensor) for tensor in inputs):
        raise DataError(f"The inputs of {name!r} are {_described(batch[0])}; they must be tensors, batch first.")
    if not len(inputs[0]):
        raise DataError(f"The first {kind} batch of {name!r} is empty.")
    return batch[0], batch[1]


def _forward(network: nn.Module, inputs: tuple[torch.Tensor, ...], kind: str) -> Any:
    try:
        with torch.no_grad():
            return network.eval()(*moved(inputs, device_of(network)))
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        got = ", ".join(f"{tuple(t.shape[1:])} of {str(t.dtype).removeprefix('torch.')}" for t in inputs)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DataError(
            f"The network refused the {kind} inputs of shape {got}; {_expectation(network)}. PyTorch says: {reason}"
        ) from error


def _expectation(network: nn.Module) -> str:
    for name, layer in network.named_modules():
        channels = getattr(layer, "in_channels", getattr(layer, "in_features", None))
        if isinstance(channels, int):
            what = "channels" if hasattr(layer, "in_channels") else "features"
            return f"its first layer {name!r} expects {channels} {what}"
    return "check the input size and the number of channels"


def _loss(data: Data, outputs: Any, targets: Any, kind: str) -> torch.Tensor:
    if data.loss is cross_entropy and not are_class_logits(outputs, targets):
        got, labels = _summary(outputs), _summary(targets)
        raise DataError(
            f"For classification the network must return (batch, classes) and the labels be whole numbers (batch,); "
            f"got outputs {got} and {kind} labels {labels}. For another task, let the data factory return a loss and a "
            "metric."
        )
    try:
        return data.loss(outputs, targets)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"The loss failed on the first {kind} batch: {type(error).__name__}: {error}") from error


def _summary(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return _described(value)


def _check_labels(labels: torch.Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"The label {wrong} is out of range: the network has {classes} classes, labels 0 to {classes - 1}. "
            "Check that the labels begin at 0 and that this is the data of this network."
        )
