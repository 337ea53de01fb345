"""Other forecasters, run beside ours: `pip install "zoo-forecast[peers]"`.

AutoETS of statsforecast fits each context by itself. fracast is a zero-shot network of 85,001 parameters whose wheel
carries its weights. Both give quantiles, not samples.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from zoo_core.errors import MissingDependencyError, UsageError, did_you_mean
from zoo_forecast.measuring import naive
from zoo_forecast.measuring.naive import LEVELS
from zoo_forecast.measuring.scores import Figures, Predicted
from zoo_forecast.measuring.ways import Method
from zoo_forecast.measuring.windows import Batch
from zoo_forecast.series import Values, clean

MODULES = {"autoets": "statsforecast", "fracast": "fracast"}
_NORMAL = np.array([NormalDist().inv_cdf(float(level)) for level in LEVELS])
_FEWEST = 8  # observations that fracast wants


class AutoETS:
    """Exponential smoothing whose form is chosen by information criterion, with its normal intervals.

    A season of more than 24 points is left out, as in R's ets, from which it comes. Where a fit fails the last value
    with its normal spread stands in; `failed` counts that.
    """

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, batch: Batch) -> Predicted:
        """Fit and forecast each window."""
        rows = [
            self._one(clean(context).values, season, batch.horizon)
            for context, season in zip(batch.contexts, batch.seasons, strict=True)
        ]
        means, widths = (np.stack([row[n] for row in rows]) for n in (0, 1))
        return Predicted(means[:, None] + _NORMAL[None, :, None] * widths[:, None], means, LEVELS)

    def _one(self, context: Values, season: int, horizon: int) -> tuple[Figures, Figures]:
        from statsforecast.models import AutoETS as Fit

        unit = float(np.abs(context).max()) or 1.0
        try:
            found = Fit(season_length=season if season <= 24 else 1).forecast(context / unit, h=horizon, level=[80])
            mean = np.asarray(found["mean"], np.float64) * unit
            width = (np.asarray(found["hi-80"], np.float64) - np.asarray(found["lo-80"], np.float64)) * unit
            width /= 2 * NormalDist().inv_cdf(0.9)
            if np.isfinite(mean).all() and np.isfinite(width).all():
                return mean, np.maximum(width, 0)
        except Exception:  # noqa: S110 - whatever its optimiser stumbles over
            pass
        self.failed += 1
        rough = naive.forecast_normal(naive.last_value, [context], [season], horizon)
        return rough.mean[0], (rough.quantile(0.9) - rough.quantile(0.1))[0] / (2 * NormalDist().inv_cdf(0.9))


class Fracast:
    """fracast as its package runs it by default, on the CPU; quantiles 0.1 to 0.9, normal tails beyond them.

    Squared errors are taken of its median, as it has no mean. A context of fewer than 8 observations gets the last
    value with its normal spread; `failed` counts that.
    """

    def __init__(self) -> None:
        from fracast import FracastModel

        self.model: Any = FracastModel.from_pretrained(device="cpu")
        self.failed = 0

    def __call__(self, batch: Batch) -> Predicted:
        """Forecast windows, those of equal length together."""
        values = np.empty((len(batch.contexts), len(LEVELS), batch.horizon))
        medians = np.empty((len(batch.contexts), batch.horizon))
        groups: dict[int, list[int]] = {}
        for row, context in enumerate(batch.contexts):
            enough = int((~np.isnan(context[-self.model.context_length :])).sum()) >= _FEWEST
            groups.setdefault(len(context) if enough else 0, []).append(row)
        for length, rows in groups.items():
            if not length:
                self.failed += len(rows)
                known, seasons = [batch.contexts[r] for r in rows], [batch.seasons[r] for r in rows]
                rough = naive.forecast_normal(naive.last_value, known, seasons, batch.horizon)
                values[rows], medians[rows] = rough.values, rough.mean
                continue
            given = np.stack([batch.contexts[r] for r in rows])
            quantiles = np.sort(self.model.forecast_batch(given, horizon=batch.horizon), axis=2)
            values[rows] = _extended(np.asarray(quantiles, np.float64), self.model.quantiles)
            medians[rows] = quantiles[:, :, self.model.quantiles.index(0.5)]
        return Predicted(values, medians, LEVELS)


def _extended(quantiles: Figures, levels: Sequence[float]) -> Figures:
    """Return quantiles of `LEVELS` (W, Q, H) from (W, H, 9): between them straight, beyond them as of a normal."""
    known = np.asarray(levels)
    median = quantiles[:, :, len(known) // 2]
    result = []
    for level, normal in zip(LEVELS, _NORMAL, strict=True):
        if known[0] <= level <= known[-1]:
            right = int(np.clip(np.searchsorted(known, level), 1, len(known) - 1))
            share = (level - known[right - 1]) / (known[right] - known[right - 1])
            result.append((1 - share) * quantiles[:, :, right - 1] + share * quantiles[:, :, right])
        else:
            outer = 0 if level < known[0] else -1
            stretch = normal / NormalDist().inv_cdf(float(known[outer]))
            result.append(median + (quantiles[:, :, outer] - median) * stretch)
    return np.stack(result, axis=1)


def peer(name: str) -> Method:
    """Return the peer of this name.

    Raises:
        UsageError: there is none; names the nearest.
        MissingDependencyError: its wheel is not installed.
    """
    if name not in MODULES:
        raise UsageError(f"There is no peer {name!r}.", did_you_mean(name, MODULES))
    if importlib.util.find_spec(MODULES[name]) is None:
        raise MissingDependencyError(f"The peer {name} needs {MODULES[name]}.", 'pip install "zoo-forecast[peers]"')
    return AutoETS() if name == "autoets" else Fracast()


def installed() -> list[str]:
    """Return the names of the peers that can be run here."""
    return [name for name, module in MODULES.items() if importlib.util.find_spec(module) is not None]


def failed(method: Method) -> int:
    """Return for how many windows a peer gave no forecast of its own."""
    return int(getattr(method, "failed", 0))
