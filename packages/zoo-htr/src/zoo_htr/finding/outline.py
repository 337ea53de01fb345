"""From ridges to lines: a baseline and an outline around the ink that belongs to each."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo_htr.finding.ink import Mask, components
from zoo_htr.finding.ridges import Floats, Ridge

_ABOVE, _BELOW = 0.75, 0.6  # line distances from the baseline to where ink of the line may be
_LEAST_ABOVE, _LEAST_BELOW = 0.35, 0.12  # what an outline always covers, so that thin writing has room
_THIN = 0.5  # of the usual strokes per column: what has fewer is no writing


@dataclass(frozen=True, eq=False)
class Shape:
    """One line in working pixels: outline (N, 2) and baseline (M, 2), both as x, y; how much ink it holds."""

    polygon: Floats
    baseline: Floats
    ink: int


def shapes(mask: Mask, found: list[Ridge], distance: float) -> list[Shape]:
    """Return the lines of ridges; what holds too little ink to be writing is left out."""
    if not found:
        return []
    bases = [Ridge(ridge.left, ridge.ys + _drop(mask, ridge, distance)) for ridge in found]
    owner = owners(mask, bases, distance)
    owned = [np.nonzero(owner == number + 1) for number in range(len(bases))]
    # letters are strokes that go up and down: they begin in many rows, a level stroke of any length in few
    begins = mask & (1 - np.pad(mask, ((0, 0), (1, 0)))[:, :-1])
    strokes = [xs[begins[ys, xs] > 0] for ys, xs in owned]
    usual = _usual_density(strokes, distance)
    lines = []
    for base, (ys, xs), begun in zip(bases, owned, strokes, strict=True):
        kept = _dense(xs, begun, usual, distance)
        shape = shape_of(ys[kept], xs[kept], base, distance)
        if shape is not None:
            lines.append(shape)
    return lines


def _usual_density(columns: list[NDArray[np.int64]], distance: float) -> float:
    """Return how many strokes begin in a column of a line as a rule: the median over all windows of all lines."""
    windows = [_windows(xs, distance)[0] for xs in columns if len(xs)]
    values = np.concatenate(windows) if windows else np.zeros(1)
    values = values[values > 0]
    return float(np.median(values)) if len(values) else 0.0


def _windows(xs: NDArray[np.int64], distance: float) -> tuple[Floats, int]:
    """Return how many there are per column, averaged over two line distances, and the first column."""
    first = int(xs.min())
    counts = np.bincount(xs - first).astype(np.float64)
    window = 2 * round(distance) + 1, 1
    mean = cv2.blur(counts.reshape(1, -1), window, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(mean, np.float64).ravel(), first


def _dense(xs: NDArray[np.int64], begun: NDArray[np.int64], usual: float, distance: float) -> NDArray[np.bool_]:
    """Return which ink, at columns `xs`, lies between the first and the last place as dense as writing.

    What lies farther out is a frame, a fold or the edge of the sheet; a line that is dense nowhere is all of that.
    """
    if not len(begun):
        return np.zeros(len(xs), bool)
    density, first = _windows(begun, distance)
    places = np.flatnonzero(density >= _THIN * usual)
    if not len(places):
        return np.zeros(len(xs), bool)
    reach = round(0.5 * distance)
    low, high = first + places[0] + reach // 2, first + places[-1] - reach // 2
    kept: NDArray[np.bool_] = (xs >= low - reach) & (xs <= high + reach)
    return kept


def _drop(mask: Mask, ridge: Ridge, distance: float) -> float:
    """Return how far the baseline lies below the ridge: where the dense body of the letters ends.

    Rows are counted along the ridge, so that a slope does not blur them.
    """
    reach = round(0.6 * distance)
    xs = np.arange(ridge.left, ridge.right)
    offsets = np.arange(-reach, reach + 1)
    rows = np.clip(np.rint(ridge.ys[None] + offsets[:, None]).astype(int), 0, mask.shape[0] - 1)
    profile = mask[rows, xs[None]].sum(axis=1).astype(np.float64)
    profile = cv2.GaussianBlur(profile.reshape(-1, 1), (0, 0), max(0.8, 0.03 * distance)).ravel()
    middle = profile[reach - reach // 3 : reach + reach // 3 + 1].max()
    below = offsets >= 0
    ends = np.flatnonzero(below & (profile < 0.5 * middle))
    return float(offsets[ends[0]]) if len(ends) else 0.25 * distance


def owners(mask: Mask, bases: list[Ridge], distance: float) -> NDArray[np.int32]:
    """Return for every pixel the number of the line that its ink belongs to, from 1; 0 for none.

    Connected ink that is no higher than a line goes to one line as a whole; the rest by its pixels.
    """
    ys, xs = np.nonzero(mask)
    best = np.full(len(xs), np.inf)
    owner = np.zeros(len(xs), np.int32)
    for number, base in enumerate(bases, start=1):
        near = (xs >= base.left - 0.5 * distance) & (xs < base.right + 0.5 * distance)
        above = base.at(xs[near].astype(np.float64)) - ys[near]
        inside = (above <= _ABOVE * distance) & (above >= -_BELOW * distance)
        far = np.abs(above - 0.15 * distance)  # the middle of the letters
        index = np.flatnonzero(near)[inside & (far < best[near])]
        owner[index] = number
        best[index] = far[inside & (far < best[near])]
    labels, facts, _ = components(mask)
    whole = np.zeros(mask.shape, np.int32)
    whole[ys, xs] = owner
    component = labels[ys, xs]
    small = facts[:, cv2.CC_STAT_HEIGHT] <= 1.1 * distance
    votes = np.zeros((len(facts), len(bases) + 1), np.int32)
    np.add.at(votes, (component, owner), 1)
    votes[:, 0] = 0
    winner = np.where(small & (votes.sum(axis=1) > 0), votes.argmax(axis=1), -1)
    decided = winner[component] >= 0
    whole[ys[decided], xs[decided]] = winner[component[decided]]
    return whole


def shape_of(ys: NDArray[np.int64], xs: NDArray[np.int64], base: Ridge, distance: float) -> Shape | None:
    """Return baseline and outline of ink at these places, None if there is too little of it."""
    if len(xs) < 0.2 * distance * distance / 4:
        return None
    left, right = int(xs.min()), int(xs.max()) + 1
    if right - left < 0.7 * distance:
        return None
    step = max(2.0, 0.25 * distance)
    edges = np.linspace(left, right, max(2, round((right - left) / step)) + 1)
    middle = base.at((edges[:-1] + edges[1:]) / 2)
    column = np.clip(np.searchsorted(edges, xs, side="right") - 1, 0, len(middle) - 1)
    high, low = middle - _LEAST_ABOVE * distance, middle + _LEAST_BELOW * distance
    np.minimum.at(high, column, ys.astype(np.float64))
    np.maximum.at(low, column, ys.astype(np.float64) + 1)
    high = np.maximum(_widest(high, -1), middle - 1.2 * distance)
    low = np.minimum(_widest(low, 1), middle + 0.9 * distance)
    margin = 0.05 * distance
    across = np.concatenate([[left - margin], (edges[:-1] + edges[1:]) / 2, [right + margin]])
    upper = np.stack([across, np.concatenate([high[:1], high, high[-1:]]) - margin], axis=1)
    lower = np.stack([across, np.concatenate([low[:1], low, low[-1:]]) + margin], axis=1)
    knots = np.linspace(left, right, max(2, round((right - left) / (2 * distance)) + 1))
    baseline = np.stack([knots, base.at(knots)], axis=1)
    return Shape(np.concatenate([upper, lower[::-1]]), baseline, len(xs))


def _widest(values: Floats, sign: int) -> Floats:
    """Return each value or its neighbours', whichever is farther out, so that an outline does not cut into letters."""
    padded = np.pad(values, 1, mode="edge")
    around = np.stack([padded[:-2], padded[1:-1], padded[2:]])
    outer: Floats = around.max(axis=0) if sign > 0 else around.min(axis=0)
    return outer
