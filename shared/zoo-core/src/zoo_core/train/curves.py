"""The curves of a run as one SVG, from its CSV files. Drawn by hand: matplotlib is no dependency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from zoo_core.io.atomic import whole
from zoo_core.train.log import read_table

WIDTH_PX, HEIGHT_PX, MARGIN_PX = 640, 220, 56
HIDDEN = {"step", "learning_rate", "step_seconds"}

Points = Sequence[tuple[float, float]]


def draw_curves(out: Path) -> Path | None:
    """Write `curves.svg` into a run's folder, a panel for each logged value and metric; None if nothing was logged."""
    panels = []
    for table, suffix in (("log.csv", ""), ("eval.csv", " (evaluation)")):
        rows = read_table(out / table)
        for name in rows[0] if rows else []:
            points = [(row["step"], row[name]) for row in rows if math.isfinite(row[name])]
            if name not in HIDDEN and points:
                panels.append((name + suffix, points))
    if not panels:
        return None
    height = HEIGHT_PX * len(panels)
    body = "".join(_panel(title, points, index * HEIGHT_PX) for index, (title, points) in enumerate(panels))
    with whole(out / "curves.svg", overwrite=True) as path:
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>{body}</svg>\n',
            encoding="utf-8",
        )
    return out / "curves.svg"


def _panel(title: str, points: Points, top: float) -> str:
    steps, values = [x for x, _ in points], [y for _, y in points]
    low, high = min(values), max(values)
    # losses fall over decades
    logarithmic = low > 0 and high / low > 20
    left, right, upper, lower = MARGIN_PX + 20, WIDTH_PX - 16, top + 28, top + HEIGHT_PX - 36

    def bent(value: float) -> float:
        return math.log(value) if logarithmic else value

    def across(step: float) -> float:
        return left + (right - left) * (step / max(steps[-1], 1))

    def down(value: float) -> float:
        span = bent(high) - bent(low)
        return lower - (lower - upper) * ((bent(value) - bent(low)) / span if span else 0.5)

    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
    note = " (logarithmic)" if logarithmic else ""
    dots = (
        f'<circle cx="{across(steps[0]):.1f}" cy="{down(values[0]):.1f}" r="2.5" fill="#1f5fa8"/>'
        if len(points) == 1
        else ""
    )
    return (
        f'<text x="{left}" y="{top + 18}" font-weight="bold">{escape(title)}{note}</text>'
        f'<path d="M{left},{upper}V{lower}H{right}" fill="none" stroke="#888"/>'
        f'<text x="{left - 6}" y="{upper + 4}" text-anchor="end">{high:.4g}</text>'
        f'<text x="{left - 6}" y="{lower + 4}" text-anchor="end">{low:.4g}</text>'
        f'<text x="{left}" y="{lower + 18}">0</text>'
        f'<text x="{right}" y="{lower + 18}" text-anchor="end">step {steps[-1]:.0f}</text>'
        f'<polyline points="{path}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>{dots}'
    )
