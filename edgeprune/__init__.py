"""edgeprune makes a trained PyTorch network run in the milliseconds your board allows, measured on the board."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgeprune.api import compare, compress, gate, measure, shape
    from edgeprune.errors import EdgepruneError
    from edgeprune.network.export import export_network as export
    from edgeprune.network.plan import Factorize, MergeChannels, Plan, PruneChannels
    from edgeprune.network.structure import channel_groups
    from edgeprune.network.surgery import apply
    from edgeprune.verdict.budget import Budget, Points, Share

# Imported when first used, so that `import edgeprune` and the command line start without torch.
_PUBLIC = {
    "Budget": "edgeprune.verdict.budget:Budget",
    "EdgepruneError": "edgeprune.errors:EdgepruneError",
    "Factorize": "edgeprune.network.plan:Factorize",
    "MergeChannels": "edgeprune.network.plan:MergeChannels",
    "Plan": "edgeprune.network.plan:Plan",
    "Points": "edgeprune.verdict.budget:Points",
    "PruneChannels": "edgeprune.network.plan:PruneChannels",
    "Share": "edgeprune.verdict.budget:Share",
    "apply": "edgeprune.network.surgery:apply",
    "channel_groups": "edgeprune.network.structure:channel_groups",
    "compare": "edgeprune.api:compare",
    "compress": "edgeprune.api:compress",
    "export": "edgeprune.network.export:export_network",
    "gate": "edgeprune.api:gate",
    "measure": "edgeprune.api:measure",
    "shape": "edgeprune.api:shape",
}

__all__ = [
    "Budget",
    "EdgepruneError",
    "Factorize",
    "MergeChannels",
    "Plan",
    "Points",
    "PruneChannels",
    "Share",
    "apply",
    "channel_groups",
    "compare",
    "compress",
    "export",
    "gate",
    "measure",
    "shape",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
