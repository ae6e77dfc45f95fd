"""Reads a trained network from a file, without ever running code that the file brings along unless told to."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edgeprune.errors import MissingExtraError, ModelError
from edgeprune.files import sha256_of
from edgeprune.network.exported import network_from_exported_program
from edgeprune.network.factories import call_factory, current_directory_on_path, nearest
from edgeprune.network.weights import check_finite, load_weights, state_dict_of

_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors", ".pt2")
_TRUNCATED = "The file {path} cannot be read: it is cut short or damaged ({reason}). Copy it again."


@dataclass(frozen=True)
class Origin:
    """Where a network came from; `format` is "state_dict", "safetensors", "pt2" or "pickle"."""

    path: Path
    sha256: str
    arch: str | None
    format: str


@dataclass(frozen=True)
class Model:
    """A trained network in eval mode on the CPU, its origin, and what the user should know of how it was read.

    `example_inputs` are those that a .pt2 archive was exported with.
    """

    module: nn.Module
    origin: Origin
    notes: tuple[str, ...] = ()
    example_inputs: tuple[torch.Tensor, ...] | None = None


def load_model(path: str | Path, arch: str | None = None, trust_pickle: bool = False) -> Model:
    """Read a state dict (with `arch`), a `.pt2` archive or, when trusted, a pickled module; raises ModelError.

    `arch` is `package.module:factory` or `timm:NAME`. The file is only read.
    """
    path = Path(path)
    kind = _format_of(path)
    notes: tuple[str, ...]
    example_inputs = None
    if kind == "pt2":
        module, example_inputs = _read_exported(path)
        notes = _ignored(arch, "the .pt2 archive holds its architecture")
    else:
        module, kind, notes = _read_saved(path, arch, trust_pickle, kind)
    check_finite(module)
    module.eval()
    origin = Origin(path, sha256_of(path), arch if kind not in ("pt2", "pickle") else None, kind)
    return Model(module, origin, notes, example_inputs)


def _format_of(path: Path) -> str:
    """Look inside rather than at the suffix: `.pt` is a state dict, a pickled module or TorchScript."""
    _check_readable(path)
    if path.suffix == ".safetensors":
        return "safetensors"
    if not zipfile.is_zipfile(path):
        if path.suffix == ".pt2":
            raise ModelError(_TRUNCATED.format(path=path, reason="no archive"))
        return "state_dict"
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "archive_format" in names:
        return "pt2"
    if "constants.pkl" in names:
        raise ModelError(
            f"{path} is a TorchScript archive, whose layers cannot be cut. Give the state dict of the network that it "
            "was made from (torch.save(network.state_dict(), ...)), with --arch package.module:factory."
        )
    return "state_dict"


def _check_readable(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"The model file {path} {what}.{_beside(path)}")
    if path.stat().st_size == 0:
        raise ModelError(f"The model file {path} is empty. Copy it again.")
    if path.suffix == ".onnx":
        raise ModelError(f"{path} is an ONNX file; give the PyTorch weights that it was exported from, with --arch.")


def _beside(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Nor does the folder {path.parent}."
    return nearest(path.name, (p.name for p in path.parent.iterdir() if p.suffix in _SUFFIXES))


def _read_exported(path: Path) -> tuple[nn.Module, tuple[torch.Tensor, ...] | None]:
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(_TRUNCATED.format(path=path, reason=_first_line(error))) from error
    inputs = program.example_inputs[0] if program.example_inputs else ()
    only_tensors = bool(inputs) and all(isinstance(value, torch.Tensor) for value in inputs)
    return network_from_exported_program(program), tuple(inputs) if only_tensors else None


def _ignored(arch: str | None, why: str) -> tuple[str, ...]:
    return (f"--arch {arch} was not used: {why}.",) if arch else ()


def _read_saved(path: Path, arch: str | None, trust_pickle: bool, kind: str) -> tuple[nn.Module, str, tuple[str, ...]]:
    saved = _read_safetensors(path) if kind == "safetensors" else _read_pickle(path, trust_pickle)
    if isinstance(saved, nn.Module):
        return saved, "pickle", _ignored(arch, "the pickle holds a whole module")
    weights, notes = state_dict_of(saved, path)
    if arch is None:
        raise ModelError(
            f"{path} holds weights only. Add --arch package.module:factory (a function that returns the network) or "
            "--arch timm:NAME."
        )
    module = _build(arch)
    return module, kind, notes + load_weights(module, weights, arch)


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(_TRUNCATED.format(path=path, reason=_first_line(error))) from error


def _read_pickle(path: Path, trust_pickle: bool) -> Any:
    try:
        with current_directory_on_path():
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if trust_pickle or ("GLOBAL" not in str(error) and not _begins_like_a_pickle(path)):
            raise ModelError(_TRUNCATED.format(path=path, reason=_first_line(error))) from error
        named = str(error).partition("GLOBAL ")[2].partition(" ")[0]
        what = f" (it names {named})" if named else ""
        raise ModelError(
            f"{path} is a pickle that holds more than tensors{what}, and reading it can run any code. "
            "Save the state dict instead, or add --trust-pickle if you trust where the file came from."
        ) from error
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"{path} is a pickle that needs code which is not here: {error}. Run in the folder of that code."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(_TRUNCATED.format(path=path, reason=_first_line(error))) from error


def _begins_like_a_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"  # the opcode that names the protocol


def _build(arch: str) -> nn.Module:
    module = _build_timm(arch[5:]) if arch.startswith("timm:") else call_factory(arch, "--arch", ModelError)
    if not isinstance(module, nn.Module):
        raise ModelError(f"--arch {arch!r} returned a {type(module).__name__}, not a torch.nn.Module.")
    return module


def _build_timm(name: str) -> nn.Module:
    try:
        import timm
    except (ImportError, RuntimeError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "timm":
            raise MissingExtraError("timm", "timm") from error
        raise ModelError(f"--arch 'timm:{name}': timm does not import here: {_first_line(error)}.") from error
    if not timm.is_model(name):
        raise ModelError(f"--arch 'timm:{name}': timm has no such model.{nearest(name, timm.list_models())}")
    create: Callable[..., nn.Module] = timm.create_model
    return create(name, pretrained=False)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
