"""Forecasts that anybody can make, to compare with: the last value, the last season, the mean of the context.

As point forecasts they have no width. With the normal spread of the textbooks (Hyndman and Athanasopoulos, Forecasting:
Principles and Practice, section 5.5) they are a fairer match for a probabilistic forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np

from zoo_forecast.measuring.scores import Figures, Predicted
from zoo_forecast.series import Values, clean

LEVELS = np.arange(1, 40) / 40
_NORMAL = np.array([NormalDist().inv_cdf(float(level)) for level in LEVELS])

Rule: TypeAlias = Callable[[Values, int, int], Values]


def last_value(context: Values, season: int, horizon: int) -> Values:
    """Return the last observation, again and again: (H,) from (L,)."""
    return np.full(horizon, context[-1])


def seasonal_naive(context: Values, season: int, horizon: int) -> Values:
    """Return the last season, again and again; of a context shorter than a season the last observation."""
    return np.resize(context[-season:], horizon) if len(context) >= season else last_value(context, season, horizon)


def context_mean(context: Values, season: int, horizon: int) -> Values:
    """Return the mean of the context."""
    return np.full(horizon, context.mean())


def forecast(rule: Rule, contexts: Sequence[Values], seasons: Sequence[int], horizon: int) -> Predicted:
    """Forecast windows without any width.

    Args:
        rule: one of the above.
        contexts: of each window, oldest value first; gaps are bridged as for the models.
        seasons: points of a season, of each window.
        horizon: points to forecast.
    """
    whole = [clean(context).values for context in contexts]
    return Predicted.point([rule(context, season, horizon) for context, season in zip(whole, seasons, strict=True)])


def forecast_normal(rule: Rule, contexts: Sequence[Values], seasons: Sequence[int], horizon: int) -> Predicted:
    """Forecast windows with the normal spread of the rule's own residuals, which grows with every step or season.

    Args:
        rule: `last_value` or `seasonal_naive`.
        contexts: see `forecast`.
        seasons: see `forecast`.
        horizon: see `forecast`.
    """
    points = forecast(rule, contexts, seasons, horizon).mean
    lags = [season if rule is seasonal_naive else 1 for season in seasons]
    widths = np.stack([_width(clean(c).values, lag, horizon) for c, lag in zip(contexts, lags, strict=True)])
    return Predicted(points[:, None] + _NORMAL[None, :, None] * widths[:, None], points, LEVELS)


def _width(context: Values, lag: int, horizon: int) -> Figures:
    """Return the standard deviation of each step's error."""
    lag = lag if len(context) >= lag else 1
    residuals = context[lag:] - context[:-lag]
    deviation = float(np.sqrt(np.mean(residuals**2))) if len(residuals) else 0.0
    return np.asarray(deviation * np.sqrt(np.arange(horizon) // lag + 1))
