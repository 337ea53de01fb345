"""Figures of probabilistic forecasts, window by window: errors, CRPS in two forms, coverage, PIT.

A window is one series at one origin. What was not observed is not scored: a window's figure is the mean over its
observed points. Notation: W windows, S samples, H points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Figures: TypeAlias = NDArray[np.float64]

LEVELS = np.arange(1, 20) / 20  # of CRPS in the form of ProbTS
COVERED = (50, 80, 95)  # per cent
PIT_BINS = 10


@dataclass(frozen=True, eq=False)
class Predicted:
    """Forecasts of windows.

    Args:
        values: (W, S, H) ascending along S: samples, or quantiles of the levels; S is 1 for a point forecast.
        mean: (W, H) what squared errors are taken of.
        levels: (S,) of the quantiles; None for samples.
    """

    values: Figures
    mean: Figures
    levels: Figures | None = None

    @staticmethod
    def samples(values: ArrayLike) -> Predicted:
        """Make forecasts of samples (W, S, H) in any order."""
        drawn = np.asarray(values, dtype=np.float64)
        return Predicted(np.sort(drawn, axis=1), drawn.mean(1))

    @staticmethod
    def point(values: ArrayLike) -> Predicted:
        """Make forecasts of one value a point, (W, H), without width."""
        only = np.asarray(values, dtype=np.float64)
        return Predicted(only[:, None], only)

    @property
    def median(self) -> Figures:
        """What absolute errors are taken of, (W, H)."""
        return self.quantile(0.5)

    def quantile(self, level: float) -> Figures:
        """Return a quantile (W, H): interpolated between neighbours, flat beyond the outermost."""
        count = self.values.shape[1]
        place = level * (count - 1) if self.levels is None else float(np.interp(level, self.levels, np.arange(count)))
        low = int(place + 1e-9)
        high = min(low + 1, count - 1)
        share = max(place - low, 0.0)
        lower = self.values[:, low]
        return lower if share < 1e-9 else (1 - share) * lower + share * self.values[:, high]

    def cut(self, rows: NDArray[np.intp], horizon: int) -> Predicted:
        """Return some windows' first points."""
        return Predicted(self.values[rows, :, :horizon], self.mean[rows, :horizon], self.levels)


def score(predicted: Predicted, truth: Figures, scale: Figures) -> dict[str, Figures]:
    """Return figures of every window, each (W,); NaN where a window cannot be scored.

    Args:
        predicted: W forecasts of H points.
        truth: (W, H) what came; NaN where it was not observed.
        scale: (W,) of MASE, from `mase_scale`.

    Returns:
        mse: of the mean of samples.
        mae: of the median.
        mae_of_mean: of the mean, as papers often have it.
        mase: mae over the scale.
        crps: in ProbTS' form: the mean of the losses of 19 quantiles over the sum of |truth|, in one window.
        crps_energy: E|X - y| - E|X - X'| / 2 in the unit of the series, the second term over pairs of different samples
            (the fair estimator). Of quantiles: twice the mean pinball loss over their levels.
        coverage50, coverage80, coverage95: share of points within the central interval, ends included.
        quantile_loss, magnitude: numerator and denominator of crps, for sums over windows.
        absolute_loss: the sum of absolute errors of the median.
        nd: absolute_loss over magnitude.
    """
    seen = ~np.isnan(truth)
    count = seen.sum(1)
    y = np.where(seen, truth, 0.0)

    def mean(each: Figures) -> Figures:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(seen, each, 0.0).sum(1) / count)

    error = np.abs(y - predicted.median)
    figures = {
        "mse": mean((y - predicted.mean) ** 2),
        "mae": mean(error),
        "mae_of_mean": mean(np.abs(y - predicted.mean)),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        figures["mase"] = figures["mae"] / np.where(scale > 0, scale, np.nan)
    losses = np.zeros(len(y))
    for level in LEVELS:
        quantile = predicted.quantile(float(level))
        losses += 2 * np.where(seen, np.abs((y - quantile) * ((y <= quantile) - level)), 0.0).sum(1)
    magnitude = np.abs(y).sum(1)
    figures["quantile_loss"], figures["magnitude"] = losses / len(LEVELS), magnitude
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = np.where(magnitude > 0, magnitude, np.nan)
        figures["crps"] = figures["quantile_loss"] / whole
        figures["absolute_loss"] = np.where(seen, error, 0.0).sum(1)
        figures["nd"] = figures["absolute_loss"] / whole
    figures["crps_energy"] = mean(_energy(predicted, y))
    for share in COVERED:
        low, high = (predicted.quantile(0.5 + side * share / 200) for side in (-1, 1))
        figures[f"coverage{share}"] = mean(((low <= y) & (y <= high)).astype(np.float64))
    return figures


def _energy(predicted: Predicted, y: Figures) -> Figures:
    """Return the energy form of CRPS, (W, H)."""
    values = predicted.values
    count = values.shape[1]
    if predicted.levels is not None:
        levels = predicted.levels[None, :, None]
        above = y[:, None] - values
        return np.asarray(2 * np.maximum(levels * above, (levels - 1) * above).mean(1))
    apart = np.abs(values - y[:, None]).mean(1)
    if count == 1:
        return np.asarray(apart)
    # in ascending order each difference between neighbours counts as often as pairs lie on both sides of it
    weights = 2 * np.arange(1, count + 1) - count - 1
    spread = 2 * np.einsum("s,wsh->wh", weights.astype(np.float64), values) / (count * (count - 1))
    return np.asarray(apart - spread / 2)


def pit(predicted: Predicted, truth: Figures) -> Figures:
    """Return how often the truth falls into each tenth of the forecast distribution, (10,) shares that add up to 1.

    A truth between two samples is spread over the ranks it may have, so that ties and few samples make no false peaks
    (Czado, Gneiting and Held, Biometrics 2009). Of a calibrated forecast every share is 0.1. NaN without any truth.

    Args:
        predicted: samples, or quantiles of evenly spaced levels.
        truth: (W, H).
    """
    seen = ~np.isnan(truth)
    y = np.where(seen, truth, 0.0)[:, None]
    samples = predicted.values.shape[1] + 1
    low = ((predicted.values < y).sum(1) / samples)[seen]
    high = (((predicted.values <= y).sum(1) + 1) / samples)[seen]
    if not len(low):
        return np.full(PIT_BINS, np.nan)
    edges = np.linspace(0, 1, PIT_BINS + 1)
    below = [np.clip((edge - low) / (high - low), 0, 1).mean() for edge in edges]
    return np.diff(np.array(below))


def mase_scale(context: Figures, season: int) -> float:
    """Return the mean of |x_t - x_(t-m)| over the observed pairs of a context; NaN if there is none.

    Args:
        context: (L,), NaN where nothing was observed.
        season: m; where the context has no pair that is m apart, neighbours are taken, m = 1.
    """
    for lag in dict.fromkeys((season, 1)):
        if len(context) > lag:
            apart = np.abs(context[lag:] - context[:-lag])
            if (~np.isnan(apart)).any():
                return float(np.nanmean(apart))
    return float("nan")
