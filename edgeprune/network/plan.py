"""What to do to a network, as data: an ordered list of edits that can be saved, read and replayed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from edgeprune.errors import PlanError, UnknownNameError

SCHEMA = 1


@dataclass(frozen=True)
class PruneChannels:
    """Keep these units of a group, in ascending order, and remove the others."""

    group: str
    keep: tuple[int, ...]


@dataclass(frozen=True)
class MergeChannels:
    """Keep the first unit of every cluster; what read the others of a cluster reads the first instead.

    Every unit of the group is in exactly one cluster. Where the units of each cluster are alike, nothing is lost.
    """

    group: str
    clusters: tuple[tuple[int, ...], ...]

    @property
    def keep(self) -> tuple[int, ...]:
        """The units that stay, ascending."""
        return tuple(sorted(cluster[0] for cluster in self.clusters if cluster))


@dataclass(frozen=True)
class Factorize:
    """Replace a layer by a chain of thinner ones of this rank; the chain takes the layer's name.

    `rank` is a number, or one for each rank of the scheme; of a grouped layer it is that of each group.
    """

    layer: str
    scheme: str
    rank: int | tuple[int, ...]


ChannelEdit = PruneChannels | MergeChannels
Edit = ChannelEdit | Factorize
_NAMES: Mapping[type[Edit], str] = {
    PruneChannels: "prune_channels",
    MergeChannels: "merge_channels",
    Factorize: "factorize",
}


@dataclass(frozen=True)
class Plan:
    """An ordered list of edits on one network; an edit finds the network as the edits before it left it.

    Neighbouring edits on channels are one cut: all of them name units of the network before it.
    """

    edits: tuple[Edit, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def cuts(self) -> tuple[ChannelEdit, ...]:
        """The edits on channels."""
        return tuple(edit for edit in self.edits if not isinstance(edit, Factorize))

    @property
    def factorisations(self) -> tuple[Factorize, ...]:
        """The layers that are factorised."""
        return tuple(edit for edit in self.edits if isinstance(edit, Factorize))

    def stages(self) -> tuple[Plan, ...]:
        """Split into plans that hold edits on channels only, or factorisations only; at least one."""
        runs = groupby(self.edits, key=lambda edit: isinstance(edit, Factorize))
        return tuple(Plan(tuple(edits)) for _, edits in runs) or (Plan(),)

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
    if name not in _READERS:
        raise UnknownNameError("edit", str(name), _READERS)
    try:
        return _READERS[name](data)
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"The edit {data!r} is not complete: {error!r}.") from error


def _prune_channels(data: Mapping[str, Any]) -> PruneChannels:
    return PruneChannels(str(data["group"]), _units(data["keep"]))


def _merge_channels(data: Mapping[str, Any]) -> MergeChannels:
    return MergeChannels(str(data["group"]), tuple(_units(cluster) for cluster in data["clusters"]))


def _factorize(data: Mapping[str, Any]) -> Factorize:
    rank = data["rank"]
    return Factorize(str(data["layer"]), str(data["scheme"]), tuple(rank) if isinstance(rank, list) else rank)


def _units(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(unit) for unit in values)


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Edit]] = {
    "prune_channels": _prune_channels,
    "merge_channels": _merge_channels,
    "factorize": _factorize,
}
