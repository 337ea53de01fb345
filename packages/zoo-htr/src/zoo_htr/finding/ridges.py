"""Where lines run: ridges of ink that is smeared along the lines."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo_htr.finding.ink import Mask, components

Floats = NDArray[np.float64]
_JOIN = 2.5  # line distances: ridges of one line are no farther apart
_STEP = 0.3  # line distances: nor do they jump by more


@dataclass(frozen=True, eq=False)
class Ridge:
    """The middle of a line's letters: y for every x from `left` on, in working pixels."""

    left: int
    ys: Floats

    @property
    def right(self) -> int:
        """The x after the last one."""
        return self.left + len(self.ys)

    def at(self, xs: Floats) -> Floats:
        """Return y at any x; beyond its ends the ridge goes on level."""
        return np.interp(xs, np.arange(self.left, self.right), self.ys)


def line_distance(mask: Mask) -> float:
    """Return the usual distance of lines in working pixels; of a single line the height that it would need.

    Columns of the page are projected to the left, and the shift at which ink falls on ink again is the distance.
    """
    _, facts, _ = components(mask)
    heights, widths = facts[1:, cv2.CC_STAT_HEIGHT], facts[1:, cv2.CC_STAT_WIDTH]
    plausible = (heights >= 5) & (heights <= max(8, mask.shape[0] // 8)) & (widths <= mask.shape[1] // 2)
    if not plausible.any():
        return 40.0
    letter = float(np.average(heights[plausible], weights=np.minimum(widths, 3 * heights)[plausible]))
    low, high = max(6, round(0.9 * letter)), max(12, round(5 * letter))
    total = np.zeros(high + 1)
    strips = np.array_split(mask.astype(np.float64), max(4, mask.shape[1] // 120), axis=1)
    for strip in strips:
        profile = cv2.GaussianBlur(strip.sum(axis=1).reshape(-1, 1), (0, 0), max(1.0, 0.15 * letter)).ravel()
        if profile.max() <= 0 or len(profile) <= high:
            continue
        profile = profile - profile.mean()
        spectrum = np.abs(np.fft.rfft(profile, 2 * len(profile))) ** 2
        agreement = np.fft.irfft(spectrum)[: high + 1]
        total += agreement / max(agreement[0], 1e-9) * strip.sum()
    inner = total[1:-1]
    peaks = 1 + np.flatnonzero((inner >= total[:-2]) & (inner > total[2:]))
    peaks = peaks[(peaks >= low) & (peaks <= high)]
    if not len(peaks):
        return 1.8 * letter
    best = float(total[peaks].max())
    # the first good peak: later ones are two and three lines away
    return float(next(peak for peak in peaks if total[peak] >= 0.6 * best)) if best > 0 else 1.8 * letter


def ridges(mask: Mask, distance: float) -> list[Ridge]:
    """Return the ridges of all lines, pieces of one line joined.

    Args:
        mask: ink.
        distance: of lines, in working pixels.
    """
    density = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigmaX=0.75 * distance, sigmaY=0.16 * distance)
    # minus the second derivative downwards: positive on ridges, and blind to slow changes
    curved = -cv2.Sobel(density, cv2.CV_32F, 0, 2, ksize=5)
    strong = curved[(mask > 0) & (curved > 0)]
    if not strong.size:
        return []
    body = ((curved > 0.25 * np.percentile(strong, 75)) & (density > 0.04)).astype(np.uint8)
    labels, facts, _ = components(body)
    pieces = []
    for index in range(1, len(facts)):
        left, top, width, height, _ = (int(v) for v in facts[index])
        if width < 0.6 * distance:
            continue
        window = slice(top, top + height), slice(left, left + width)
        weight = np.where(labels[window] == index, curved[window], 0).astype(np.float64)
        total = weight.sum(axis=0)
        ys = top + (weight * np.arange(height)[:, None]).sum(axis=0) / np.maximum(total, 1e-9)
        pieces.append(Ridge(left, _unbent(_smooth(ys, distance), distance)))
    return _without_echoes(_joined(pieces, distance), distance)


def _without_echoes(found: list[Ridge], distance: float) -> list[Ridge]:
    """Leave out short ridges close above or below a longer one: dots, accents and loops of its letters."""

    def echoes(ridge: Ridge, other: Ridge) -> bool:
        length = ridge.right - ridge.left
        left, right = max(ridge.left, other.left), min(ridge.right, other.right)
        if other is ridge or length > 3 * distance or other.right - other.left <= length or right - left < 0.6 * length:
            return False
        xs = np.arange(left, right, dtype=np.float64)
        return bool(np.abs(ridge.at(xs) - other.at(xs)).mean() < 0.62 * distance)

    return [ridge for ridge in found if not any(echoes(ridge, other) for other in found)]


def _joined(pieces: list[Ridge], distance: float) -> list[Ridge]:
    """Join pieces that follow each other on one line: nearest ends first."""
    pieces = sorted(pieces, key=lambda r: r.left)
    while True:
        best: tuple[float, int, int] | None = None
        for i, first in enumerate(pieces):
            for j, second in enumerate(pieces):
                if i == j:
                    continue
                gap = second.left - first.right
                if not -0.5 * distance <= gap <= _JOIN * distance or second.right <= first.right:
                    continue
                jump = abs(_ahead(first, gap, distance) - _behind(second, gap, distance))
                if jump <= _STEP * distance and (best is None or max(gap, 0) + 4 * jump < best[0]):
                    best = max(gap, 0) + 4 * jump, i, j
        if best is None:
            return pieces
        _, i, j = best
        first, second = pieces[i], pieces[j]
        xs = np.arange(first.left, second.right)
        known = np.concatenate(
            [np.arange(first.left, min(first.right, second.left)), np.arange(second.left, second.right)]
        )
        values = np.concatenate([first.ys[: max(0, min(first.right, second.left) - first.left)], second.ys])
        joined = Ridge(first.left, np.interp(xs, known, values))
        pieces = [piece for k, piece in enumerate(pieces) if k not in (i, j)] + [joined]


def _ahead(ridge: Ridge, gap: float, distance: float) -> float:
    """Return y half a gap behind the end of a ridge, as its last part runs."""
    return _beyond(ridge.ys[::-1], gap / 2, distance)


def _behind(ridge: Ridge, gap: float, distance: float) -> float:
    return _beyond(ridge.ys, gap / 2, distance)


def _beyond(ys: Floats, steps: float, distance: float) -> float:
    count = min(len(ys), max(2, round(3 * distance)))
    if count < 2 * distance:
        return float(ys[:count].mean())  # too short to say where it leads
    slope, start = np.polyfit(np.arange(count), ys[:count], 1)
    return float(start - slope * max(steps, 0))


def _unbent(ys: Floats, distance: float) -> Floats:
    """Return a ridge whose ends go on as it runs before them: smearing along rows has bent them towards the level."""
    smeared = round(1.2 * distance)
    inner = ys[smeared:-smeared]
    if len(inner) < 2 * distance:
        xs = np.arange(len(ys))
        return np.asarray(np.polyval(np.polyfit(xs, ys, 1), xs)) if len(ys) > 2 * distance else ys
    count = round(2 * distance)
    near = np.arange(count)
    first, last = np.polyfit(near, inner[:count], 1), np.polyfit(near, inner[-count:], 1)
    before = inner[0] - first[0] * np.arange(smeared, 0, -1)
    after = inner[-1] + last[0] * np.arange(1, smeared + 1)
    return np.concatenate([before, inner, after])


def _smooth(ys: Floats, distance: float) -> Floats:
    """Return y without its small waves; the ends go on as they point, so that they do not bend towards the level."""
    reach = min(len(ys) - 1, round(1.5 * distance))
    before, after = 2 * ys[0] - ys[reach:0:-1], 2 * ys[-1] - ys[-2 : -reach - 2 : -1]
    longer = np.concatenate([before, ys, after]).reshape(1, -1)
    smooth = cv2.GaussianBlur(longer, (0, 0), 0.5 * distance, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smooth, np.float64).ravel()[reach : reach + len(ys)]
