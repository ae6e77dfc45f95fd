"""Attributes of PyTorch's own layers that follow the shapes of their tensors."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from edgeprune.network.coupling.rules_reduce import whole_blocks


def follow_shapes(model: nn.Module, carried: frozenset[str], before: dict[str, tuple[int, ...]]) -> None:
    """Set the sizes that PyTorch's layers remember to those of their tensors.

    `carried` names the weights of grouped layers whose blocks were cut whole; `before` holds the shapes of all
    tensors before the cut.
    """
    for name, module in model.named_modules():
        weight = f"{name}.weight" if name else "weight"
        if weight not in before or tuple(module.weight.shape) == before[weight]:
            continue
        if isinstance(module, _ConvNd):
            _convolution(module, before[weight], weight in carried)
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.GroupNorm):
            _group_norm(module, before[weight][0])
        else:
            _other(module)


def _convolution(module: _ConvNd, before: tuple[int, ...], carried: bool) -> None:
    shape = module.weight.shape
    if carried:
        module.groups = module.groups * shape[0] // before[0]
    if module.transposed:
        module.in_channels, module.out_channels = shape[0], shape[1] * module.groups
    else:
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups


def _group_norm(module: nn.GroupNorm, before: int) -> None:
    size = before // module.num_groups
    if whole_blocks(module.num_groups, size):
        module.num_groups = module.weight.shape[0] // size
    module.num_channels = module.weight.shape[0]


def _other(module: nn.Module) -> None:
    """Norms, embeddings and PReLU."""
    weight: Tensor = module.weight  # type: ignore[assignment]  # the caller has seen that it is a tensor
    if isinstance(module, _NormBase):
        module.num_features = weight.shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        module.embedding_dim = weight.shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.numel()
