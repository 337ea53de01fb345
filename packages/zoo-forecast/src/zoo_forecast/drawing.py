"""The picture of a forecast: history, fan of quantiles, some paths, and where the text stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image as pil
from PIL import ImageDraw, ImageFont

from zoo_forecast.series import Values

WIDTH, HEIGHT, MARGIN = 960, 300, 44
SHOWN = 3  # horizons of history
PATHS = 8
INK, GRID, FAN, PATH, TEXT = (40, 44, 52), (222, 225, 230), (38, 102, 184), (140, 170, 210), (176, 92, 24)


@dataclass(frozen=True)
class Mark:
    """A text on a picture.

    Args:
        text: of which the beginning is written.
        place: points from the first one after the history, -1 for its last; negative before it.
        stamp: of the text, in words.
    """

    text: str
    place: int
    stamp: str


def draw(
    name: str, history: Values, quantiles: Values, paths: Values, *, first: str, last: str, gap: int = 0,
    text: Mark | None = None,
) -> pil.Image:  # fmt: skip
    """Return a picture.

    Args:
        name: title.
        history: (L,) values before the origin; NaN is a gap.
        quantiles: (levels, H), an odd number or not; drawn in pairs from outside.
        paths: (S, H) samples.
        first: the time stamp of the first point that is drawn, in words.
        last: that of the last forecast point.
        gap: points between history and forecast.
        text: what was read beside the series, marked at its date, or None.
    """
    horizon = gap + quantiles.shape[1]
    history = history[-SHOWN * horizon :] if horizon * SHOWN >= 24 else history[-24:]
    picture = pil.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    seen = np.concatenate([history, quantiles.ravel()])
    seen = seen[np.isfinite(seen)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1
    total = len(history) + horizon

    def place(index: float, value: float) -> tuple[float, float]:
        across = MARGIN + (WIDTH - 2 * MARGIN) * index / max(1, total - 1)
        return across, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / (high - low)

    def line(begin: int, values: Values, colour: tuple[int, int, int], width: int = 1) -> None:
        points = [(n, float(value)) for n, value in enumerate(values, begin) if np.isfinite(value)]
        if len(points) > 1:
            pen.line([place(*point) for point in points], colour, width)

    for level in np.linspace(low, high, 5):
        pen.line([place(0, level), place(total - 1, level)], GRID)
        pen.text((4, place(0, level)[1] - 7), f"{level:.4g}", INK, font)
    begin = len(history) + gap
    if np.isfinite(quantiles).all():
        levels = len(quantiles)
        for pair in range(levels // 2):
            lower, upper = quantiles[pair], quantiles[levels - 1 - pair]
            share = 0.15 + 0.45 * (pair + 1) / max(1, levels // 2)
            colour = tuple(round(255 + (channel - 255) * share) for channel in FAN)
            edge = [place(begin + n, v) for n, v in enumerate(lower)] + [
                place(begin + n, v) for n, v in enumerate(upper)
            ][::-1]
            pen.polygon(edge, colour)
        for path in paths[:PATHS]:
            line(begin, np.clip(path, low, high), PATH)
        line(begin, quantiles[levels // 2], FAN, 2)
    line(0, history, INK, 2)
    origin = place(len(history) - 0.5, low)[0]
    pen.line([(origin, MARGIN), (origin, HEIGHT - MARGIN)], GRID)
    pen.text((MARGIN, 8), name, INK, font)
    if text:
        at = place(min(max(len(history) + text.place, 0), total - 1), low)[0]  # an older one at the margin
        pen.line([(at, MARGIN), (at, HEIGHT - MARGIN)], TEXT, 2)
        pen.polygon([(at - 5, MARGIN - 6), (at + 5, MARGIN - 6), (at, MARGIN + 3)], TEXT)
        said = " ".join(text.text.split())
        pen.text((MARGIN, 22), f"text of {text.stamp}: {said[:110]}{' ...' if len(said) > 110 else ''}", TEXT, font)
    pen.text((MARGIN, HEIGHT - 24), first, INK, font)
    pen.text((WIDTH - MARGIN - pen.textlength(last, font), HEIGHT - 24), last, INK, font)
    return picture


def stack(pictures: list[pil.Image]) -> pil.Image:
    """Return pictures of one width below each other."""
    page = pil.new("RGB", (WIDTH, HEIGHT * len(pictures)), "white")
    for place, picture in enumerate(pictures):
        page.paste(picture, (0, HEIGHT * place))
    return page
