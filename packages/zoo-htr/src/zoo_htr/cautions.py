"""What there is to say of lines before they are read, in words for the user."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from zoo_htr.cutting import Cut
from zoo_htr.finding import has_several_lines
from zoo_htr.normalise import HEIGHT
from zoo_htr.pages.model import Line
from zoo_htr.recognise import LONGEST

_HIGH = 1.5  # times the usual height; lines of one page that are no higher hold one


def long_lines(lines: Sequence[Line], cuts: Sequence[Cut | None]) -> list[str]:
    """Say which lines are longer than the network takes at once."""
    pairs = zip(lines, cuts, strict=True)
    long = [
        line.id or f"number {line.place + 1}"
        for line, made in pairs
        if made is not None and made.image.shape[1] * HEIGHT > LONGEST * made.image.shape[0]
    ]
    return [f"line {', '.join(long[:3])} is very long: read in parts, which overlap"] if long else []


def double_lines(lines: Sequence[Line], cuts: Sequence[Cut | None]) -> list[str]:
    """Say which outlines seem to hold several lines; only those much higher than the others of a page are looked at."""
    heights = [made.box_px[1] for made in cuts if made is not None]
    usual = statistics.median(heights) if heights else 0
    double = [
        line.id or f"number {line.place + 1}"
        for line, made in zip(lines, cuts, strict=True)
        if made is not None and made.box_px[1] > _HIGH * usual and has_several_lines(made.image)
    ]
    if not double:
        return []
    return [
        f"line {', '.join(double[:3])}: there seem to be several lines in its outline; python -m zoo_htr.repolygonize "
        "draws better ones"
    ]
