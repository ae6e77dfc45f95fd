"""Show how results went over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.commands.answering import show
from edgeprune.commands.flags import Json, ModelName, StoreFile
from edgeprune.errors import UsageError
from edgeprune.listing import Answer

if TYPE_CHECKING:
    from edgeprune.verdict.store import Entry
    from edgeprune.verdict.trend import Change

Add = Annotated[list[Path] | None, typer.Option("--add", metavar="RESULT", help="Keep a result that nothing judged.")]
Target = Annotated[str | None, typer.Option(help="Only results on this target.")]
Branch = Annotated[str | None, typer.Option(help="Only results of this branch.")]
Svg = Annotated[Path | None, typer.Option("--out", help="Draw the trend into this .svg file.")]


def command(
    model: ModelName = None,
    target: Target = None,
    branch: Branch = None,
    store: StoreFile = Path(".edgeprune/history.sqlite"),
    add: Add = None,
    out: Svg = None,
    as_json: Json = False,
) -> None:
    """Print the results that a store keeps, and where the latency changed for good."""
    if add:
        keep(add, model, store)
    show(history((model, target, branch), store, out), as_json)


def keep(results: Sequence[Path], model: str | None, store: Path) -> None:
    """Put results into the store as they are; raises UsageError for what is no measured result."""
    from edgeprune.gating.inputs import read_records, with_layers
    from edgeprune.gating.revision import current_revision
    from edgeprune.verdict.store import Store

    for path in results:
        for record in read_records(path, None, model):
            Store(store).add(with_layers(record), "", current_revision())


def history(wanted: tuple[str | None, str | None, str | None], store: Path, out: Path | None) -> Answer:
    """Carry out `edgeprune history` for a model, a target and a branch; raises EdgepruneError."""
    from edgeprune.verdict.store import Store, as_rows
    from edgeprune.verdict.trend import change_points, points_of

    model, target, branch = wanted
    entries = [e for e in Store(store).entries(model, target) if branch in (None, e.branch)]
    if not entries:
        asked = " ".join(
            f"{name} {value}" for name, value in zip(("model", "target", "branch"), wanted, strict=True) if value
        )
        raise UsageError(
            f"{store} holds no result{f' of {asked}' if asked else ''}. Keep one: edgeprune history --add RESULT"
        )
    lines: list[str] = []
    changes: list[dict[str, object]] = []
    for key in dict.fromkeys((entry.model, entry.target, entry.fingerprint) for entry in entries):
        own = [entry for entry in entries if (entry.model, entry.target, entry.fingerprint) == key]
        found = change_points(points_of(own, key[2]))
        lines += [f"{key[0]} on {key[1]} ({own[0].kind}), board {key[2] or 'unknown'}", *_table(own, found), ""]
        changes += [{"model": key[0], "target": key[1], "fingerprint": key[2], **vars(change)} for change in found]
    if out is not None:
        _draw(entries, out)
    return Answer({"results": as_rows(entries), "changes": changes}, "\n".join(lines).rstrip())


def _table(entries: Sequence[Entry], changes: Sequence[Change]) -> list[str]:
    """Return one line a result; a change stands above the first result of the new level."""
    from edgeprune.verdict.wording import in_bytes, in_percent, signed

    starts = {change.recorded_at: change for change in changes}
    lines = []
    for entry in entries:
        if entry.recorded_at in starts:
            lines.append(f"  -- changed by {signed(100 * starts[entry.recorded_at].factor, 1)} % --")
        latency = "no latency"
        if entry.latency_p50_ms is not None:
            latency = f"{entry.latency_p50_ms:.3f} ms [{entry.latency_low_ms:.3f}, {entry.latency_high_ms:.3f}]"
        size = in_bytes(entry.size_bytes)
        accuracy = in_percent(entry.accuracy) if entry.accuracy is not None else ""
        parts = (entry.recorded_at[:16], entry.commit_sha[:8] or "-", entry.branch or "-", latency, size, accuracy)
        lines.append("  " + "  ".join((*parts, entry.verdict)).rstrip())
    return lines


def _draw(entries: Sequence[Entry], out: Path) -> None:
    from edgeprune.files import write_text
    from edgeprune.verdict.gate_figures import standalone, trend
    from edgeprune.verdict.trend import change_points, points_of

    boards = {(entry.model, entry.target, entry.fingerprint) for entry in entries}
    if len(boards) > 1:
        raise UsageError(
            f"A picture shows one model on one board, and these results are of {len(boards)}; "
            "say which with --model and --target."
        )
    points = points_of(entries, entries[0].fingerprint)
    if len(points) < 2:
        raise UsageError("A trend needs two results with a latency; keep more of them.")
    write_text(out, standalone(trend(points, change_points(points))))
