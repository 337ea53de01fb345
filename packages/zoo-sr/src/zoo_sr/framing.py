"""What may be done to an image around the network: averaging over its flips, cutting it into quarters.

Each function takes a way to enlarge, `run`: (H, W, C) -> (s H, s W, C), and returns another of the same form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from zoo_core.io.images import Pixels

Enlarge: TypeAlias = Callable[[Pixels], Pixels]


def self_ensemble(run: Enlarge) -> Enlarge:
    """Average over the 8 flips and rotations of the image (Timofte et al., CVPR 2016, arXiv 1511.02228).

    `run` should give floats: averages of rounded values round twice.
    """

    def averaged(image: Pixels) -> Pixels:
        total: Pixels | None = None
        for turns in range(4):
            for mirrored in (False, True):
                turned = np.rot90(image[:, ::-1] if mirrored else image, turns)
                back = np.rot90(run(np.ascontiguousarray(turned)), -turns)
                back = back[:, ::-1] if mirrored else back
                total = back.copy() if total is None else np.add(total, back, out=total)
        assert total is not None  # noqa: S101 - for the type checker
        total /= 8
        return total

    return averaged


def adaptive_cropping(run: Enlarge, *, multiple: int = 4, shave: int = 32) -> Enlarge:
    """The paper's adaptive cropping (section 3.4): four overlapping quarters, each with gates of its own.

    A quarter has floor(H/2) + d rows, d being the largest overlap up to `shave` that makes them a multiple of
    `multiple`; the last ones are flush with the far border. Each gives the half of the image that it holds, without the
    overlap. An image that is too small for that is worked on as a whole.
    """

    def quartered(image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        rows, columns = (side // 2 + shave - (side // 2 + shave) % multiple for side in (height, width))
        if rows > height or columns > width:
            return run(image)
        result: Pixels | None = None
        for lower in (False, True):
            for right in (False, True):
                top, left = (height - rows) * lower, (width - columns) * right
                large = run(np.ascontiguousarray(image[top : top + rows, left : left + columns]))
                scale = large.shape[0] // rows
                if result is None:
                    result = np.empty((height * scale, width * scale, large.shape[2]), large.dtype)
                down = slice(height // 2 * scale, None) if lower else slice(0, height // 2 * scale)
                across = slice(width // 2 * scale, None) if right else slice(0, width // 2 * scale)
                target = result[down, across]
                target[...] = large[
                    slice(-target.shape[0], None) if lower else slice(0, target.shape[0]),
                    slice(-target.shape[1], None) if right else slice(0, target.shape[1]),
                ]
        assert result is not None  # noqa: S101 - for the type checker
        return result

    return quartered
