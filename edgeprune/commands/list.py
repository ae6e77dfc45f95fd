"""List the plug-ins of a kind."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeprune.commands.answering import show
from edgeprune.commands.flags import Json


def command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="methods, controllers, runtimes, transports or targets.")],
    as_json: Json = False,
) -> None:
    """List the plug-ins of a kind; a broken one is listed with what is wrong with it."""
    from edgeprune.listing import answer

    show(answer(kind), as_json)
