"""Lets torchvision import beside a CPU build of torch, where its own compiled operators do not load."""

from __future__ import annotations

import torch

_WITH_GRADIENT = ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")
_OTHERS = ("nms", "qnms", "qroi_align")


def declare() -> torch.library.Library | None:
    """Declare the operators that torchvision describes at import; nothing that a test runs calls them.

    The declarations last as long as what this returns; None where torchvision brought its own.
    """
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in (*_OTHERS, *_WITH_GRADIENT, *(f"_{name}_backward" for name in _WITH_GRADIENT)):
        library.define(f"{name}() -> ()")
    return library
