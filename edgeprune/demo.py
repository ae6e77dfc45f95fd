"""The main job on real data that scikit-learn brings along: handwritten digits, 8 x 8 pixels, ten classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import MissingExtraError
from edgeprune.files import replacing

if TYPE_CHECKING:
    from edgeprune.progress import Progress
    from edgeprune.verdict.result import Result

ARCH = "edgeprune.network.digits:digit_network"
_TRAINING_EPOCHS = 30
_RECOVERY_EPOCHS = 5
_LATENCY_PART = 0.6
_SEED = 0


def run_demo(out: Path, progress: Progress) -> Result:
    """Train the digit network, or go on with an earlier demo in `out`, and compress it; raises EdgepruneError."""
    from edgeprune.commands.compress import Place, compress
    from edgeprune.commands.source import Source
    from edgeprune.run.job import Choices
    from edgeprune.verdict.budget import Budget, Share

    data, weights, run = out / "digits.npz", out / "digits.safetensors", out / "run"
    write_digits(data)
    if not weights.exists():
        train_digits(data, weights, progress)
    source = Source(weights, ARCH, data=str(data))
    budget = Budget(latency_ms=Share(_LATENCY_PART))
    place = Place(run, resume=(run / "manifest.json").exists(), progress=progress)
    return compress(source, ["host"], budget, Choices(epochs=_RECOVERY_EPOCHS, seed=_SEED), place)


def write_digits(path: Path) -> None:
    """Write scikit-learn's digits as a data .npz: `images` uint8 (1797, 8, 8, 1) and `labels`."""
    import numpy as np

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "demo") from error
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, images=images, labels=digits.target)


def train_digits(data_path: Path, weights: Path, progress: Progress) -> None:
    """Train the digit network from scratch and write its weights."""
    import torch

    from edgeprune.network.data import load_data
    from edgeprune.network.digits import digit_network
    from edgeprune.network.training import Guides, RecoverySettings, recover
    from edgeprune.network.weights import save_weights

    torch.manual_seed(_SEED)
    network = digit_network()
    settings = RecoverySettings(epochs=_TRAINING_EPOCHS, learning_rate=0.1, warmup_steps=20, seed=_SEED)
    progress.say("training a small residual network on 8 x 8 digits")
    checkpoint = weights.with_suffix(".training")
    recover(network, load_data(str(data_path)), settings, Guides(), checkpoint, progress)
    with replacing(weights) as partial:
        save_weights(network, partial)
    checkpoint.unlink(missing_ok=True)
