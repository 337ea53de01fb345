"""Maps with a zero border: the storage that the kernels read and write.

A map of H x W pixels and C channels is a tensor (H + 5, W + 2, C): one row above and four below, one column left and
right, channels last. The border is zero and nobody writes it, so a 3x3 convolution needs no masks on its loads; of
the four rows below, the first is border and the others let a kernel work on groups of up to four rows when H is no
multiple of that. A slice of the channels of a map is a map too.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS_ABOVE = 1
ROWS_BELOW = 4
ROWS_EXTRA = ROWS_ABOVE + ROWS_BELOW
COLUMNS_EXTRA = 2
ELEMENTS_LIMIT = 2**31  # offsets inside one map are 32 bits wide


def new_maps(
    count: int, height: int, width: int, channels: int, *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Return `count` empty maps as one zeroed tensor (count, height + 5, width + 2, channels)."""
    return torch.zeros(count, height + ROWS_EXTRA, width + COLUMNS_EXTRA, channels, dtype=dtype, device=device)


def interior(maps: Tensor) -> Tensor:
    """Return the pixels without the border: (..., H + 5, W + 2, C) -> view (..., H, W, C)."""
    return maps[..., ROWS_ABOVE:-ROWS_BELOW, 1:-1, :]


def size_of(maps: Tensor) -> tuple[int, int]:
    """Return (H, W) of a map or of a stack of maps."""
    return maps.shape[-3] - ROWS_EXTRA, maps.shape[-2] - COLUMNS_EXTRA


def check_map(name: str, maps: Tensor, channels: int | None = None) -> None:
    """Refuse what the kernels cannot address.

    Args:
        name: what the message calls it.
        maps: (..., H + 5, W + 2, C), possibly a slice of the channels.
        channels: C, if it must have a given value.

    Raises:
        ValueError: channels are strided, rows are not contiguous, C is another, or a map has 2^31 elements or more.
    """
    pixel = maps.stride(-2)
    if maps.stride(-1) != 1 or maps.stride(-3) != maps.shape[-2] * pixel:
        raise ValueError(f"{name}: strides {maps.stride()} are not those of a channel-last map")
    if channels is not None and maps.shape[-1] != channels:
        raise ValueError(f"{name}: {maps.shape[-1]} channels, expected {channels}")
    if maps.shape[-3] * maps.shape[-2] * pixel >= ELEMENTS_LIMIT:
        raise ValueError(f"{name}: {maps.shape[-3]} x {maps.shape[-2]} pixels are too many for one map; work in tiles")
