"""The command line: parse, call, print. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from edgeprune.errors import EdgepruneError
from edgeprune.settings import default_map

if TYPE_CHECKING:
    from edgeprune.listing import Answer
    from edgeprune.progress import Progress


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


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make a trained PyTorch network run in the milliseconds your board allows, measured on the board.",
)

ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL", help="State dict (.pt, .safetensors), .pt2 or pickled module.")
]
Arch = Annotated[
    str | None,
    typer.Option(
        envvar="EDGEPRUNE_ARCH", help="What builds the network of a state dict: package.module:factory or timm:NAME."
    ),
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Load a pickled module. It can run any code: only for files you made.")
]
DataSpec = Annotated[
    str | None,
    typer.Option("--data", help=".npz with images and labels, folder with train/ and val/, or package.module:factory."),
]
Mean = Annotated[
    str | None, typer.Option(envvar="EDGEPRUNE_MEAN", help="Channel means of .npz or folder data: 0.485,0.456,0.406.")
]
Std = Annotated[str | None, typer.Option(envvar="EDGEPRUNE_STD", help="Channel deviations of .npz or folder data.")]
InputSize = Annotated[
    str | None,
    typer.Option(envvar="EDGEPRUNE_INPUT_SIZE", help="Shape of one input: 3x224x224, or 224x224 for images."),
]
TargetName = Annotated[
    str, typer.Option("--target", envvar="EDGEPRUNE_TARGET", help="Where to measure; see: edgeprune list targets.")
]
Latency = Annotated[str | None, typer.Option(envvar="EDGEPRUNE_LATENCY", help="8ms, 500us, or 60% of the original.")]
Size = Annotated[str | None, typer.Option(envvar="EDGEPRUNE_SIZE", help="4MB, 700KB, or 50% of the original.")]
Macs = Annotated[str | None, typer.Option(envvar="EDGEPRUNE_MACS", help="60M, 1.2G, or 50% of the original.")]
MaxDrop = Annotated[
    str | None, typer.Option(envvar="EDGEPRUNE_MAX_DROP", help="Largest accuracy loss: 1% (relative) or 0.5pt.")
]
MethodName = Annotated[
    str, typer.Option("--method", envvar="EDGEPRUNE_METHOD", help="Which units stay; see: edgeprune list methods.")
]
ControllerName = Annotated[
    str,
    typer.Option("--controller", envvar="EDGEPRUNE_CONTROLLER", help="How many stay; see: edgeprune list controllers."),
]
Epochs = Annotated[int, typer.Option(envvar="EDGEPRUNE_EPOCHS", help="Epochs of recovery training.")]
Seed = Annotated[int, typer.Option(envvar="EDGEPRUNE_SEED", help="Seed of everything random.")]
Out = Annotated[Path, typer.Option(envvar="EDGEPRUNE_OUT", help="Folder for the files; it is made.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command()
def compress(  # noqa: PLR0913  # a command line has as many parameters as it has flags
    model: ModelFile,
    target: TargetName = "host",
    data: DataSpec = None,
    arch: Arch = None,
    latency: Latency = None,
    size: Size = None,
    macs: Macs = None,
    max_drop: MaxDrop = None,
    method: MethodName = "taylor",
    controller: ControllerName = "bisect",
    epochs: Epochs = 3,
    seed: Seed = 0,
    out: Out = Path("runs/latest"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    trust_pickle: TrustPickle = False,
    mean: Mean = None,
    std: Std = None,
    input_size: InputSize = None,
    as_json: Json = False,
) -> None:
    """Cut, train and export a network until it meets the budget as measured on the target."""
    from edgeprune import commands
    from edgeprune.run.job import Choices

    budget = commands.budget_from_text(latency, size, macs, max_drop)
    choices = Choices(method, controller, epochs, seed)
    source = commands.Source(model, arch, trust_pickle, data, commands.Pictures(mean, std, input_size, seed))
    place = commands.Place(out, resume, _progress(as_json))
    result = commands.compress(source, target, budget, choices, place)
    _print(commands.describe(result, out), as_json)
    raise typer.Exit(commands.EXIT_CODES[result.verdict])


@app.command()
def inspect(  # noqa: PLR0913  # as above
    model: ModelFile,
    arch: Arch = None,
    data: DataSpec = None,
    input_size: InputSize = None,
    graph: Annotated[Path | None, typer.Option(help="Draw the couplings into this .svg file.")] = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Show layers, groups of coupled channels, MACs, and what cannot be pruned and why."""
    from edgeprune import commands

    source = commands.Source(model, arch, trust_pickle, data, commands.Pictures(input_size=input_size))
    _print(commands.inspect(source, graph), as_json)


@app.command()
def export(  # noqa: PLR0913  # as above
    model: ModelFile,
    to: Annotated[str, typer.Option("--to", envvar="EDGEPRUNE_TO", help="onnx or tflite.")] = "onnx",
    out: Out = Path("exported"),
    arch: Arch = None,
    data: DataSpec = None,
    input_size: InputSize = None,
    trust_pickle: TrustPickle = False,
    as_json: Json = False,
) -> None:
    """Write a network as ONNX or TFLite and prove that the file computes the same."""
    from edgeprune import commands

    source = commands.Source(model, arch, trust_pickle, data, commands.Pictures(input_size=input_size))
    _print(commands.export(source, to, out, _progress(as_json)), as_json)


@app.command()
def bench(
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT...", help="Files that the target can load.")],
    target: TargetName = "host",
    out: Annotated[
        Path | None, typer.Option(help="Also write the measurement, with raw samples, to this .json file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the latency distribution of artifacts on a target."""
    from edgeprune import commands

    _print(commands.bench(artifacts, target, out, _progress(as_json)), as_json)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a finished run.")],
    as_json: Json = False,
) -> None:
    """Write report.html and report.md of a finished run again."""
    from edgeprune import commands

    _print(commands.report(run_dir), as_json)


@app.command("list")
def list_plugins(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="methods, controllers, runtimes, transports or targets.")],
    as_json: Json = False,
) -> None:
    """List the plug-ins of a kind; a broken one is listed with what is wrong with it."""
    from edgeprune.listing import answer

    _print(answer(kind), as_json)


@app.command()
def demo(out: Out = Path("runs/demo"), as_json: Json = False) -> None:
    """Train a small network on handwritten digits and compress it to 60 % of its latency on this machine."""
    from edgeprune import commands
    from edgeprune.demo import run_demo

    result = run_demo(out, _progress(as_json))
    _print(commands.describe(result, out / "run"), as_json)
    raise typer.Exit(commands.EXIT_CODES[result.verdict])


def main() -> None:
    """Run the command line with the settings of `edgeprune.toml`, if there is one here."""
    try:
        settings = default_map(Path("edgeprune.toml"), typer.main.get_command(app))
    except EdgepruneError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    app(default_map=settings, prog_name="edgeprune")


def _progress(as_json: bool) -> Progress:
    from edgeprune.progress import Silent
    from edgeprune.terminal import TerminalProgress

    return Silent() if as_json else TerminalProgress()


def _print(answer: Answer, as_json: bool) -> None:
    typer.echo(json.dumps(answer.data, indent=1, allow_nan=False) if as_json else answer.text)


if __name__ == "__main__":
    main()
