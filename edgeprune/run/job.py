"""What one compress run is asked to do, as frozen data, and the part of it that a resumed run must repeat."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import UsageError
from edgeprune.verdict.budget import Budget

if TYPE_CHECKING:
    import torch

    from edgeprune.bench.target import Target
    from edgeprune.network.data import Data
    from edgeprune.network.model import Model

_REPORTED_PACKAGES = (
    "edgeprune",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxsim",
    "litert-torch",
    "ai-edge-litert",
    "tensorrt-rtx",
)


@dataclass(frozen=True)
class Choices:
    """How to compress: which plug-ins, how long to train, and the seed of everything random.

    `shape_epochs` of the `epochs` go before the cut, where the method shapes the training; None leaves the split to
    `run.shaping`. `precision` None is the target's own.
    """

    method: str = "taylor"
    controller: str = "knapsack"
    epochs: int = 3
    seed: int = 0
    max_rounds: int = 12
    shape_epochs: int | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing; raises UsageError."""
        if self.epochs < 0:
            raise UsageError(f"{self.epochs} epochs cannot be trained; ask for 0 or more.")
        if self.shape_epochs is not None and not 0 <= self.shape_epochs <= self.epochs:
            raise UsageError(
                f"{self.shape_epochs} of {self.epochs} epochs cannot shape the network before the cut; "
                f"ask for 0 to {self.epochs}."
            )
        if self.max_rounds < 1:
            raise UsageError(f"{self.max_rounds} rounds cannot find anything; ask for 1 or more.")


@dataclass(frozen=True)
class Job:
    """One compress run: the network, its data, the target, the budget, how, and where the files go.

    `others` are further targets, on each of which the one network that is looked for must meet the budget.
    """

    model: Model
    example_inputs: tuple[torch.Tensor, ...]
    data: Data
    target: Target
    budget: Budget
    choices: Choices
    out: Path
    command: tuple[str, ...]
    others: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a target that is named twice, and latencies that do not fit the targets; raises UsageError."""
        check_targets((self.target, *self.others), self.budget)

    def elsewhere(self) -> tuple[Job, ...]:
        """Return the same job for each of the further targets alone."""
        budgets = self.budget.on_others(len(self.others))
        return tuple(
            replace(self, target=target, budget=budget, others=())
            for target, budget in zip(self.others, budgets, strict=True)
        )

    def identity(self) -> dict[str, Any]:
        """Return what must not change between a run and its resumption."""
        return {
            "model": self.model.origin.sha256,
            "arch": self.model.origin.arch,
            "data": self.data.name,
            "input shapes": [list(tensor.shape) for tensor in self.example_inputs],
            "target": ", ".join(target.name for target in (self.target, *self.others)),
            "budget": asdict(self.budget),
            **asdict(self.choices),
            "precision": ", ".join(target.precision for target in (self.target, *self.others)),
        }

    def facts(self) -> dict[str, Any]:
        """Return what the reader of the manifest wants to know besides."""
        return {
            "command": list(self.command),
            "versions": {"python": platform.python_version(), **_package_versions()},
            "machine": {"system": platform.system(), "architecture": platform.machine()},
        }


def check_targets(targets: Sequence[Target], budget: Budget) -> None:
    """Refuse a target that is named twice, and latencies that do not fit the targets; raises UsageError."""
    names = [target.name for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"Target {name} is named {names.count(name)} times; name every target once.")
    budget.on_others(len(targets) - 1)


def _package_versions() -> dict[str, str]:
    installed = {package: _version(package) for package in _REPORTED_PACKAGES}
    return {package: version for package, version in installed.items() if version}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
