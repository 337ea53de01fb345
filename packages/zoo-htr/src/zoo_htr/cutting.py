"""Cut a line out of a page: one cutter for packs, training, evaluation and prediction.

The line is turned until its baseline is level, what lies outside its outline fades into the paper, and the result is
brought to a fixed height. Nothing is binarised or changed in contrast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import InputError
from zoo_htr.pages.model import Point, Points

Gray: TypeAlias = NDArray[np.uint8]
HEIGHT_PX = 64
MIN_PX = 14  # of a box, both sides
MAX_WIDTH_PX = 8000
MAX_HEIGHT_PX = 900
_SHORT_PX = 20  # a baseline that is shorter says nothing about the angle
_PAD = 0.04  # of the height, on all sides; at least 2 px


@dataclass(frozen=True, eq=False)
class Cut:
    """One line, as the network sees it.

    Args:
        image: uint8 (H, W), in the tones of the page; H is what was asked for.
        to_page: affine map (2, 3) from points (x, y) of `image` to points of the page.
        angle_degrees: by which the line was turned; positive if it falls towards its end.
        box_px: width and height of what was cut, in pixels of the page, before scaling.
        pad_px: of it, on each side.
    """

    image: Gray
    to_page: NDArray[np.float64]
    angle_degrees: float
    box_px: tuple[int, int]
    pad_px: int

    def on_page(self, points: Points) -> Points:
        """Return where points of `image` are on the page."""
        return _apply(self.to_page, points)


def cut(page: Gray, polygon: Points, baseline: Points, *, height_px: int = HEIGHT_PX) -> Cut:
    """Cut one line.

    Args:
        page: uint8 (H, W).
        polygon: outline of the line in pixels of the page, at least 3 points.
        baseline: at least 2 points, in the direction of reading; one that runs from right to left is turned round.
        height_px: of the result; the width follows in proportion.

    Returns:
        the cut. A box beyond `MAX_WIDTH_PX` or `MAX_HEIGHT_PX` is shrunk to them while it is turned.

    Raises:
        InputError: the box has less than `MIN_PX` pixels a side.
    """
    baseline = forward(baseline)
    angle = _angle(baseline)
    x, y = np.mean(np.asarray(baseline, np.float64), axis=0)
    turn = np.asarray(cv2.getRotationMatrix2D((float(x), float(y)), math.degrees(angle), 1.0), np.float64)
    turned = np.asarray(_apply(turn, polygon), np.float64)
    low, high = turned.min(axis=0), turned.max(axis=0)
    pad = max(2, int(_PAD * (math.ceil(high[1]) - math.floor(low[1]))))
    left, top = (math.floor(v) - pad for v in low)
    right, bottom = (math.ceil(v) + pad for v in high)
    width, height = right - left, bottom - top
    if min(width, height) < MIN_PX:
        raise InputError(f"A line of {width} x {height} pixels is too small to be read.", "Scan with more pixels.")
    shrink = min(1.0, MAX_WIDTH_PX / width, MAX_HEIGHT_PX / height)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    turn[:, 2] -= left, top
    turn *= shrink
    crop = _warp(page, turn, size)
    inside = np.zeros(crop.shape, np.uint8)
    shape = np.rint((turned - (left, top)) * shrink).astype(np.int32)
    cv2.fillPoly(inside, [shape], 255)
    faded = _fade(crop, inside)
    out_width = max(1, round(size[0] * height_px / size[1]))
    filter_ = cv2.INTER_AREA if size[1] > height_px else cv2.INTER_CUBIC
    image = cast(Gray, cv2.resize(faded, (out_width, height_px), interpolation=filter_))
    # cv2.resize maps pixel centres: x' = (x + 1/2) * ratio - 1/2
    ratio_x, ratio_y = size[0] / out_width, size[1] / height_px
    grow = np.array([[ratio_x, 0, ratio_x / 2 - 0.5], [0, ratio_y, ratio_y / 2 - 0.5], [0, 0, 1]])
    back = cv2.invertAffineTransform(turn) @ grow
    return Cut(image, back, math.degrees(angle), (width, height), pad)


def uncut(image: Gray) -> Cut:
    """Return a picture that is one line as a cut: nothing is turned, faded or scaled; `image` keeps its height."""
    height, width = image.shape
    return Cut(image, np.array([[1.0, 0, 0], [0, 1.0, 0]]), 0.0, (width, height), 0)


def forward(baseline: Points) -> Points:
    """Return a baseline that runs from left to right; one that is more upright than level stays as it is."""
    (x0, y0), (x1, y1) = baseline[0], baseline[-1]
    return baseline[::-1] if x1 < x0 and abs(x1 - x0) > abs(y1 - y0) else baseline


def _angle(baseline: Points) -> float:
    (x0, y0), (x1, y1) = baseline[0], baseline[-1]
    return 0.0 if math.hypot(x1 - x0, y1 - y0) < _SHORT_PX else math.atan2(y1 - y0, x1 - x0)


def _warp(page: Gray, matrix: NDArray[np.float64], size: tuple[int, int]) -> Gray:
    """Return page pixels at `matrix` of the result's, bilinear; beyond the page its border goes on.

    Only the part of the page that is needed is given to OpenCV, which takes no image of 2^15 pixels a side.
    """
    width, height = size
    needed = np.asarray(_apply(cv2.invertAffineTransform(matrix), ((0, 0), (width, 0), (width, height), (0, height))))
    low = np.clip(np.floor(needed.min(axis=0)) - 2, 0, (page.shape[1] - 1, page.shape[0] - 1)).astype(int)
    high = np.clip(np.ceil(needed.max(axis=0)) + 3, low + 1, (page.shape[1], page.shape[0])).astype(int)
    part = page[low[1] : high[1], low[0] : high[0]]
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ low
    shrink = math.hypot(*matrix[:, 0])
    if shrink < 0.5:  # bilinear alone would skip pixels
        part = cast(Gray, cv2.resize(part, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA))
        moved[:, :2] /= shrink
    return cast(
        Gray, cv2.warpAffine(part, moved, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def _fade(crop: Gray, inside: Gray) -> Gray:
    """Return the crop with everything outside of the mask as bright as its paper."""
    height = crop.shape[0]
    paper = paper_tone(crop[inside > 0])
    reach = max(1, round(0.02 * height))
    mask = cv2.dilate(inside, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    soft = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), max(0.8, 0.012 * height))
    return np.rint(crop * soft + paper * (1 - soft)).clip(0, 255).astype(np.uint8)


def paper_tone(pixels: Gray) -> float:
    """Return the tone of the paper: the median of what Otsu's threshold takes for bright."""
    if pixels.size == 0:
        return 255.0
    threshold, _ = cv2.threshold(pixels.reshape(1, -1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    bright = pixels[pixels > threshold]
    return float(np.median(bright if bright.size else pixels))


def _apply(matrix: NDArray[Any], points: Points) -> Points:
    moved = np.asarray(points, np.float64).reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2]
    return tuple(cast(list[Point], [(float(x), float(y)) for x, y in moved]))
