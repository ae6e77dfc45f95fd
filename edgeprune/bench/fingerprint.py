"""Identifies a kind of board, so that numbers of different boards or engines are never compared unnoticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.bench.target import Target


def environment_of(facts: Mapping[str, Any], target: Target, runtime_version: str) -> dict[str, Any]:
    """Return the readable facts: the board's, and what the target asks of the engine."""
    return {
        **facts,
        "runtime": target.runtime,
        "runtime_version": runtime_version,
        "precision": target.precision,
        "settings": target.engine_settings(),
    }


def fingerprint_of(environment: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that change with any of the facts."""
    text = json.dumps(environment, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
