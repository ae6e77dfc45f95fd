"""Fits saved tensors into a network, and says which of them do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from edgeprune.errors import ModelError

# Where training scripts put the weights inside a checkpoint.
_NESTED = ("state_dict", "model", "model_state_dict")
# What wrappers put before every name: DataParallel and torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 3


def state_dict_of(saved: Any, path: Path) -> tuple[Mapping[str, torch.Tensor], tuple[str, ...]]:
    """Return the named tensors of what a file held, and notes on what was unwrapped; raises ModelError."""
    notes: list[str] = []
    while isinstance(saved, Mapping) and not _is_state_dict(saved):
        key = next((key for key in _NESTED if isinstance(saved.get(key), Mapping)), None)
        if key is None:
            break
        notes.append(f"The weights were taken from {key!r} of the checkpoint.")
        saved = saved[key]
    if not _is_state_dict(saved):
        held = (
            f"a dict with {', '.join(map(str, list(saved)[:5]))}"
            if isinstance(saved, Mapping)
            else f"a {type(saved).__name__}"
        )
        raise ModelError(f"{path} holds {held}, not a state dict. Save it with torch.save(network.state_dict(), ...).")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in saved):
            notes.append(f"The prefix {prefix!r} was removed from every name.")
            saved = {name.removeprefix(prefix): tensor for name, tensor in saved.items()}
    return saved, tuple(notes)


def load_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], arch: str) -> tuple[str, ...]:
    """Copy named tensors into the network and return notes; raises ModelError naming the first that differ."""
    own = module.state_dict()
    missing = [name for name in own if name not in weights and not _may_be_absent(name, own, weights)]
    unknown = [name for name in weights if name not in own]
    shapes = [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(own[name].shape)} in the network"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = _listing("missing in the file", missing) + _listing("unknown to the network", unknown)
    problems += _listing("of another shape", shapes)
    if problems:
        raise ModelError(
            f"The weights do not fit the network of --arch {arch}: {'; '.join(problems)}. "
            "Name the factory that builds the network as it was trained (depth, width, number of classes)."
        )
    module.load_state_dict(dict(weights), strict=False)
    kinds = {str(t.dtype).removeprefix("torch.") for n, t in weights.items() if t.dtype != own[n].dtype}
    return (f"Weights saved as {', '.join(sorted(kinds))} were converted to the network's type.",) if kinds else ()


def check_finite(module: nn.Module) -> None:
    """Raise ModelError naming the first tensor that holds NaN or infinite values."""
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ModelError(
                f"The tensor {name!r} holds {bad} of {tensor.numel()} values that are NaN or infinite; "
                "the training that made it diverged. Give an earlier checkpoint."
            )


def _is_state_dict(saved: Any) -> bool:
    return isinstance(saved, Mapping) and bool(saved) and all(isinstance(t, torch.Tensor) for t in saved.values())


def _may_be_absent(name: str, own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> bool:
    """Old files have no batch-norm counters; safetensors keeps one of several names of a shared tensor."""
    if name.endswith("num_batches_tracked"):
        return True
    return any(other in weights and _same(own[other], own[name]) for other in own)


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.data_ptr() == second.data_ptr() and first.shape == second.shape and first.numel() > 0


def _listing(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what}: {', '.join(names[:_SHOWN])}{more}"]


def save_weights(network: nn.Module, path: Path) -> None:
    """Write every parameter and buffer as safetensors; tensors that are shared are written under each name."""
    # NOTE: save_file would make the file readable by its owner alone.
    path.write_bytes(
        save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()})
    )
