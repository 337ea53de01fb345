"""How good the outlines of lines are, and better ones: by the ink that belongs to each line's baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from zoo_htr.finding.ink import Gray, Mask, ink, shrunk, without_long_strokes
from zoo_htr.finding.outline import owners, shape_of
from zoo_htr.finding.ridges import Ridge, line_distance
from zoo_htr.pages.model import Points

_DISTANCE_PX = 55.0  # of lines where ink is looked at, as for finding them
_LARGEST_PX = 2600
_LONG = 3.0  # line distances: no stroke of a letter is as long
_UPRIGHT_DEGREES = 30.0  # lines that rise or fall more are not judged
_LEAST_INK = 0.05  # square line distances: with less there is nothing to judge by


@dataclass(frozen=True)
class Judged:
    """One line's outline.

    Args:
        covered: share of the line's own ink that the outline covers, in [0, 1].
        own: share of the ink in the outline that is the line's own, in [0, 1].
        better: another outline in pixels of the page, of more quality; empty where none can be made.
        better_quality: of that one; 0 without it.
    """

    covered: float
    own: float
    better: Points = ()
    better_quality: float = 0.0

    @property
    def quality(self) -> float:
        """Harmonic mean of both shares: near 1 if the outline holds this line's ink, all of it and no other."""
        return _harmonic(self.covered, self.own)


def judge(
    page: Gray, outlines: Sequence[Points], baselines: Sequence[Points], *, distance_px: float | None = None
) -> list[Judged | None]:
    """Judge the outlines of the lines of a page and make new ones.

    Ink belongs to the baseline that it is nearest to, whole letters to one; rulings and frames are nobody's.

    Args:
        page: uint8 (H, W), dark ink on light paper.
        outlines: of each line, in pixels of the page; an empty one covers nothing.
        baselines: of each line, in the same order.
        distance_px: usual distance of the lines; None guesses it from the ink.

    Returns:
        for each line what is found; None where there is no level baseline, or no ink to judge by.
    """
    scale = min(1.0, _LARGEST_PX / max(page.shape))
    if distance_px:
        scale = min(scale, _DISTANCE_PX / distance_px)
    small, scale = shrunk(page, scale)
    distance = distance_px * scale if distance_px else line_distance(ink(small))
    mask = without_long_strokes(ink(small), _LONG * distance)
    numbers = [number for number, base in enumerate(baselines) if _is_level(base)]
    bases = [_ridge(baselines[number], scale, mask.shape[1]) for number in numbers]
    owner = owners(mask, bases, distance)
    highest = np.array([page.shape[1] - 1, page.shape[0] - 1])
    result: list[Judged | None] = [None] * len(baselines)
    for which, (number, base) in enumerate(zip(numbers, bases, strict=True), start=1):
        ys, xs = np.nonzero(owner == which)
        if len(xs) < _LEAST_INK * distance * distance:
            continue
        made = shape_of(ys, xs, base, distance)
        better: Points = ()
        if made is not None:
            corners = cv2.approxPolyDP(made.polygon.astype(np.float32), 0.8, True)[:, 0]
            moved = np.rint(np.clip(corners / scale, 0, highest))
            better = tuple((float(x), float(y)) for x, y in moved)
        covered, own = _shares(mask, owner, which, outlines[number], scale)
        result[number] = Judged(covered, own)
        if better:
            quality = _harmonic(*_shares(mask, owner, which, better, scale))
            if quality > _harmonic(covered, own):
                result[number] = Judged(covered, own, better, quality)
    return result


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _shares(mask: Mask, owner: np.ndarray, which: int, outline: Points, scale: float) -> tuple[float, float]:
    """Return which share of a line's ink an outline covers, and which share of the ink in it is the line's."""
    inside = np.zeros(mask.shape, np.uint8)
    if len(outline) > 2:
        shape = np.rint(np.clip(np.asarray(outline) * scale, -1e4, 1e5)).astype(np.int32)
        cv2.fillPoly(inside, [shape], 1)
    mine = owner == which
    held, within = int(np.count_nonzero(mine & (inside > 0))), int(np.count_nonzero(mask & inside))
    return held / int(np.count_nonzero(mine)), held / within if within else 0.0


def _is_level(base: Points) -> bool:
    if len(base) < 2:
        return False
    (x0, y0), (x1, y1) = base[0], base[-1]
    return abs(x1 - x0) > 0 and abs(math.degrees(math.atan((y1 - y0) / (x1 - x0)))) <= _UPRIGHT_DEGREES


def _ridge(base: Points, scale: float, width: int) -> Ridge:
    """Return a baseline as y of every x, in working pixels."""
    points = np.asarray(sorted(base)) * scale
    left = int(np.clip(points[0, 0], 0, width - 2))
    right = int(np.clip(points[-1, 0], left + 1, width - 1))
    return Ridge(left, np.interp(np.arange(left, right + 1), points[:, 0], points[:, 1]))
