"""Singular values and vectors, found also where the fast algorithm does not converge."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.errors import PlanError


def svd(matrices: Tensor, whole: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors of the rows, the values, and the vectors of the columns of (..., rows, columns).

    `whole` completes the vectors of both sides to square bases. Raises PlanError where no algorithm finds them.
    """
    try:
        left, values, right = torch.linalg.svd(matrices, full_matrices=whole)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of PyTorch
        return _by_iteration(matrices, whole)
    return left, values, right


def singular_values(matrices: Tensor) -> Tensor:
    """Return the singular values of (..., rows, columns), largest first; raises PlanError as `svd` does."""
    try:
        values: Tensor = torch.linalg.svdvals(matrices)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of PyTorch
        return _by_iteration(matrices, whole=False)[1]
    return values


def _by_iteration(matrices: Tensor, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    """QR iterations, matrix by matrix: slower than divide and conquer, and they converge where that does not."""
    from scipy.linalg import LinAlgError
    from scipy.linalg import svd as lapack_svd

    flat = matrices.detach().cpu().double().reshape(-1, *matrices.shape[-2:])
    try:
        found = [lapack_svd(one.numpy(), full_matrices=whole, lapack_driver="gesvd") for one in flat]
    except (LinAlgError, ValueError) as error:
        raise PlanError(f"its singular values were not found ({error})") from error
    stacked = (torch.stack([torch.from_numpy(part) for part in parts]) for parts in zip(*found, strict=True))
    left, values, right = (part.reshape(*matrices.shape[:-2], *part.shape[1:]).to(matrices) for part in stacked)
    return left, values, right
