"""PSNR and SSIM on luma, by the two protocols that super-resolution papers use (spec 4.2).

"matlab" (the default; what the literature prints): luma in floating point. "python": luma rounded to whole numbers,
as the authors' test script does, which costs 0.02 to 0.09 dB. Nothing else differs between them.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Protocol: TypeAlias = Literal["matlab", "python"]
Floats: TypeAlias = NDArray[np.float64]

_PEAK = 255.0
_BT601 = np.array([65.481, 128.553, 24.966]) / 255
_WINDOW = 11
_SIGMA = 1.5


def luma(image: NDArray[np.generic], *, protocol: Protocol = "matlab") -> Floats:
    """Return Y of BT.601 in studio range: 16 to 235.

    Args:
        image: (H, W, 3) RGB in 0..255.
        protocol: "python" rounds to whole numbers.

    Raises:
        ValueError: not an RGB image, or no such protocol.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an RGB image has shape (H, W, 3), not {image.shape}")
    if protocol not in ("matlab", "python"):
        raise ValueError(f"the protocols are matlab and python, not {protocol!r}")
    y: Floats = 16 + image.astype(np.float64) @ _BT601
    return y if protocol == "matlab" else np.rint(y)


def psnr_y(
    image: NDArray[np.generic], reference: NDArray[np.generic], *, border: int, protocol: Protocol = "matlab"
) -> float:
    """Return the peak signal-to-noise ratio of the luma in dB, infinite for equal images.

    Args:
        image: (H, W, 3) RGB in 0..255, uint8 for published figures.
        reference: the true image, same shape.
        border: pixels cut from each side first: the scale factor.
        protocol: see the module.

    Raises:
        ValueError: shapes differ, or nothing is left inside the border.
    """
    y, true_y = _inner_lumas(image, reference, border, protocol, smallest=1)
    mean_square = float(np.mean((y - true_y) ** 2))
    return 10 * math.log10(_PEAK**2 / mean_square) if mean_square else math.inf


def ssim_y(
    image: NDArray[np.generic], reference: NDArray[np.generic], *, border: int, protocol: Protocol = "matlab"
) -> float:
    """Return the structural similarity of the luma: 11 x 11 Gaussian window, valid positions only, population moments.

    Args:
        image: (H, W, 3) RGB in 0..255.
        reference: the true image, same shape.
        border: pixels cut from each side first: the scale factor.
        protocol: see the module.

    Raises:
        ValueError: shapes differ, or fewer than 11 x 11 pixels are left inside the border.
    """
    a, b = _inner_lumas(image, reference, border, protocol, smallest=_WINDOW)
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a**2
    variance_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(likeness / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))))


def _inner_lumas(
    image: NDArray[np.generic], reference: NDArray[np.generic], border: int, protocol: Protocol, *, smallest: int
) -> tuple[Floats, Floats]:
    if image.shape != reference.shape:
        raise ValueError(f"the images differ in shape: {image.shape} and {reference.shape}")
    height, width = image.shape[0] - 2 * border, image.shape[1] - 2 * border
    if border < 0 or min(height, width) < smallest:
        raise ValueError(
            f"{image.shape[1]} x {image.shape[0]} pixels are too few: {smallest} x {smallest} must be left inside a "
            f"border of {border}"
        )
    inner = (slice(border, border + height), slice(border, border + width))
    return luma(image[inner], protocol=protocol), luma(reference[inner], protocol=protocol)


def _blur(plane: Floats) -> Floats:
    """Weighted means over all windows that lie inside: (H, W) -> (H - 10, W - 10)."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    height, width = plane.shape[0] - _WINDOW + 1, plane.shape[1] - _WINDOW + 1
    rows = sum((w * plane[i : i + height] for i, w in enumerate(weights)), np.zeros((height, plane.shape[1])))
    return sum((w * rows[:, i : i + width] for i, w in enumerate(weights)), np.zeros((height, width)))
