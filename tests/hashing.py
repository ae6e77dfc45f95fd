"""A fingerprint of a network, to see that nobody has changed it."""

from __future__ import annotations

import hashlib

from torch import nn


def hashed(network: nn.Module) -> str:
    """Modules, their plain attributes, parameters, buffers and whether they train."""
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, (int, float, str, tuple))}
        digest.update(f"{name} {type(module)} {sorted(plain.items())}".encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes() + str(tensor.shape).encode())
    return digest.hexdigest()
