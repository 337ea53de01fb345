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


def find_lines(page: Gray) -> Page:
    """Find the lines of a page.

    Args:
        page: uint8 (H, W), dark ink on light paper.

    Returns:
        the page in pixels, its lines from top to bottom; no lines if there is no writing.
    """
    height, width = page.shape
    small, scale = shrunk(page)
    mask = ink(small)
    mask = without_long_strokes(mask, _LONG * line_distance(mask))
    distance = line_distance(mask)
    found = sorted(shapes(mask, ridges(mask, distance), distance), key=lambda s: float(s.baseline[:, 1].mean()))
    lines = tuple(_line(number, shape, scale, (height, width)) for number, shape in enumerate(found))
    return Page(lines=lines, width=width, height=height)


def has_several_lines(picture: Gray) -> bool:
    """Whether a picture that should be one line seems to hold two or more: below each other, each half as wide."""
    found = find_lines(picture).lines
    spans = [(line.baseline[0][0], line.baseline[-1][0], line.baseline[0][1]) for line in found]
    wide = [span for span in spans if span[1] - span[0] >= 0.4 * picture.shape[1]]
    heights = sorted(y for _, _, y in wide)
    return any(below - above > 0.3 * picture.shape[0] for above, below in pairwise(heights))


def _line(number: int, shape: Shape, scale: float, size_px: tuple[int, int]) -> Line:
    highest = np.array([size_px[1] - 1, size_px[0] - 1])

    def on_page(points: np.ndarray, closed: bool) -> tuple[tuple[float, float], ...]:
        # points that say nothing go: people edit outlines by hand
        points = cv2.approxPolyDP(points.astype(np.float32), 0.8, closed)[:, 0]
        moved = np.rint(np.clip(points / scale, 0, highest))
        return tuple((float(x), float(y)) for x, y in moved)

    return Line(f"line_{number + 1}", on_page(shape.polygon, True), on_page(shape.baseline, False), place=number)
