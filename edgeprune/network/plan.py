"""What to do to a network, as data: an ordered list of edits that can be saved, read and replayed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeprune.errors import PlanError, UnknownNameError

SCHEMA = 1


@dataclass(frozen=True)
class PruneChannels:
    """Keep these units of a group, in ascending order, and remove the others."""

    group: str
    keep: tuple[int, ...]


Edit = PruneChannels
_EDITS: Mapping[str, type[Edit]] = {"prune_channels": PruneChannels}
_NAMES = {kind: name for name, kind in _EDITS.items()}


@dataclass(frozen=True)
class Plan:
    """An ordered list of edits on one network."""

    edits: tuple[Edit, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def to_json(self) -> str:
        """Write the plan as JSON text that `from_json` reads back to an equal plan."""
        edits = [{"edit": _NAMES[type(edit)], **asdict(edit)} for edit in self.edits]
        return json.dumps({"schema": SCHEMA, "edits": edits, "notes": dict(self.notes)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan; raises PlanError for text that is no plan of this schema."""
        try:
            data = json.loads(text)
            schema, edits = data["schema"], [dict(edit) for edit in data["edits"]]
        except (ValueError, TypeError, KeyError) as error:
            raise PlanError(f"This is no plan: {error!r}. A plan is the plan.json of a finished run.") from error
        if schema != SCHEMA:
            raise PlanError(f"The plan has schema {schema!r}; this version reads schema {SCHEMA}.")
        return cls(tuple(_edit_from_dict(edit) for edit in edits), data.get("notes", {}))


def _edit_from_dict(data: dict[str, Any]) -> Edit:
    name = data.pop("edit", None)
    if name not in _EDITS:
        raise UnknownNameError("edit", str(name), _EDITS)
    try:
        return _EDITS[name](group=str(data["group"]), keep=tuple(int(unit) for unit in data["keep"]))
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"The edit {data!r} is not complete: {error!r}.") from error
