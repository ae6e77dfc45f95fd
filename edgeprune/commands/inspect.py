"""Show what of a network can be cut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeprune.commands.answering import show
from edgeprune.commands.flags import Arch, DataSpec, InputSize, Json, ModelFile, TrustPickle
from edgeprune.commands.source import Pictures, Source, load_source_model, source_inputs
from edgeprune.listing import Answer


def command(
    model: ModelFile,
    arch: Arch = None,
    data: DataSpec = None,
    input_size: InputSize = None,
    graph: Annotated[Path | None, typer.Option(help="Draw the couplings into this .svg file.")] = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Show layers, groups of coupled channels, MACs, and what cannot be pruned and why."""
    source = Source(model, arch, trust_pickle, data, Pictures(input_size=input_size))
    show(inspect(source, graph), as_json)


def inspect(source: Source, graph: Path | None) -> Answer:
    """Carry out `edgeprune inspect`, and draw the couplings into `graph`; raises EdgepruneError."""
    from edgeprune.files import write_text
    from edgeprune.network.drawing import draw_couplings
    from edgeprune.network.groups import structure_to_dict, structure_to_text
    from edgeprune.network.structure import network_structure
    from edgeprune.network.surgery import fixed_size

    model = load_source_model(source)
    inputs = source_inputs(source, model)
    structure = network_structure(model.module, inputs)
    fixed = fixed_size(model.module, inputs)
    if graph is not None:
        write_text(graph, draw_couplings(structure))
    text = structure_to_text(structure) + (f"\nonly in the exported graph: {fixed}" if fixed else "")
    return Answer({**structure_to_dict(structure), "fixed_size": fixed}, text)
