"""The flags that several commands share, each with one name, one meaning and one environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
TargetNames = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        envvar="EDGEPRUNE_TARGET",
        show_default="host",
        help="Where to measure; see: edgeprune list targets. Several times: one network that meets the budget on each.",
    ),
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        "--precision", envvar="EDGEPRUNE_PRECISION", help="fp32, fp16 or int8; without it, the target's own precision."
    ),
]
Latency = Annotated[str | None, typer.Option(envvar="EDGEPRUNE_LATENCY", help="8ms, 500us, or 60% of the original.")]
Latencies = Annotated[
    list[str] | None,
    typer.Option(
        "--latency",
        envvar="EDGEPRUNE_LATENCY",
        help="8ms, 500us, or 60% of the original. Several times: one for each --target, in their order.",
    ),
]
Size = Annotated[str | None, typer.Option(envvar="EDGEPRUNE_SIZE", help="4MB, 700KB, or 50% of the original.")]
Macs = Annotated[str | None, typer.Option(envvar="EDGEPRUNE_MACS", help="60M, 1.2G, or 50% of the original.")]
Memory = Annotated[
    str | None,
    typer.Option(
        envvar="EDGEPRUNE_MEMORY",
        help="What the network adds to the process at its peak, engine not counted: 32MB, or 50% of the original.",
    ),
]
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
Epochs = Annotated[int, typer.Option(envvar="EDGEPRUNE_EPOCHS", help="Epochs of training.")]
ShapeEpochs = Annotated[
    int | None,
    typer.Option(
        envvar="EDGEPRUNE_SHAPE_EPOCHS",
        help="How many of the epochs shape the network before the cut, with a method that trains; half, if not given.",
    ),
]
Seed = Annotated[int, typer.Option(envvar="EDGEPRUNE_SEED", help="Seed of everything random.")]
Out = Annotated[Path, typer.Option(envvar="EDGEPRUNE_OUT", help="Folder for the files; it is made.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", envvar="EDGEPRUNE_MODEL", help="The name that results go by in limits and store."),
]
StoreFile = Annotated[
    Path, typer.Option("--store", envvar="EDGEPRUNE_STORE", help="Where results are kept over time; it is made.")
]
