"""A reading order from geometry, for files whose own order is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from zoo_htr.pages.model import Line, Page
from zoo_htr.pages.points import box_of


def by_place(page: Page) -> Page:
    """Return the page with its lines sorted by where they are: columns one after the other, each from its top.

    A line comes before another one if it lies above and both share a part of their width; or if it lies before it on
    the same height and nothing that spans both lies between (Breuel, 2003). Lines without a place come last.
    """
    placed = [line for line in page.lines if _box(line) is not None]
    rest = tuple(line for line in page.lines if _box(line) is None)
    if len(placed) < 2:
        return page
    boxes = np.array([_box(line) for line in placed])
    if sum(line.right_to_left for line in placed) * 2 > len(placed):
        boxes[:, [0, 2]] = -boxes[:, [2, 0]]
    return replace(page, lines=(*(placed[i] for i in _sorted(boxes)), *rest))


def _sorted(boxes: np.ndarray) -> list[int]:
    """Return an order of boxes (N, 4) in which each comes after all that must precede it, the topmost first."""
    left, top, right, bottom = boxes.T
    middle = (top + bottom) / 2
    shared = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    overlap = shared > 0.1 * np.minimum((right - left)[:, None], right - left)
    above = middle[:, None] < middle
    before = overlap & above
    aside = ~overlap & (right[:, None] <= left + 0.1 * (right - left))
    # what spans both and lies between them in height parts the columns
    for i, j in zip(*np.nonzero(aside), strict=True):
        low, high = sorted((middle[i], middle[j]))
        parted = overlap[i] & overlap[j] & (middle > low) & (middle < high)
        parted[[i, j]] = False
        before[i, j] = not parted.any()
    np.fill_diagonal(before, False)
    order: list[int] = []
    left_over = set(range(len(boxes)))
    while left_over:
        free = [i for i in left_over if not any(before[j, i] for j in left_over)]
        # a cycle has no first one: take the topmost
        nearest = min(free or left_over, key=lambda i: (middle[i], left[i]))
        order.append(nearest)
        left_over.remove(nearest)
    return order


def _box(line: Line) -> tuple[float, float, float, float] | None:
    return box_of(line.baseline) or box_of(line.polygon) or line.box
