"""Coordinates as files write them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from zoo_htr.pages.model import Box, Points

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_FAR = 1e7  # px; no page is larger, and beyond it geometry overflows


def numbers(text: str | None) -> list[float]:
    """Return the numbers in a text, whatever stands between them; those that are not finite or far off are dropped."""
    values = (float(match) for match in _NUMBER.findall(text or ""))
    return [value for value in values if math.isfinite(value) and abs(value) <= _FAR]


def number(text: str | None) -> float | None:
    """Return the first number in a text, None if there is none."""
    return next(iter(numbers(text)), None)


def points(text: str | None) -> Points:
    """Return points from "x,y x,y", "x y x y" or any mixture; a last number without a partner is dropped."""
    values = numbers(text)
    return tuple(zip(values[::2], values[1::2], strict=False))


def as_text(shape: Points, *, comma: bool) -> str:
    """Return points as PAGE (with comma) or ALTO (without) write them, in whole units."""
    return " ".join(f"{round(x)}{',' if comma else ' '}{round(y)}" for x, y in shape)


def box_of(shape: Points) -> Box | None:
    """Return the upright box around points, None if there are none."""
    if not shape:
        return None
    xs, ys = zip(*shape, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def box_around(boxes: Iterable[Box]) -> Box | None:
    """Return the box around boxes, None if there are none."""
    return box_of(tuple(corner for box in boxes for corner in ((box[0], box[1]), (box[2], box[3]))))


def corners(box: Box) -> Points:
    """Return a box as a polygon, clockwise from its upper left."""
    left, top, right, bottom = box
    return (left, top), (right, top), (right, bottom), (left, bottom)
