"""What on a page is ink: without paper tone, shadows, dark margins, rulings and frames."""

from __future__ import annotations

from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Gray: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.uint8]  # 0 or 1
WORKING_PX = 1600  # longest side at which a page is looked at: enough for lines 15 px apart
_PAPER_PX = 41  # wider than any stroke at that size
_SLOPES = (-0.12, -0.09, -0.06, -0.03, 0.0, 0.03, 0.06, 0.09, 0.12)
_BLOCK_PX = 32
_SKEWED = 0.4
_THICK_PX = 12  # lower than letters without ascenders at that distance of lines
_FAINT = 0.08  # ink takes at least this share of the light


def shrunk(page: Gray, scale: float | None = None) -> tuple[Gray, float]:
    """Return the page at the working size, or another one, and its pixels per pixel of the page (at most 1)."""
    scale = min(1.0, WORKING_PX / max(page.shape) if scale is None else scale)
    if scale == 1.0:
        return page, 1.0
    size = max(1, round(page.shape[1] * scale)), max(1, round(page.shape[0] * scale))
    return cast(Gray, cv2.resize(page, size, interpolation=cv2.INTER_AREA)), scale


def ink(page: Gray) -> Mask:
    """Return 1 where there is writing on a page (H, W) of the working size, 0 elsewhere.

    The paper's tone around each place is what a closing leaves there; ink is what takes clearly more light than that.
    So a shadow is no ink, nor is the inside of a dark margin.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_PAPER_PX, _PAPER_PX))
    paper = cv2.GaussianBlur(cv2.morphologyEx(page, cv2.MORPH_CLOSE, kernel), (0, 0), 5).astype(np.float32)
    taken = np.clip(1 - page / np.maximum(paper, 1), 0, 1)
    taken[paper < 0.35 * np.percentile(paper, 90)] = 0  # a margin or another sheet in the dark
    level, _ = cv2.threshold((taken * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    middle = float(np.median(taken))  # most of a page is paper: what it takes is grain
    grain = middle + 6 * float(np.median(np.abs(taken - middle)))
    mask = (taken > max(_FAINT, 0.8 * level / 255, grain)).astype(np.uint8)
    return _without_specks(mask)


def is_light_on_dark(page: Gray) -> bool:
    """Whether writing on a page (H, W) is lighter than what it is on, as in a negative.

    Where there is writing, ink covers less than paper, so tones are skewed towards it. Only places full of contrast are
    asked: the tone of the whole says little, as a sheet on a black ground is dark too.
    """
    small, _ = shrunk(page)
    side = _BLOCK_PX
    rows, columns = small.shape[0] // side, small.shape[1] // side
    if not rows or not columns:
        return False
    blocks = small[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2)
    tones = blocks.reshape(rows * columns, side * side).astype(np.float64)
    spread = tones.std(axis=1)
    lively = spread >= max(12.0, float(np.percentile(spread, 70)))
    if not lively.any():
        return False
    centred = (tones[lively] - tones[lively].mean(axis=1, keepdims=True)) / spread[lively, None]
    return float(np.median((centred**3).mean(axis=1))) > _SKEWED


def without_long_strokes(mask: Mask, length: float) -> Mask:
    """Take out strokes that go straight on for `length` pixels, level or upright within `_SLOPES`: rulings, frames.

    Gaps of a few pixels do not end one. Strokes of letters that cross it are mended.
    """
    kept = mask
    for across in (True, False):
        lying = mask if across else np.ascontiguousarray(mask.T)
        bridged = cv2.morphologyEx(lying, cv2.MORPH_CLOSE, np.ones((1, 9), np.uint8))
        long = np.zeros(lying.shape, np.uint8)
        for slope in _SLOPES:
            shear = np.array([[1, 0, 0], [-slope, 1, max(slope, 0) * lying.shape[1]]])
            size = lying.shape[1], lying.shape[0] + round(abs(slope) * lying.shape[1])
            level = cv2.warpAffine(bridged, shear, size, flags=cv2.INTER_NEAREST)
            runs = cv2.morphologyEx(level, cv2.MORPH_OPEN, np.ones((1, round(length)), np.uint8))
            flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
            long |= np.asarray(cv2.warpAffine(runs, shear, lying.shape[::-1], flags=flags), np.uint8)
        # where it is as thick as letters are high, only a solid bar is no row of letters whose gaps were bridged
        thick = np.asarray(cv2.morphologyEx(long, cv2.MORPH_OPEN, np.ones((_THICK_PX, 1), np.uint8)), np.uint8)
        solid = cv2.blur(lying.astype(np.float32), (31, 5)) > 0.9
        long &= (1 - thick) | solid.astype(np.uint8)
        long = np.asarray(cv2.dilate(long, np.ones((3, 3), np.uint8)), np.uint8)
        kept = kept & (1 - (long if across else long.T))
    mended = np.asarray(cv2.morphologyEx(kept, cv2.MORPH_CLOSE, np.ones((5, 1), np.uint8)), np.uint8) & mask
    return _without_specks(kept | mended)


def _without_specks(mask: Mask) -> Mask:
    count, labels, facts, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    keep = np.ones(count, np.uint8)
    keep[facts[:, cv2.CC_STAT_AREA] < 6] = 0
    keep[0] = 0
    return cast(Mask, keep[labels])


def components(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    """Return the labels (H, W) of connected ink, their boxes (N, 5: left, top, width, height, area) and centres."""
    _, labels, facts, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return cast(NDArray[np.int32], labels), cast(NDArray[np.int32], facts), cast(NDArray[np.float64], centres)
