"""Matlab's bicubic `imresize`, exactly: the degradation that every published super-resolution figure rests on.

For uint8 each of the two passes rounds half up and clips before the next one, as Matlab does; PIL, OpenCV and torch's
own interpolation differ in the kernel, the border or the rounding, and 10 to 20 % of their values differ. One
implementation serves arrays on the CPU and batches on a device, and gives the same bytes on both: the taps of an output
are added one after another in float64, never by a matrix product, whose order of addition could turn a tie round.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Elements of one float64 accumulator: fits the cache of a CPU core (2 MB); on a device, few launches (at most 512 MB).
_BLOCK_ELEMENTS = 1 << 18
_BLOCK_ELEMENTS_DEVICE = 1 << 26
_HIGHEST = {torch.uint8: 255, torch.uint16: 65535}


def resize(
    image: NDArray[np.generic], *, scale: float | None = None, size: tuple[int, int] | None = None
) -> NDArray[np.generic]:
    """Resize an image as Matlab's `imresize(image, scale)` or `imresize(image, size)` does.

    Args:
        image: (H, W) or (H, W, C); uint8, uint16 or floating. Integers are rounded half up and clipped after each pass;
            floats are neither rounded nor clipped.
        scale: factor of both sides; the result has ceil(scale H) x ceil(scale W) pixels. Below 1 the kernel is widened
            (antialiasing).
        size: (height, width) of the result instead.

    Returns:
        A new array of the same dtype.

    Raises:
        ValueError: not an image of those types, or not exactly one of scale and size.
    """
    if image.ndim not in (2, 3):
        raise ValueError(f"an image has shape (H, W) or (H, W, C), not {image.shape}")
    tensor = torch.from_numpy(np.require(image, requirements=["C", "W"]))
    return _resize(tensor, (0, 1), scale, size).numpy()


def resize_tensor(image: Tensor, *, scale: float | None = None, size: tuple[int, int] | None = None) -> Tensor:
    """The same for tensors (..., H, W) on any device; equal to `resize` bit for bit on integers.

    Raises:
        ValueError: fewer than two dimensions, a type that is neither uint8, uint16 nor floating, or not exactly one of
            scale and size.
    """
    if image.ndim < 2:
        raise ValueError(f"an image has shape (..., H, W), not {tuple(image.shape)}")
    return _resize(image, (image.ndim - 2, image.ndim - 1), scale, size)


def _resize(image: Tensor, dims: tuple[int, int], scale: float | None, size: tuple[int, int] | None) -> Tensor:
    if image.dtype not in _HIGHEST and not image.is_floating_point():
        raise ValueError(f"only uint8, uint16 and floating images can be resized, not {image.dtype}")
    if (scale is None) == (size is None):
        raise ValueError("give either scale or size")
    lengths = [image.shape[dim] for dim in dims]
    if min(lengths) < 1:
        raise ValueError(f"the image is empty: {tuple(image.shape)}")
    if scale is not None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive, not {scale}")
        jobs = [(scale, dim, math.ceil(scale * n)) for dim, n in zip(dims, lengths, strict=True)]
    else:
        assert size is not None  # noqa: S101 - for the type checker; the test above has seen to it
        if min(size) < 1:
            raise ValueError(f"size must be positive, not {size}")
        jobs = [(out / n, dim, out) for dim, n, out in zip(dims, lengths, size, strict=True)]
    # Matlab does the dimension with the smaller factor first; rows when they are equal (the sort is stable).
    result = image if image.dtype in _HIGHEST else image.double()
    for factor, dim, out in sorted(jobs, key=lambda job: job[0]):
        if factor != 1 or out != result.shape[dim]:
            result = _one_pass(result, dim, out, factor)
    result = result.to(image.dtype)
    return result.clone() if result is image else result


def _one_pass(image: Tensor, dim: int, out: int, scale: float) -> Tensor:
    """Resize along one dimension; integers come back rounded half up and clipped, floats in float64."""
    indices_np, weights_np = _taps(image.shape[dim], out, scale)
    indices = torch.from_numpy(indices_np).to(image.device, non_blocking=True)
    column = [1] * image.ndim
    column[dim] = -1
    weights = torch.from_numpy(weights_np).to(image.device, non_blocking=True)
    highest = _HIGHEST.get(image.dtype)
    elements = _BLOCK_ELEMENTS if image.device.type == "cpu" else _BLOCK_ELEMENTS_DEVICE
    step = max(1, elements * image.shape[dim] // max(1, image.numel()))
    blocks = []
    for first in range(0, out, step):
        block = slice(first, first + step)
        total: Tensor | None = None
        # Two roundings a tap (multiply, then add), in the order of the taps: the same bytes on every device.
        for taps, factors in zip(indices[:, block], weights[:, block], strict=True):
            term = image.index_select(dim, taps).double().mul_(factors.reshape(column))
            total = term if total is None else total.add_(term)
        assert total is not None  # noqa: S101 - there is at least one tap
        blocks.append(total if highest is None else total.add_(0.5).floor_().clamp_(0, highest).to(image.dtype))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim)


@lru_cache(maxsize=256)
def _taps(length: int, out: int, scale: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for every tap and output the input index and the weight, both (taps, out), as Matlab's `contributions`.

    Beyond the border the image is mirrored with its edge pixel repeated (index -1 is 0, n is n-1).
    """
    narrow = min(scale, 1.0)  # shrinking widens the kernel by 1/scale
    width = 4.0 / narrow
    centre = np.arange(1, out + 1) / scale + 0.5 * (1 - 1 / scale)  # 1-based, as in Matlab
    positions = np.floor(centre - width / 2)[:, None] + np.arange(math.ceil(width) + 2)[None, :]
    weights = narrow * _cubic(narrow * (centre[:, None] - positions))
    weights /= weights.sum(axis=1, keepdims=True)
    folded = np.mod(positions.astype(np.int64) - 1, 2 * length)
    indices = np.minimum(folded, 2 * length - 1 - folded)
    used = weights.any(axis=0)
    return np.ascontiguousarray(indices[:, used].T), np.ascontiguousarray(weights[:, used].T)


def _cubic(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -1/2."""
    x = np.abs(t)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
