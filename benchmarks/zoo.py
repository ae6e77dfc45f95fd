"""Network definitions that the benchmarks run on: torchvision, and one small member of every timm family."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

# torchvision's compiled operators do not load beside a CPU build of another version; its Python definitions only
# need to know that they exist, and no network here runs one.
_OPERATORS = (
    *("nms", "qnms", "qroi_align"),
    *(f"{name}{suffix}" for name in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")
      for suffix in ("", "_backward")),
    *("_roi_align_backward", "_ps_roi_align_backward", "_roi_pool_backward", "_ps_roi_pool_backward"),
    "_deform_conv2d_backward",
)  # fmt: skip
_SIDES = {"inception_v3": (299, 299), "ssd300_vgg16": (300, 300)}
# Frames, height and width of the video networks; some fix them, the others get little.
_FILMS = {"mvit_v1_b": (16, 224, 224), "mvit_v2_s": (16, 224, 224), "s3d": (16, 224, 224)}
_FILM = (8, 112, 112)
MOST_PARAMETERS = 120_000_000


@dataclass(frozen=True)
class Entry:
    """One network definition: where it comes from, its name and its input size (channels, height, width).

    The input of a video network has frames after the channels.
    """

    source: str
    name: str
    size: tuple[int, ...]

    @property
    def label(self) -> str:
        """Source and name."""
        return f"{self.source}/{self.name}"


def declare_torchvision() -> torch.library.Library | None:
    """Declare torchvision's operators where its compiled part is missing; keep the result alive."""
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(f"{name}() -> ()")
    return library


def torchvision_entries() -> list[Entry]:
    """Every classification, segmentation and video definition, and the backbones of every detection definition."""
    import torchvision.models as zoo  # only here, after its operators are declared

    entries = []
    for module in (zoo, zoo.segmentation, zoo.detection):
        for name in zoo.list_models(module=module):
            entries.append(Entry("torchvision", name, (3, *_SIDES.get(name, (224, 224)))))
    entries += [Entry("torchvision", name, (3, *_FILMS.get(name, _FILM))) for name in zoo.list_models(module=zoo.video)]
    return entries


def timm_entries(cache: Path) -> list[Entry]:
    """The smallest member of every timm family, by parameters counted without memory; kept in a file."""
    if not cache.exists():
        cache.write_text(json.dumps([[entry.name, entry.size] for entry in _smallest_members()], indent=1) + "\n")
    return [Entry("timm", name, tuple(size)) for name, size in json.loads(cache.read_text())]


def _smallest_members() -> list[Entry]:
    import timm  # imports torchvision, whose operators must be declared first

    entries = []
    for family in timm.list_modules():
        members = [(parameters, name) for name in timm.list_models(module=family) if (parameters := _size(name))]
        if members:
            parameters, name = min(members)
            config = timm.get_pretrained_cfg(name)
            size = tuple(config.input_size) if config is not None else (3, 224, 224)
            entries.append(Entry("timm", name, size))
    return entries


def _size(name: str) -> int:
    """Parameters of a timm network, 0 where it cannot be built without memory."""
    import timm

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            network = timm.create_model(name)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError):
            return 0
    return sum(parameter.numel() for parameter in network.parameters())


def build(entry: Entry) -> nn.Module:
    """The network with random weights, in evaluation mode; of a detection network its backbone."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = _timm(entry.name) if entry.source == "timm" else _torchvision(entry.name)
    enliven(network)
    return network.eval()


def _timm(name: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name)
    return network


def _torchvision(name: str) -> nn.Module:
    import torchvision.models as zoo

    plain = any(name in zoo.list_models(module=module) for module in (zoo, zoo.video))
    network: nn.Module = zoo.get_model(name, weights=None, **({} if plain else {"weights_backbone": None}))
    return network.backbone if name in zoo.list_models(module=zoo.detection) else network  # type: ignore[return-value]


@torch.no_grad()
def enliven(network: nn.Module) -> None:
    """Give every tensor that starts as one number everywhere random numbers, so that no channel is without effect.

    Fresh networks switch whole branches off (a last norm or a layer scale at zero); a comparison of outputs
    would then not notice a wrong cut there.
    """
    for parameter in network.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            low = 0.5 if bool(parameter.flatten()[0] != 0) else -0.2
            parameter.uniform_(low, low + (1.0 if low > 0 else 0.4))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.2, 0.2)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
