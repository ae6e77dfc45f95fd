"""A probe as text and as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.run.probing import Probe, Variant


def probe_to_dict(probe: Probe) -> dict[str, Any]:
    """Return a probe as plain JSON types."""
    return {
        "target": probe.target,
        "kind": probe.kind,
        "fingerprint": probe.fingerprint,
        "original_ms": probe.original.latency_ms,
        "floor_ms": probe.floor.latency_ms,
        "floor_interval_ms": list(probe.floor.outcome.latency_interval_ms),
        "floor": [asdict(part) for part in probe.parts],
        "budget": asdict(probe.verdict) if probe.verdict else None,
        "variants": [
            {
                "how": variant.how,
                "label": variant.label,
                "kept_part": variant.kept_part,
                "kept_score": variant.kept_score,
                "latency_p50_ms": variant.latency_ms,
                "latency_interval_ms": list(variant.outcome.latency_interval_ms),
                "expected_ms": variant.expected_ms,
                "macs": variant.outcome.macs,
                "size_bytes": variant.outcome.size_bytes,
                "allocation": dict(variant.allocation),
            }
            for variant in probe.variants
        ],
        "warnings": list(probe.warnings),
    }


def render_probe(probe: Probe) -> str:
    """Return the verdict, the measured variants, and what the fastest of them consists of."""
    rows = [("network", "units kept", "importance kept", "MACs", "latency", "of the original", "95 % interval")]
    rows += [_row(variant, probe) for variant in probe.variants]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    floor = [f"The fastest, {probe.floor.label}, takes {probe.floor.latency_ms:.4g} ms:"]
    floor += [
        f"  {part.latency_ms:8.4f} ms  {part.latency_ms / probe.floor.latency_ms:4.0%}  {part.what}"
        for part in probe.parts
    ]
    head = [probe.verdict.sentence, ""] if probe.verdict else []
    about = f"Measured on {probe.target} ({probe.kind}), board {probe.fingerprint}, without any training."
    notes = [f"Note: {warning}" for warning in probe.warnings]
    return "\n".join([*head, *table, "", *floor, "", about, *notes])


def _row(variant: Variant, probe: Probe) -> tuple[str, str, str, str, str, str, str]:
    low, high = variant.outcome.latency_interval_ms
    return (
        variant.label,
        f"{variant.kept_part:.0%}",
        f"{variant.kept_score:.0%}",
        f"{variant.outcome.macs / 1e6:.1f} M",
        f"{variant.latency_ms:.4g} ms",
        f"{variant.latency_ms / probe.original.latency_ms:.1%}",
        f"{low:.4g} to {high:.4g} ms",
    )
