"""A picture for people: the page with the outlines and baselines of its lines and what was read on them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image as pil
from PIL import ImageDraw, ImageFont

from zoo_htr.pages.model import Points
from zoo_htr.pages.pictures import Gray
from zoo_htr.pages.points import box_of
from zoo_htr.pages.written import WrittenLine

_LONGEST_PX = 2400
_OUTLINE, _BASELINE = (0, 120, 215), (215, 60, 0)
_SURE, _UNSURE = (0, 90, 0), (190, 0, 0)  # of text by its confidence
_UNSURE_BELOW = 0.8


def drawn(page: Gray, lines: Sequence[WrittenLine]) -> pil.Image:
    """Return the page, shrunk to `_LONGEST_PX`, with its lines; text of low confidence is red.

    Args:
        page: uint8 (H, W).
        lines: in pixels of the page.
    """
    scale = min(1.0, _LONGEST_PX / max(page.shape))
    size = max(1, round(page.shape[1] * scale)), max(1, round(page.shape[0] * scale))
    # paler, so that what is drawn on it is read
    sheet = pil.fromarray(page).resize(size).point(lambda v: 110 + v * 145 // 255).convert("RGB")
    pen = ImageDraw.Draw(sheet)
    for written in lines:
        outline, baseline = (
            [(x * scale, y * scale) for x, y in s] for s in (written.line.polygon, written.line.baseline)
        )
        if len(outline) > 2:
            pen.polygon(outline, outline=_OUTLINE)
        if len(baseline) > 1:
            pen.line(baseline, fill=_BASELINE, width=2)
        if written.text and baseline:
            _write(pen, written, baseline)
    return sheet


def _write(pen: ImageDraw.ImageDraw, written: WrittenLine, baseline: Sequence[tuple[float, float]]) -> None:
    """Write the text below the baseline, no wider than the line."""
    left, _, right, _ = box_of(tuple(baseline)) or (0, 0, 0, 0)
    size = 18.0
    wide = ImageFont.load_default(size).getlength(written.text)
    font = ImageFont.load_default(max(8.0, min(size, size * (right - left) / max(wide, 1))))
    sure = written.confidence is None or written.confidence >= _UNSURE_BELOW
    start: Points = tuple(baseline[:1])
    pen.text((left, start[0][1] + 2), written.text, fill=_SURE if sure else _UNSURE, font=font)
