"""The state of a training on disk, after every epoch, whole or not at all."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.errors import StorageError
from edgeprune.files import replacing

SCHEMA = 1


def save_checkpoint(path: Path, settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write the state of a training in one step; raises StorageError."""
    buffer = io.BytesIO()  # NOTE: torch.save reports a full disk as a RuntimeError without its cause
    torch.save({"schema": SCHEMA, "settings": dict(settings), **state}, buffer)
    with replacing(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path, settings: Mapping[str, Any], network: nn.Module) -> dict[str, Any] | None:
    """Return a state that was saved with the same settings for the same shapes, or None where there is no file.

    Raises StorageError for a file that cannot be read or belongs to another training.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        schema, saved_settings, weights = state["schema"], state["settings"], state["network"]
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise StorageError(f"The checkpoint {path} cannot be read. Delete it to train from the cut again.") from error
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if schema != SCHEMA or saved_settings != dict(settings) or own != {n: t.shape for n, t in weights.items()}:
        raise StorageError(
            f"The checkpoint {path} belongs to another training (other settings or another cut). Delete it to train "
            "from the cut again, or use another --out."
        )
    return dict(state)
