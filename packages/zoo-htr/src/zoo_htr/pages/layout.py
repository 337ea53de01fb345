"""Lines as the cutter needs them: in pixels of the picture, each with an outline and a baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np

from zoo_htr.pages.model import Box, Line, Page, Points, Unit
from zoo_htr.pages.points import box_of, corners

_PER_INCH: dict[Unit, float] = {"pixel": 0, "mm10": 254, "inch1200": 1200}
_DEFAULT_DPI = 300.0
_SAME_PX = 2  # sizes that differ by less are the same
_ABOVE, _BELOW = 0.7, 0.3  # shares of the line distance that a line takes above and below its baseline
_CROSSED = 0.05  # share of the area that a crossing outline may lose before it is repaired


@dataclass(frozen=True)
class Layout:
    """The lines of a page in pixels of its picture.

    Args:
        page: the page in pixels, its lines with outline and baseline; a line that nobody could place has neither.
        scale: pixels per unit of the file, across and down.
        notes: what had to be guessed, in words for the user.
    """

    page: Page
    scale: tuple[float, float]
    notes: tuple[str, ...]


def lay_out(page: Page, size_px: tuple[int, int], dpi: float | None = None) -> Layout:
    """Bring a page to the pixels of its picture and derive what its file leaves out.

    A missing outline is the line's box, or else is made from the baseline and the distance to the neighbours; a missing
    baseline is made from the lower edge of the outline. Points beyond the picture are moved to its edge.

    Args:
        page: as it was read.
        size_px: height and width of the picture.
        dpi: pixels an inch of the picture, if it says so; needed for a page in millimetres or inches without its size.
    """
    notes: list[str] = []
    scale = _scale(page, size_px, dpi, notes)
    regions = tuple(
        replace(region, polygon=scaled(region.polygon, scale), box=_scaled_box(region.box, scale))
        for region in page.regions
    )
    lines = [
        replace(
            line,
            polygon=scaled(line.polygon, scale),
            baseline=scaled(line.baseline, scale),
            box=_scaled_box(line.box, scale),
        )
        for line in page.lines
    ]
    lines = _completed(lines, size_px, notes)
    height, width = size_px
    pixels = replace(page, lines=tuple(lines), regions=regions, width=width, height=height, unit="pixel")
    return Layout(pixels, scale, (*page.notes, *notes))


def _scale(page: Page, size_px: tuple[int, int], dpi: float | None, notes: list[str]) -> tuple[float, float]:
    height, width = size_px
    if page.width > 0:
        across = width / page.width if abs(width - page.width) > _SAME_PX else 1.0
        if page.height <= 0:
            return across, across
        down = height / page.height if abs(height - page.height) > _SAME_PX else 1.0
        if abs(across / down - 1) <= 0.01:
            return across, across
        notes.append(
            f"its XML is of a picture of {page.width:g} x {page.height:g}, this one has {width} x {height}: the lines "
            "are stretched and may be off; is it the right picture, unturned and uncropped?"
        )
        return across, down
    if page.unit == "pixel":
        return 1.0, 1.0
    if dpi is None:
        notes.append(f"its unit is {page.unit} and nothing says how large the page is: 300 pixels an inch are assumed")
    ratio = (dpi or _DEFAULT_DPI) / _PER_INCH[page.unit]
    return ratio, ratio


def scaled(shape: Points, scale: tuple[float, float]) -> Points:
    """Return points times a scale across and down."""
    return shape if scale == (1.0, 1.0) else tuple((x * scale[0], y * scale[1]) for x, y in shape)


def _scaled_box(box: Box | None, scale: tuple[float, float]) -> Box | None:
    return None if box is None else (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])


def _completed(lines: list[Line], size_px: tuple[int, int], notes: list[str]) -> list[Line]:
    """Return lines with outline and baseline; count in `notes` what was wrong with how many."""
    counts: dict[str, list[str]] = {}

    def say(line: Line, what: str) -> None:
        counts.setdefault(what, []).append(line.id or f"number {line.place + 1}")

    cleaned = []
    for line in lines:
        polygon, outside = _clipped(line.polygon, size_px)
        baseline, _ = _clipped(line.baseline, size_px)
        if outside:
            say(line, "reached beyond the picture and was cut")
        if len(polygon) and not _has_area(polygon):
            say(line, "had an outline without area")
            polygon = ()
        elif len(polygon) > 3 and (repaired := _uncrossed(polygon)) is not None:
            say(line, "had an outline that crosses itself and was repaired")
            polygon = repaired
        if _length(baseline) == 0:
            baseline = ()
        cleaned.append(replace(line, polygon=polygon, baseline=baseline))
    done = []
    distance = usual_distance(cleaned)
    for line in cleaned:
        polygon, baseline = line.polygon, line.baseline
        if not polygon and line.box is not None:
            polygon, _ = _clipped(corners(line.box), size_px)
            if _has_area(polygon):
                say(line, "had no outline: its box is used")
        if not _has_area(polygon) and baseline:
            say(line, "had no outline: one was made around its baseline")
            polygon, _ = _clipped(_around(line, cleaned, distance), size_px)
        if polygon and not _has_area(polygon):
            polygon = ()
        if polygon and not baseline:
            say(line, "had no baseline: one was made at the foot of its outline")
            baseline = _foot(polygon)
        if not polygon or not baseline:
            say(line, "has no place on the picture and was left out")
            polygon = baseline = ()
        done.append(replace(line, polygon=polygon, baseline=baseline))
    for what, names in counts.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        notes.append(f"line {shown} {what}" if len(names) == 1 else f"{len(names)} lines ({shown}): each {what}")
    return done


def _clipped(shape: Points, size_px: tuple[int, int]) -> tuple[Points, bool]:
    """Return points moved into the picture, and whether one was more than a pixel outside."""
    height, width = size_px
    inside = tuple((min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)) for x, y in shape)
    far = any(abs(a - c) > 1 or abs(b - d) > 1 for (a, b), (c, d) in zip(shape, inside, strict=True))
    return inside, far


def _has_area(polygon: Points) -> bool:
    if len(polygon) < 3:
        return False
    hull = cv2.convexHull(np.asarray(polygon, np.float32))
    return cv2.contourArea(hull) >= 1


def _uncrossed(polygon: Points) -> Points | None:
    """Return the outer outline of a polygon that crosses itself, None where crossings make no difference.

    A filled polygon has holes where it covers a place twice; the outline of all it covers has none.
    """
    left, top, right, bottom = box_of(polygon) or (0, 0, 0, 0)
    shrink = min(1.0, 2000 / max(right - left, bottom - top, 1))
    shape = np.rint((np.asarray(polygon) - (left, top)) * shrink).astype(np.int32) + 1
    size = int((bottom - top) * shrink) + 3, int((right - left) * shrink) + 3
    filled = np.zeros(size, np.uint8)
    cv2.fillPoly(filled, [shape], 1)
    outlines, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    whole = np.zeros(size, np.uint8)
    cv2.drawContours(whole, outlines, -1, 1, cv2.FILLED)
    largest = max(outlines, key=cv2.contourArea)
    holes = 1 - float(filled.sum()) / float(whole.sum())
    if holes <= _CROSSED or len(largest) < 3:
        return None
    return tuple(((float(x) - 1) / shrink + left, (float(y) - 1) / shrink + top) for x, y in largest[:, 0])


def _length(shape: Points) -> float:
    return sum(math.dist(a, b) for a, b in pairwise(shape))


def usual_distance(lines: Sequence[Line]) -> float | None:
    """Return the usual distance of lines on this page: between baselines, else from the height of outlines."""
    gaps = [gap for line in lines if line.baseline and (gap := _gap_above(line, lines)) is not None]
    if gaps:
        return statistics.median(gaps)
    heights = [box[3] - box[1] for line in lines if (box := box_of(line.polygon)) is not None]
    return statistics.median(heights) if heights else None


def _gap_above(line: Line, lines: Sequence[Line]) -> float | None:
    """Return how far above a baseline the next one is that has a part over it, None if there is none."""
    left, right = _span(line.baseline)
    height = _mean_y(line.baseline)
    above = []
    for other in lines:
        if other is line or not other.baseline:
            continue
        other_left, other_right = _span(other.baseline)
        gap = height - _mean_y(other.baseline)
        if gap > 2 and min(right, other_right) - max(left, other_left) > 0.2 * min(
            right - left, other_right - other_left
        ):
            above.append(gap)
    return min(above, default=None)


def _around(line: Line, lines: Sequence[Line], usual: float | None) -> Points:
    """Return an outline around a baseline, as high as the distance to the line above lets it be."""
    gap = _gap_above(line, lines)
    if usual is None:
        usual = _length(line.baseline) / 15  # a line on its own: about as high as lines of that length are
    distance = usual if gap is None else min(max(gap, usual / 2), usual * 1.5)
    (x0, y0), (x1, y1) = line.baseline[0], line.baseline[-1]
    level = abs(x1 - x0) >= abs(y1 - y0) or math.dist((x0, y0), (x1, y1)) == 0
    # letters stand to the left of the direction of reading; on a level line that is up, whichever way it was drawn
    angle = 0.0 if level else math.atan2(y1 - y0, x1 - x0)
    up = math.sin(angle), -math.cos(angle)
    upper = tuple((x + _ABOVE * distance * up[0], y + _ABOVE * distance * up[1]) for x, y in line.baseline)
    lower = tuple((x - _BELOW * distance * up[0], y - _BELOW * distance * up[1]) for x, y in line.baseline)
    return upper + lower[::-1]


def _foot(polygon: Points) -> Points:
    """Return a straight baseline through an outline: a quarter of its height above its lower edge."""
    left, top, right, bottom = box_of(polygon) or (0, 0, 0, 0)
    hull = cv2.convexHull(np.asarray(polygon, np.float32))[:, 0].astype(np.float64)
    xs = np.linspace(left + 0.05 * (right - left), right - 0.05 * (right - left), 9)
    around = np.vstack([hull, hull[:1]])
    ys = []
    for x in xs:
        hits = [
            y0 + (y1 - y0) * (x - x0) / (x1 - x0)
            for (x0, y0), (x1, y1) in pairwise(around)
            if x0 != x1 and min(x0, x1) <= x <= max(x0, x1)
        ]
        low, high = (min(hits), max(hits)) if hits else (top, bottom)
        ys.append(high - 0.25 * (high - low))
    slope, start = np.polyfit(xs, ys, 1) if right - left > 1 else (0.0, ys[0])
    return (left, float(slope * left + start)), (right, float(slope * right + start))


def _span(shape: Points) -> tuple[float, float]:
    xs = [x for x, _ in shape]
    return min(xs), max(xs)


def _mean_y(shape: Points) -> float:
    return sum(y for _, y in shape) / len(shape)
