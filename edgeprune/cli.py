"""The command line: finds the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgeprune import __version__
from edgeprune.errors import EdgepruneError
from edgeprune.settings import default_map

# In the order of the help; each is the file of that name in edgeprune/commands/, with its flags on `command`.
_COMMANDS = (
    "compress",
    "inspect",
    "probe",
    "profile",
    "export",
    "apply",
    "bench",
    "compare",
    "gate",
    "history",
    "report",
    "targets",
    "doctor",
    "list",
    "demo",
)


class _Commands(TyperGroup):
    """Turns an EdgepruneError of any command into one clear line and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors of edgeprune end the program without a traceback."""
        try:
            return super().invoke(ctx)
        except EdgepruneError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("Stopped. What was finished is on disk; a compress run goes on with --resume.", err=True)
            raise typer.Exit(130) from None


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgeprune {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take what stands before a command."""


def build_app() -> typer.Typer:
    """Return the command line with every command."""
    app = typer.Typer(
        cls=_Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Make a trained PyTorch network run in the milliseconds your board allows, measured on the board.",
    )
    app.callback()(_options)
    for name in _COMMANDS:
        command = import_module(f"edgeprune.commands.{name}").command
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> None:
    """Run the command line with the settings of `edgeprune.toml`, if there is one here."""
    app = build_app()
    try:
        settings = default_map(Path("edgeprune.toml"), typer.main.get_command(app))
    except EdgepruneError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    app(default_map=settings, prog_name="edgeprune")


if __name__ == "__main__":
    main()
