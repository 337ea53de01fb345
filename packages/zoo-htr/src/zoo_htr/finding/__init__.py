"""Find the lines of a clean page with one column, without training: binarise, smear along the lines, follow the ridges.

For pages that are neither clean nor of one column there are segmenters that were trained, such as kraken's.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from zoo_htr.finding.ink import Gray, ink, shrunk, without_long_strokes
from zoo_htr.finding.outline import Shape, shapes
from zoo_htr.finding.ridges import line_distance, ridges
from zoo_htr.pages.model import Line, Page

_LONG = 3.0  # line distances: no stroke of a letter is as long

_FIRST_PX = 800  # longest side of the page at which the distance of lines is guessed
_DISTANCE_PX = 55.0  # of lines where they are looked for: measured on the pages of the packs, 45 is worse, 75 no better
_LARGEST_PX = 2600  # longest side of the page there


def find_lines(page: Gray) -> Page:
    """Find the lines of a page.

    Args:
        page: uint8 (H, W), dark ink on light paper.

    Returns:
        the page in pixels, its lines from top to bottom; no lines if there is no writing.
    """
    height, width = page.shape
    small, scale = shrunk(page, _scale(page))
    mask = ink(small)
    mask = without_long_strokes(mask, _LONG * line_distance(mask))
    distance = line_distance(mask)
    found = sorted(shapes(mask, ridges(mask, distance), distance), key=lambda s: float(s.baseline[:, 1].mean()))
    lines = tuple(_line(number, shape, scale, (height, width)) for number, shape in enumerate(found))
    return Page(lines=lines, width=width, height=height)


def _scale(page: Gray) -> float:
    """Return the scale at which lines are `_DISTANCE_PX` apart, as far as the page has the pixels for it."""
    first, scale = shrunk(page, _FIRST_PX / max(page.shape))
    return float(min(scale * _DISTANCE_PX / line_distance(ink(first)), _LARGEST_PX / max(page.shape)))


def has_several_lines(picture: Gray) -> bool:
    """Whether a picture that should be one line seems to hold two or more below each other.

    Two lines show as two heaps in the ink a row with a gap between; of more, which run together there, each is looked
    for and must be half as wide as the picture.
    """
    rows = ink(shrunk(picture)[0]).sum(axis=1).astype(np.float64)
    height = len(rows)
    rows = cv2.GaussianBlur(rows.reshape(-1, 1), (0, 0), height / 12, borderType=cv2.BORDER_CONSTANT).ravel()
    inner = rows[1:-1]
    heaps = 1 + np.flatnonzero((inner >= rows[:-2]) & (inner > rows[2:]) & (inner > 0.4 * rows.max()))
    for upper, lower in pairwise(heaps):
        if lower - upper > height / 4 and rows[upper:lower].min() < 0.5 * min(rows[upper], rows[lower]):
            return True
    found = (line.baseline for line in find_lines(picture).lines)
    return sum(bool(base[-1][0] - base[0][0] >= picture.shape[1] / 2) for base in found) > 2


def _line(number: int, shape: Shape, scale: float, size_px: tuple[int, int]) -> Line:
    highest = np.array([size_px[1] - 1, size_px[0] - 1])

    def on_page(points: np.ndarray, closed: bool) -> tuple[tuple[float, float], ...]:
        # points that say nothing go: people edit outlines by hand
        points = cv2.approxPolyDP(points.astype(np.float32), 0.8, closed)[:, 0]
        moved = np.rint(np.clip(points / scale, 0, highest))
        return tuple((float(x), float(y)) for x, y in moved)

    return Line(f"line_{number + 1}", on_page(shape.polygon, True), on_page(shape.baseline, False), place=number)
