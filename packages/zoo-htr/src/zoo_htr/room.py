"""Room around the letters of a line picture: how much of its height they take, and paper added where that is too much.

Networks see lines with room for ascenders and descenders. A picture that is cropped to the letters is scaled up to the
same height, and its strokes become several times as large as any that were trained on.
"""

from __future__ import annotations

import cv2
import numpy as np

from zoo_htr.cutting import Cut, Gray, paper_tone
from zoo_htr.finding.ink import ink, shrunk

# shares of the height; in the split val of the packs the median is 0.19, and one line of 882 takes more than 0.5
TIGHT = 0.5
_USUAL = 0.25
_MIDDLE = 0.59  # where the middle of the letters is there, from the top
_SIDE_PX = 64  # height at which rows are looked at


def letter_band(line: Gray) -> tuple[float, float] | None:
    """Return the first row of the letters, without ascenders, and the row after the last; None without ink.

    Rows count that have at least half as much ink as the fullest one, and lie around it without a gap.

    Args:
        line: uint8 (H, W), dark ink on light paper.
    """
    small, scale = shrunk(line, min(1.0, _SIDE_PX / line.shape[0]))
    rows = ink(small).sum(axis=1).astype(np.float64)
    rows = cv2.GaussianBlur(rows.reshape(-1, 1), (0, 0), max(0.8, len(rows) / _SIDE_PX)).ravel()
    if rows.max() <= 0:
        return None
    full = rows >= 0.5 * rows.max()
    top = bottom = int(rows.argmax())
    while top > 0 and full[top - 1]:
        top -= 1
    while bottom + 1 < len(rows) and full[bottom + 1]:
        bottom += 1
    return top / scale, (bottom + 1) / scale


def is_tight(line: Gray) -> bool:
    """Whether the letters take more of a line picture's height (H, W) than in any line that was trained on."""
    band = letter_band(line)
    return band is not None and band[1] - band[0] > TIGHT * line.shape[0]


def with_room(line: Gray) -> Cut:
    """Return a line picture as a cut, with paper above and below if it is tight; nothing is taken off."""
    height, width = line.shape
    top = bottom = 0
    band = letter_band(line)
    if band is not None and band[1] - band[0] > TIGHT * height:
        wanted = (band[1] - band[0]) / _USUAL
        top = max(0, round(_MIDDLE * wanted - (band[0] + band[1]) / 2))
        bottom = max(0, round(wanted) - height - top)
        tone = round(paper_tone(line))
        line = np.pad(line, ((top, bottom), (0, 0)), constant_values=tone)
    return Cut(line, np.array([[1.0, 0, 0], [0, 1.0, -top]]), 0.0, (width, line.shape[0]), 0)
