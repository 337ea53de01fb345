"""Matrices of weights in 8 bits: whole numbers from -127 to 127 and a scale for each row, half the size of fp16.

A file holds `NAME` as int8 (R, C) and `NAME.scale` as (R, 1); the weights are their product. `read_tensors` multiplies
them, so that whoever loads a file need not know how it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zoo_core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

SCALE = ".scale"  # behind the name of a matrix
LARGEST = 127
NARROWEST = 64  # columns: of narrower matrices 8 bits save next to nothing
LEAST_SCALE = 1e-20  # a row of zeros stays one


def compact(tensors: Mapping[str, Tensor], *, but: str | None = None) -> dict[str, Tensor]:
    """Return matrices in 8 bits, each row within half a step of its scale, and other floats in half precision.

    Args:
        tensors: by key, of any kind of number; whole numbers stay as they are.
        but: matrices with this in their name are kept in half precision.
    """
    import torch

    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            made[name] = tensor
        elif tensor.ndim == 2 and tensor.shape[1] >= NARROWEST and not (but and but in name):
            matrix = tensor.float()
            scale = (matrix.abs().amax(1, keepdim=True) / LARGEST).clamp(min=LEAST_SCALE)
            made[name], made[name + SCALE] = (matrix / scale).round().to(torch.int8), scale
        else:
            made[name] = tensor.half()
    return made


def widened(tensors: Mapping[str, Tensor], *, what: str) -> dict[str, Tensor]:
    """Return what `compact` made small with its matrices in fp32; all else as it is.

    Args:
        tensors: by key.
        what: what the tensors are, for messages.

    Raises:
        WeightsError: a scale is not one finite number a row.
    """
    import torch

    eight = {name for name, tensor in tensors.items() if tensor.dtype == torch.int8 and name + SCALE in tensors}
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in eight:
            made[name] = tensor.float() * _checked(name, tensor, tensors[name + SCALE], what).float()
        elif name.removesuffix(SCALE) not in eight or not name.endswith(SCALE):
            made[name] = tensor
    return made


def _checked(name: str, matrix: Tensor, scale: Tensor, what: str) -> Tensor:
    """Return the scale of a matrix, or say what is wrong with it."""
    remedy = "Get the file from its maker again, or use one in half precision."
    if matrix.ndim != 2 or scale.shape != (len(matrix), 1):
        have, want = (tuple(shape) for shape in (scale.shape, (*matrix.shape[:1], 1)))
        raise WeightsError(f"{what}: {name}{SCALE} has the shape {have}; {name} in 8 bits needs {want}.", remedy)
    if not scale.is_floating_point() or not scale.isfinite().all():
        raise WeightsError(f"{what}: {name}{SCALE} holds something else than finite numbers.", remedy)
    return scale
