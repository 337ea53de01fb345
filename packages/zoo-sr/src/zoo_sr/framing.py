"""What is done to an image around the network: padding, wrapping, flipping, cropping into quarters.

Each function takes a way to enlarge, `run`: (N, 3, H, W) -> (N, 3, s H, s W), and returns another way of the same form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Enlarge: TypeAlias = Callable[[Tensor], Tensor]
REACH_PX = 27  # how far an output pixel of IMDN sees, in pixels of the small image


def scaled(run: Enlarge, highest: float) -> Enlarge:
    """Give a network that works in 0..highest images in [0, 1]."""
    return lambda image: run(image * highest).div_(highest)


def to_multiple(run: Enlarge, multiple: int, scale: int) -> Enlarge:
    """Mirror the image at its right and lower border until both sides are multiples, and cut the result."""

    def padded(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        below, right = -height % multiple, -width % multiple
        # a mirror needs more pixels than it adds; a smaller image repeats its border
        mode = "reflect" if below < height and right < width else "replicate"
        larger = functional.pad(image, (0, right, 0, below), mode=mode)
        return run(larger)[..., : height * scale, : width * scale]

    return padded


def seamless(run: Enlarge, scale: int, margin: int = REACH_PX) -> Enlarge:
    """Let the image continue on its other side: both borders of the result then fit together."""

    def wrapped(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        rows = torch.arange(-margin, height + margin, device=image.device) % height
        columns = torch.arange(-margin, width + margin, device=image.device) % width
        large = run(image[..., rows[:, None], columns[None, :]])
        first = margin * scale
        return large[..., first : first + height * scale, first : first + width * scale]

    return wrapped


def self_ensemble(run: Enlarge) -> Enlarge:
    """Average over the 8 flips and rotations of the image (Timofte et al., CVPR 2016, arXiv 1511.02228)."""

    def averaged(image: Tensor) -> Tensor:
        total: Tensor | None = None
        for turns in range(4):
            for mirrored in (False, True):
                turned = torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))
                back = torch.rot90(run(turned.contiguous()), -turns, (-2, -1))
                back = back.flip(-1) if mirrored else back
                total = back.clone() if total is None else total.add_(back)
        assert total is not None  # noqa: S101 - for the type checker
        return total.div_(8)

    return averaged


def adaptive_cropping(run: Enlarge, multiple: int, scale: int, shave: int = 32) -> Enlarge:
    """The paper's adaptive cropping (section 3.4): four overlapping quarters as one batch, each with gates of its own.

    A quarter has floor(H/2) + d rows, d being the largest overlap up to `shave` that makes them a multiple of
    `multiple`; the last ones are flush with the far border. Each gives the half of the image that it holds, without the
    overlap. An image that is too small for that is worked on as a whole.
    """

    def quartered(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        half_height, half_width = height // 2, width // 2
        rows = half_height + shave - (half_height + shave) % multiple
        columns = half_width + shave - (half_width + shave) % multiple
        if rows > height or columns > width or image.shape[0] != 1 or rows < height - half_height:
            return to_multiple(run, multiple, scale)(image)
        quarters = torch.cat(
            [
                image[..., :rows, :columns],
                image[..., :rows, width - columns :],
                image[..., height - rows :, :columns],
                image[..., height - rows :, width - columns :],
            ]
        )
        large = run(quarters)
        top, left = half_height * scale, half_width * scale
        bottom, right = (height - half_height) * scale, (width - half_width) * scale
        upper = torch.cat([large[0, :, :top, :left], large[1, :, :top, -right:]], dim=-1)
        lower = torch.cat([large[2, :, -bottom:, :left], large[3, :, -bottom:, -right:]], dim=-1)
        return torch.cat([upper, lower], dim=-2)[None]

    return quartered
