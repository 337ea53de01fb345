"""Transparency: which kind it is, and which colours belong where nothing is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]


def is_binary(alpha: Pixels) -> bool:
    """Whether every pixel is fully on or fully off."""
    highest = 1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
    return bool(np.all((alpha == 0) | (alpha == highest)))


def bleed(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Give fully transparent pixels the colours around them.

    Editors leave any colour there, mostly black; the network would draw it into the visible edge as a dark fringe.
    Colours are averaged over ever larger squares until every pixel has one (a pyramid: time is that of a few passes).

    Args:
        pixels: (H, W, C).
        alpha: (H, W).

    Returns:
        (H, W, C) of the same type; pixels with any alpha are as before.
    """
    clear = alpha == 0
    if not clear.any() or clear.all():
        return pixels
    weights = (~clear).astype(np.float32)[..., None]
    filled = _filled(pixels.astype(np.float32) * weights, weights)
    if pixels.dtype.kind != "f":
        filled = np.rint(filled)
    return np.where(clear[..., None], filled.astype(pixels.dtype), pixels)


def _filled(sums: Pixels, weights: Pixels) -> Pixels:
    """Return colours (H, W, C): sums (H, W, C) over weights (H, W, 1); where that is 0, the next coarser level's."""
    known = sums / np.maximum(weights, 1e-12)
    if weights.all():
        return known
    height, width = weights.shape[:2]
    coarse = _filled(_halved(sums), _halved(weights))
    around = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    result: Pixels = np.where(weights > 0, known, around)
    return result


def _halved(a: Pixels) -> Pixels:
    """Add up squares of 2 x 2 pixels."""
    height, width = a.shape[:2]
    even = np.pad(a, ((0, height % 2), (0, width % 2), (0, 0)))
    halved: Pixels = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, -1).sum((1, 3))
    return halved
