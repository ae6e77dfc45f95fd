"""Coupled channels as data: which positions of which tensors one unit owns, and what binds the units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgeprune.bench.layer_shape import LayerShape, shape_from_dict

SCHEMA = 1

Role = Literal["writer", "carrier", "reader"]

# Kept units of each group, by group name; a group that is not named stays whole.
Allocation = Mapping[str, int]
# One importance per unit, by group name; larger means keep, and values compare across groups.
Scores = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Slice:
    """The positions that the units of a group own along one dimension of one parameter or buffer.

    `index[u]` holds the positions of unit `u` along `dim` of the tensor with the qualified name `tensor`.
    A writer produces the units, a carrier follows them, a reader consumes them.
    """

    tensor: str
    dim: int
    role: Role
    index: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class EqualCounts:
    """Every block of units must keep equally many (the channel groups of a grouped convolution)."""

    blocks: tuple[tuple[int, ...], ...]
    reason: str


@dataclass(frozen=True)
class Group:
    """Units of several tensors that must be kept or removed together.

    `kind` says what one unit is: "channel" or "head". `macs` and `parameters` are what removing one unit
    from the otherwise whole network saves. `exact` is False where a norm or another statistic runs across the
    units, so that removing one changes what the others become. `counts` are the numbers of units that may stay,
    ascending, where not every number may.
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    constraints: tuple[EqualCounts, ...] = ()
    kind: str = "channel"
    macs: int = 0
    parameters: int = 0
    exact: bool = True
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Quarantine:
    """Channels that are left alone, why, where, and what the user can do about it."""

    name: str
    reason: str
    operation: str
    module: str
    location: str  # file:line, "" where unknown
    remedy: str


@dataclass(frozen=True)
class Layer:
    """A layer with multiply-accumulates, and the groups that its input and output channels belong to.

    `in_group` and `out_group` own most of the channels on that side. `in_parts` and `out_parts` say how many
    channels each group owns there (several after a concatenation); None owns what belongs to no group. A layer
    that is `apart` treats each unit by itself, so that both sides are one and its work shrinks once with it.
    """

    name: str
    kind: str  # "conv", "depthwise", "linear", "matmul", ...
    macs: int
    parameters: int
    in_group: str | None
    out_group: str | None
    in_parts: tuple[tuple[str | None, int], ...] = ()
    out_parts: tuple[tuple[str | None, int], ...] = ()
    apart: bool = False


@dataclass(frozen=True)
class Factorisation:
    """What a layer becomes by the kept units of a group of ranks: whole with all of them, else a chain of layers.

    `ranks[kept - 1]` is the rank of that many units in the words of the scheme. `chains` are the layers of the chain
    for those counts that need fewer multiply-accumulates than the whole layer. `energies` says what part of the
    layer's energy each unit holds, `least` for each rank the fewest (inputs, outputs) that a layer of it must have.
    """

    layer: str
    group: str
    scheme: str
    ranks: tuple[tuple[int, ...], ...]
    chains: tuple[tuple[int, tuple[LayerShape, ...]], ...]
    energies: tuple[float, ...]
    least: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Structure:
    """All that is known of a network's coupled channels and ranks; no pointer into the network."""

    groups: tuple[Group, ...]
    quarantined: tuple[Quarantine, ...]
    layers: tuple[Layer, ...]
    factorisations: tuple[Factorisation, ...] = ()

    def with_ranks_only(self) -> Structure:
        """Return the structure without its coupled channels: their layers keep all of them."""
        ranks = {found.group for found in self.factorisations}
        layers = tuple(
            replace(
                layer,
                in_group=None,
                out_group=None,
                in_parts=tuple((None, channels) for _, channels in layer.in_parts),
                out_parts=tuple((None, channels) for _, channels in layer.out_parts),
            )
            for layer in self.layers
        )
        return replace(self, groups=tuple(group for group in self.groups if group.name in ranks), layers=layers)

    def without_ranks(self) -> Structure:
        """Return the structure with its coupled channels alone: no layer is factorised."""
        ranks = {found.group for found in self.factorisations}
        groups = tuple(group for group in self.groups if group.name not in ranks)
        return replace(self, groups=groups, factorisations=())


def needed_units(group: Group) -> tuple[tuple[int, ...], ...]:
    """Sets of units of which one each must stay, because together they are all that a tensor has of this group.

    Only a group that equal counts bind together from several layers has such sets: its other units are elsewhere.
    """
    if not group.constraints:
        return ()
    sets = {tuple(unit for unit, own in enumerate(index) if own) for index in {piece.index for piece in group.slices}}
    return tuple(sorted(units for units in sets if len(units) < group.size))


def structure_to_dict(structure: Structure) -> dict[str, Any]:
    """Plain data that JSON can hold; `structure_from_dict` reads it back to an equal structure."""
    return {"schema": SCHEMA, **asdict(structure)}


def structure_from_dict(data: Mapping[str, Any]) -> Structure:
    """Read what `structure_to_dict` wrote."""
    return Structure(
        tuple(_group_from_dict(item) for item in data["groups"]),
        tuple(Quarantine(**item) for item in data["quarantined"]),
        tuple(Layer(**{key: _frozen(value) for key, value in item.items()}) for item in data["layers"]),
        tuple(_factorisation_from_dict(item) for item in data["factorisations"]),
    )


def _factorisation_from_dict(data: Mapping[str, Any]) -> Factorisation:
    chains = tuple((count, tuple(shape_from_dict(shape) for shape in chain)) for count, chain in data["chains"])
    tuples = {name: _frozen(data[name]) for name in ("ranks", "energies", "least")}
    return Factorisation(**{**data, **tuples, "chains": chains})


def _group_from_dict(data: Mapping[str, Any]) -> Group:
    fields = dict(data)
    fields["slices"] = tuple(Slice(**{key: _frozen(value) for key, value in item.items()}) for item in data["slices"])
    fields["counts"] = tuple(data["counts"])
    fields["constraints"] = tuple(EqualCounts(_frozen(item["blocks"]), item["reason"]) for item in data["constraints"])
    return Group(**fields)


def _frozen(value: Any) -> Any:
    """Lists, at any depth, as tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def coverage(structure: Structure) -> float:
    """The part of the multiply-accumulates that lies in layers which some group can make smaller."""
    total = sum(layer.macs for layer in structure.layers)
    covered = sum(layer.macs for layer in structure.layers if layer.in_group or layer.out_group)
    return covered / total if total else 0.0


def structure_to_text(structure: Structure) -> str:
    """A table of the groups, the coverage, and what is quarantined and what to do about it."""
    macs = sum(layer.macs for layer in structure.layers) or 1
    rows = [("group", "units", "kind", "tensors", "% MACs a unit", "parameters a unit", "constraints")]
    for group in structure.groups:
        tensors = len({piece.tensor for piece in group.slices})
        bounds = "; ".join(constraint.reason for constraint in group.constraints) or "-"
        share = f"{100 * group.macs / macs:.4f}"
        kind = group.kind if group.exact else f"{group.kind} (norm)"
        rows.append((group.name, str(group.size), kind, str(tensors), share, str(group.parameters), bounds))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(f"{len(structure.groups)} groups; {100 * coverage(structure):.1f} % of the MACs can be cut.")
    for item in structure.quarantined:
        where = ", ".join(text for text in (item.module, item.location) if text)
        lines.append(f"left alone: {item.name}: {item.reason} ({item.operation}; {where}). {item.remedy}")
    return "\n".join(lines)
