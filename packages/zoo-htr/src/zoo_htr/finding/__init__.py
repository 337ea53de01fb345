"""Find the lines of a clean page with one column, without training: binarise, smear along the lines, follow the ridges.

For pages that are neither clean nor of one column there are segmenters that were trained, such as kraken's.
"""

from __future__ import annotations

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


def _line(number: int, shape: Shape, scale: float, size_px: tuple[int, int]) -> Line:
    highest = np.array([size_px[1] - 1, size_px[0] - 1])

    def on_page(points: np.ndarray) -> tuple[tuple[float, float], ...]:
        moved = np.rint(np.clip(points / scale, 0, highest))
        return tuple((float(x), float(y)) for x, y in moved)

    return Line(f"line_{number + 1}", on_page(shape.polygon), on_page(shape.baseline), place=number)
