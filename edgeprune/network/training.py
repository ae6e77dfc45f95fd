"""Trains a network, with its original as teacher, before or after the cut, so that a kill costs at most one epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.errors import DataError, TrainingError, UsageError
from edgeprune.network.batches import (
    OnDevice,
    are_class_logits,
    as_inputs,
    count_batches,
    device_of,
    epoch_randomness,
    start_epoch,
)
from edgeprune.network.checkpoint import load_checkpoint, save_checkpoint
from edgeprune.network.data import Data
from edgeprune.network.evaluation import evaluate, keeping_mode
from edgeprune.progress import Progress

if TYPE_CHECKING:
    from edgeprune.network.shaping import Shaping

_PRECISIONS = ("auto", "fp32", "bf16")
_SHOWN_EVERY = 20  # steps; a bar that moves more often than it can be read only costs time


@dataclass(frozen=True)
class RecoverySettings:
    """How a network is trained: Nesterov SGD, a short warm-up, then a cosine down to zero.

    The loss is (1 - d) * task + d * T^2 * KL(teacher, student) with d = `distillation` and T = `temperature`.
    `precision` "auto" multiplies in bfloat16 where the machine does so in hardware; weights stay float32.
    """

    epochs: int = 3
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_steps: int = 100
    distillation: float = 0.9
    temperature: float = 4.0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing; raises UsageError."""
        if self.epochs < 0:
            raise UsageError(f"{self.epochs} epochs cannot be trained; ask for 0 or more.")
        if not self.learning_rate > 0 or not self.temperature > 0:
            raise UsageError(
                f"The learning rate ({self.learning_rate}) and the temperature ({self.temperature}) must be above zero."
            )
        if not 0 <= self.distillation <= 1:
            raise UsageError(f"The share of distillation {self.distillation} is not between 0 and 1.")
        if self.precision not in _PRECISIONS:
            raise UsageError(f"Unknown training precision {self.precision!r}; one of {', '.join(_PRECISIONS)}.")


@dataclass(frozen=True)
class Guides:
    """Who shapes the training besides the data: the original network, and a method at work on this one."""

    teacher: nn.Module | None = None
    shaping: Shaping | None = None

    @property
    def stage(self) -> str:
        """What the training is called."""
        if self.shaping is not None:
            return "Shaping"
        return "Training" if self.teacher is None else "Recovery"


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch: the mean training loss, and the accuracy on the validation data after it."""

    epoch: int  # counted from 1
    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class RecoveryHistory:
    """All epochs, also those of earlier runs that this one went on from; `resumed_after` counts the latter."""

    epochs: tuple[EpochRecord, ...]
    precision: str
    resumed_after: int = 0


def recover(
    network: nn.Module,
    data: Data,
    settings: RecoverySettings,
    guides: Guides,
    checkpoint: Path,
    progress: Progress,
) -> RecoveryHistory:
    """Train the network in place and return what happened; the weights are those after the last epoch.

    The last epoch is kept, not the best: choosing by the validation data would make its accuracy a claim about
    the choice. After every epoch all that is needed to go on is written to the file `checkpoint`; when that
    exists, training goes on from it, to the same bits as if it had never stopped. Raises TrainingError when the
    loss is not finite (the network is then as after the last good epoch), StorageError for the checkpoint.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    recovery = _Recovery(network, data, settings, guides)
    records = recovery.restore(checkpoint)
    resumed_after = len(records)
    steps, stage = recovery.steps, guides.stage
    with progress.track(stage, settings.epochs * steps, len(records) * steps) as advance:
        for epoch in range(len(records), settings.epochs):
            started = time.monotonic()
            loss = recovery.run_epoch(epoch, advance)
            accuracy = evaluate(network, data)
            records.append(EpochRecord(epoch + 1, loss, accuracy, time.monotonic() - started))
            recovery.save(checkpoint, records)
            progress.say(
                f"{stage} epoch {epoch + 1} of {settings.epochs}: loss {loss:.4f}, accuracy {accuracy:.2%}, "
                f"{records[-1].seconds:.0f} s"
            )
    network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return RecoveryHistory(tuple(records), recovery.precision, resumed_after)


def training_precision(device: torch.device, asked: str = "auto") -> str:
    """Return "bf16" or "fp32": for "auto" bf16 exactly where the processor multiplies bfloat16 in hardware."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
    except OSError:  # not Linux: nothing is known, so nothing is risked
        return "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"


class _Recovery:
    """The state of one training: what a checkpoint holds, and the step."""

    def __init__(self, network: nn.Module, data: Data, settings: RecoverySettings, guides: Guides) -> None:
        self.network = network
        self.data = data
        self.settings = settings
        self.guides = guides
        self.steps = count_batches(data.train)
        self.device = device_of(network)
        self.precision = training_precision(self.device, settings.precision)
        self.optimiser = _optimiser(network, settings)

    def restore(self, checkpoint: Path) -> list[EpochRecord]:
        """Go on from the checkpoint, if there is one, and return its epochs."""
        state = load_checkpoint(checkpoint, asdict(self.settings), self.network)
        if state is None:
            return []
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.guides.shaping is not None:
            self.guides.shaping.load_state_dict(state["shaping"])
        return [EpochRecord(**record) for record in state["records"]]

    def save(self, checkpoint: Path, records: list[EpochRecord]) -> None:
        """Write all that is needed to go on after these epochs; random numbers follow from seed and epoch."""
        shaping = self.guides.shaping
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "shaping": shaping.state_dict() if shaping is not None else {},
            "records": [asdict(record) for record in records],
        }
        save_checkpoint(checkpoint, asdict(self.settings), state)

    def run_epoch(self, epoch: int, advance: Callable[[int], None]) -> float:
        """Train one epoch and return its mean loss; raises TrainingError with the weights as they were before it."""
        before = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        losses: list[float] = []
        start_epoch(self.data.train, epoch)
        with keeping_mode(self.network), epoch_randomness(self.settings.seed, epoch):
            self.network.train()
            for inputs, targets in OnDevice(self.data.train, self.device):
                rate = self._set_learning_rate(epoch * self.steps + len(losses))
                losses.append(self._step(inputs, targets, rate))
                if not math.isfinite(losses[-1]):
                    break
                if len(losses) % _SHOWN_EVERY == 0:
                    advance(_SHOWN_EVERY)
        if not losses:
            raise DataError(f"The training data of {self.data.name!r} is empty in epoch {epoch + 1}.")
        if not math.isfinite(losses[-1]) or not _all_finite(self.network):
            self.network.load_state_dict(before)
            raise self._divergence(losses[-1], epoch, len(losses))
        advance(len(losses) % _SHOWN_EVERY)
        return sum(losses) / len(losses)

    def _step(self, inputs: Any, targets: Any, learning_rate: float) -> float:
        shaping = self.guides.shaping
        if shaping is not None:
            shaping.before_step(learning_rate)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            outputs = self.network(*as_inputs(inputs))
            with torch.no_grad():
                taught = self.guides.teacher(*as_inputs(inputs)) if self.guides.teacher is not None else None
        loss = self._loss(_as_float32(outputs), _as_float32(taught), targets)
        if shaping is not None:
            loss = loss + shaping.penalty()
        loss.backward()
        if shaping is not None:
            shaping.after_backward()
        value = float(loss.detach())
        if math.isfinite(value):
            self.optimiser.step()
            if shaping is not None:
                shaping.after_step()
        return value

    def _loss(self, outputs: Any, taught: Any, targets: Any) -> torch.Tensor:
        share, task = self.settings.distillation, self.data.loss(outputs, targets)
        if taught is None or share == 0:
            return task
        if self.data.distillation is not None:
            return (1 - share) * task + share * self.data.distillation(outputs, taught)
        if not are_class_logits(outputs, targets):
            return task
        return (1 - share) * task + share * soft_cross_entropy(outputs, taught, self.settings.temperature)

    def _set_learning_rate(self, step: int) -> float:
        factor = schedule(step, self.settings.epochs * self.steps, self.settings.warmup_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        return self.settings.learning_rate * factor

    def _divergence(self, loss: float, epoch: int, step: int) -> TrainingError:
        start = "the cut" if self.guides.shaping is None else "the start"
        kept = f"epoch {epoch}" if epoch else start
        what = "the weights are no longer finite" if math.isfinite(loss) else f"the loss became {loss}"
        return TrainingError(
            f"Training diverged: {what} in epoch {epoch + 1}, step {step}, at a learning rate of "
            f"{self.settings.learning_rate:g}. The weights after {kept} are kept. Use a lower learning rate, or a "
            "milder budget."
        )


def soft_cross_entropy(outputs: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return T^2 * KL(teacher, student) between (batch, classes) logits at temperature T, the mean over the batch.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531.
    """
    student, teacher = F.log_softmax(outputs / temperature, 1), F.log_softmax(taught / temperature, 1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def schedule(step: int, total: int, warmup: int) -> float:
    """Return the share of the learning rate at a step: a straight line up, then half a cosine down to zero."""
    warmup = min(warmup, total // 10)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _optimiser(network: nn.Module, settings: RecoverySettings) -> torch.optim.Optimizer:
    """Decay the weights of contractions only: decaying norms and biases shifts outputs and regularises nothing."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, settings.learning_rate, settings.momentum, nesterov=settings.momentum > 0)


def _all_finite(network: nn.Module) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())


def _as_float32(outputs: Any) -> Any:
    """Losses are computed in float32, whatever the network was multiplied in."""
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, tuple | list):
        return type(outputs)(_as_float32(part) for part in outputs)
    if isinstance(outputs, dict):
        return {key: _as_float32(part) for key, part in outputs.items()}
    return outputs
