"""A back-test as one page that needs nothing else: scores in a table, pictures as SVG in the page itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite

import numpy as np

from zoo_forecast.backtesting import Backtest, Score
from zoo_forecast.calendar import written
from zoo_forecast.items import Item
from zoo_forecast.series import Values

WIDTH, HEIGHT, MARGIN = 960, 260, 40
MAX_DRAWN = 50  # items
COLUMNS = (
    ("MAE", "mae", "of the median"), ("RMSE", "rmse", "of the mean"), ("MASE", "mase", "of the median"),
    ("pinball loss x 2", "loss", "mean over the levels"), ("coverage", "coverage", "of the outermost levels"),
    ("MAE of the last value", "last", ""), ("MAE of a period before", "seasonal", ""),
)  # fmt: skip
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#282c34}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #dee1e6}
td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}figure{margin:1.5em 0}
figcaption{font-weight:600}.best{font-weight:700}"""


def page(tested: Backtest, *, title: str, notes: Sequence[str] = ()) -> str:
    """Return a page of HTML.

    Args:
        tested: what was forecast.
        title: of the page.
        notes: sentences under the title.
    """
    items = tested.items
    rows = "".join(_row(str(item.name), tested.score(item)) for item in items)
    drawn = "".join(_figure(tested, item) for item in items[:MAX_DRAWN])
    head = "".join(f'<th title="{escape(what)}">{escape(name)}</th>' for name, _, what in COLUMNS)
    low, high = tested.levels[0], tested.levels[-1]
    said = [
        *notes,
        f"{len(tested.windows)} windows of {tested.median.shape[1]} points in {len(items)} series. "
        f"The fan reaches from the level {low:g} to {high:g}, so that {high - low:.0%} of what came should lie inside.",
        *([f"The first {MAX_DRAWN} series are drawn."] if len(items) > MAX_DRAWN else []),
    ]
    remarks = "".join(f"<p>{escape(note)}</p>" for note in said)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{remarks}"
        f"<table><tr><th>series</th>{head}</tr>{rows}</table>{drawn}</body></html>\n"
    )


def _row(name: str, score: Score) -> str:
    best = min((getattr(score, key) for key in ("mae", "last", "seasonal")), default=0)
    cells = []
    for _, key, _ in COLUMNS:
        value = getattr(score, key)
        mark = ' class="best"' if key in ("mae", "last", "seasonal") and value == best else ""
        shown = "-" if not isfinite(value) else f"{value:.0%}" if key == "coverage" else f"{value:.4g}"
        cells.append(f"<td{mark}>{shown}</td>")
    return f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>"


def _figure(tested: Backtest, item: Item) -> str:
    places = tested.of(item)
    found = [tested.windows[place] for place in places]
    horizon = found[0].end - found[0].first
    first = max(0, found[0].origin - max(2 * horizon, 24))
    shown = item.values[first:]
    seen = np.concatenate([shown, *(tested.quantiles[place].ravel() for place in places)])
    seen = seen[np.isfinite(seen)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1

    def at(place: float, value: float) -> str:
        across = MARGIN + (WIDTH - 2 * MARGIN) * (place - first) / max(1, len(item.values) - 1 - first)
        return f"{across:.1f},{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / (high - low):.1f}"

    def line(begin: int, values: Values, look: str) -> str:
        pieces, current = [], []  # a gap interrupts the line
        for place, value in enumerate(values, begin):
            if np.isfinite(value):
                current.append(at(place, float(value)))
            elif current:
                pieces.append(current)
                current = []
        pieces.append(current)
        return "".join(f'<polyline fill="none" {look} points="{" ".join(piece)}"/>' for piece in pieces if piece)

    parts = []
    for window, place in zip(found, places, strict=True):
        fan = tested.quantiles[place]
        x = at(window.origin - 0.5, low).split(",")[0]
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{MARGIN}" y2="{HEIGHT - MARGIN}" stroke="#c8ccd4" stroke-dasharray="3 3"/>'
        )
        if np.isfinite(fan).all():
            for pair in range(len(fan) // 2):
                edge = [at(window.first + n, v) for n, v in enumerate(fan[pair])]
                edge += [at(window.first + n, v) for n, v in enumerate(fan[len(fan) - 1 - pair])][::-1]
                parts.append(f'<polygon fill="#2666b8" fill-opacity="0.22" points="{" ".join(edge)}"/>')
            parts.append(line(window.first, tested.median[place], 'stroke="#2666b8" stroke-width="2"'))
    parts.append(line(first, shown, 'stroke="#282c34" stroke-width="1.4"'))
    for where, text in item.texts:
        if where >= first:
            x = at(where, low).split(",")[0]
            parts.append(
                f'<path d="M{x} {MARGIN - 10} l-5 -9 h10 z" fill="#b05c18">'
                f"<title>{written(item.stamps[where])}: {escape(' '.join(text.split())[:500])}</title></path>"
            )
    for value in np.linspace(low, high, 3):
        y = at(first, value).split(",")[1]
        parts.append(f'<text x="2" y="{y}" font-size="11">{value:.4g}</text>')
    begin, end = (written(item.stamps[n]) for n in (first, -1))
    parts.append(f'<text x="{MARGIN}" y="{HEIGHT - 12}" font-size="11">{begin}</text>')
    parts.append(f'<text x="{WIDTH - MARGIN}" y="{HEIGHT - 12}" font-size="11" text-anchor="end">{end}</text>')
    return (
        f"<figure><figcaption>{escape(str(item.name))}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg></figure>'
    )
