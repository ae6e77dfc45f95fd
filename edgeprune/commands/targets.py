"""Your own boards: add one under a name, look at it, remove it, clean up on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from edgeprune.commands.answering import show
from edgeprune.commands.flags import Json
from edgeprune.listing import Answer

Name = Annotated[str, typer.Argument(metavar="NAME", help="A target; see: edgeprune targets list.")]

command = typer.Typer(no_args_is_help=False, rich_markup_mode=None, help=__doc__)


@command.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List, show, add, remove and clean targets."""
    if context.invoked_subcommand is None:
        show(list_answer(), as_json=False)


@command.command("list")
def list_command(as_json: Json = False) -> None:
    """List your own targets and those that come with edgeprune."""
    show(list_answer(), as_json)


@command.command("show")
def show_command(name: Name, as_json: Json = False) -> None:
    """Show everything that is known of a target."""
    show(show_answer(name), as_json)


@command.command("add")
def add_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call the board.")],
    like: Annotated[str, typer.Option(help="The family of the board; see: edgeprune targets list.")],
    address: Annotated[str, typer.Option(help="ssh://USER@HOST or ssh://USER@HOST:PORT; never a password.")],
    python: Annotated[str | None, typer.Option(help="The interpreter on the board that has the engine.")] = None,
    kind: Annotated[str | None, typer.Option(help="What the board is, if not real: icount or emulated.")] = None,
    project: Annotated[bool, typer.Option("--project", help="Write edgeprune-targets.toml in this folder.")] = False,
    as_json: Json = False,
) -> None:
    """Add a board of your own."""
    given = {"address": address, "python": python, "kind": kind}
    changes = {key: value for key, value in given.items() if value}
    show(add_answer(name, like, changes, project), as_json)


@command.command("remove")
def remove_command(name: Name, as_json: Json = False) -> None:
    """Forget a board of your own; what lies on it stays, see `clean`."""
    from edgeprune.bench.inventory import remove_target

    path = remove_target(name)
    show(Answer({"removed": name, "file": str(path)}, f"{name} is no target any more (removed from {path})."), as_json)


@command.command("clean")
def clean_command(name: Name, as_json: Json = False) -> None:
    """Remove the files that edgeprune left on a board for the next time."""
    show(clean_answer(name), as_json)


def list_answer() -> Answer:
    """Return one line a target, the user's own first."""
    from edgeprune.bench.inventory import own_targets
    from edgeprune.listing import answer

    listed, own = answer("targets"), own_targets()
    data = [{**entry, "yours": entry["name"] in own} for entry in listed.data]
    hint = (
        "" if own else "\n\nAdd a board of your own: edgeprune targets add NAME --like FAMILY --address ssh://USER@HOST"
    )
    return Answer(data, listed.text + hint)


def show_answer(name: str) -> Answer:
    """Return what a target is made of; raises UsageError."""
    from edgeprune.bench.target import load_target

    data = {key: value for key, value in asdict(load_target(name)).items() if value not in (None, (), {})}
    return Answer(data, "\n".join(_lines(data)))


def add_answer(name: str, like: str, changes: dict[str, Any], project: bool) -> Answer:
    """Add a target, once it is known to be one that can be reached and built for; raises UsageError."""
    from edgeprune.bench.inventory import PROJECT_FILE, OwnTarget, add_target, user_file
    from edgeprune.bench.link import transport_of
    from edgeprune.bench.target import complete, list_targets

    own = OwnTarget(name, like, changes, PROJECT_FILE.absolute() if project else user_file())
    transport_of(complete(own))
    add_target(own, list_targets())
    text = f"{name} is a target now (in {own.path}).\nSee whether it is ready: edgeprune doctor {name}"
    return Answer({"added": name, "like": like, **changes, "file": str(own.path)}, text)


def clean_answer(name: str) -> Answer:
    """Clean a board while nobody measures on it; raises BoardError."""
    from edgeprune.bench.link import open_link
    from edgeprune.bench.target import load_target

    with open_link(load_target(name)) as link:
        size_bytes = link.transport.clean()
    return Answer({"cleaned": name, "bytes": size_bytes}, f"Removed {size_bytes / 1e6:.1f} MB from {name}.")


def _lines(data: Any, indent: str = "") -> list[str]:
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_lines(value, indent + "  ")]
        elif isinstance(value, tuple) and value and isinstance(value[0], dict):
            for part in value:
                lines += [f"{indent}{key}", *_lines(part, indent + "  ")]
        elif value not in (None, (), ""):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            lines.append(f"{indent}{key:<{max(18 - len(indent), 1)}} {shown}")
    return lines
