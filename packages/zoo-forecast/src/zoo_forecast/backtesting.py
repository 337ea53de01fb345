"""Forecasts of series' own past, and how good they were beside two naive ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo_core.errors import UsageError
from zoo_forecast.forecaster import Forecaster, check_levels
from zoo_forecast.items import Item
from zoo_forecast.series import Values


@dataclass(frozen=True, eq=False)
class Window:
    """A horizon in the past of an item.

    Args:
        item: whole.
        origin: how many points were read.
        first: place of the first point that is forecast.
        end: place behind the last one.
    """

    item: Item
    origin: int
    first: int
    end: int

    @property
    def past(self) -> Item:
        """What was known at the origin."""
        return self.item.until(self.origin)

    @property
    def came(self) -> Values:
        """What came, (H,)."""
        return self.item.values[self.first : self.end]

    @property
    def covariates(self) -> Values | None:
        """Those of past and horizon, (C, origin + gap + H), or None."""
        return None if self.item.covariates is None else self.item.covariates[:, : self.end]


def windows(
    items: Sequence[Item], horizon: int, *, count: int = 1, step: int | None = None, gap: int = 0
) -> list[Window]:
    """Return windows of each item, oldest first; the last one ends with the item.

    Args:
        items: the series.
        horizon: H, points of a window.
        count: windows of each.
        step: points between origins, default H.
        gap: points between an origin and its window.

    Raises:
        UsageError: a number below 1, or an item that is too short for so many windows.
    """
    step = horizon if step is None else step
    for name, number in (("n_windows", count), ("step_size", step), ("prediction_length", horizon), ("gap", gap + 1)):
        if number < 1:
            raise UsageError(f"{name} is {number}, but must be at least 1.")
    found = []
    for item in items:
        for window in reversed(range(count)):
            end = len(item.values) - window * step
            origin = end - horizon - gap
            if origin < 1:
                raise UsageError(
                    f"Item {item.name!r} has {len(item.values)} points: too few for {count} windows.",
                    "Ask for fewer, or leave it out.",
                )
            found.append(Window(item, origin, origin + gap, end))
    return found


@dataclass(frozen=True)
class Score:
    """How good forecasts of an item, or of all, were; NaN where nothing came.

    Args:
        mae: mean absolute error of the median.
        rmse: root of the mean squared error of the mean.
        mase: mae over the mean change from a period before, in the context of the first window.
        loss: mean pinball loss over the levels, twice, which is the CRPS for many levels.
        coverage: share of what came between the outermost levels.
        last: mae of the last value.
        seasonal: mae of the value a period before.
    """

    mae: float
    rmse: float
    mase: float
    loss: float
    coverage: float
    last: float
    seasonal: float


@dataclass(frozen=True, eq=False)
class Backtest:
    """Windows and what was forecast in them.

    Args:
        windows: of all items.
        levels: of the quantiles, ascending.
        quantiles: (windows, levels, H).
        median: (windows, H).
        mean: (windows, H).
    """

    windows: tuple[Window, ...]
    levels: tuple[float, ...]
    quantiles: Values
    median: Values
    mean: Values

    @property
    def items(self) -> list[Item]:
        """The items, in their order."""
        return list({id(window.item): window.item for window in self.windows}.values())

    def of(self, item: Item) -> list[int]:
        """Return the places of an item's windows."""
        return [place for place, window in enumerate(self.windows) if window.item is item]

    def score(self, item: Item) -> Score:
        """Return how good the forecasts of an item were."""
        places = self.of(item)
        came = np.stack([self.windows[place].came for place in places])
        median, mean, fans = self.median[places], self.mean[places], self.quantiles[places]
        level = np.array(self.levels)[:, None]
        over = came[:, None] - fans
        past = [self.windows[place] for place in places]
        period = min(item.step.period, past[0].origin)
        season = np.stack([_seasonal(window, period) for window in past])
        last = np.stack([_last(window) for window in past])
        before = past[0].past.values
        change = _mean(np.abs(before[period:] - before[:-period]))
        mae = _mean(np.abs(came - median))
        inside = np.where(np.isnan(came), np.nan, (came >= fans[:, 0]) & (came <= fans[:, -1]))
        return Score(
            mae=mae,
            rmse=_mean((came - mean) ** 2) ** 0.5,
            mase=mae / change if change else np.nan,
            loss=2 * _mean(np.maximum(level * over, (level - 1) * over)),
            coverage=_mean(inside),
            last=_mean(np.abs(came - last)),
            seasonal=_mean(np.abs(came - season)),
        )


def backtest(
    forecaster: Forecaster, items: Sequence[Item], horizon: int, *, count: int = 1, step: int | None = None,
    gap: int = 0, levels: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9), **options: Any,
) -> Backtest:  # fmt: skip
    """Forecast items from origins in their past; of values and texts those up to each origin are read.

    Args:
        forecaster: any model of this package.
        items: the series; their covariates are taken as known over each horizon.
        horizon: see `windows`, as are count, step and gap.
        count: see there.
        step: see there.
        gap: see there.
        levels: of the quantiles, at least two.
        options: further ones of `Forecaster.predict`.

    Raises:
        UsageError: see `windows`; a level that is none.
    """
    check_levels(levels)
    levels = tuple(sorted(set(levels)))
    if len(levels) < 2:
        raise UsageError("A back-test needs two levels at least.", "Give some, such as 0.1 0.5 0.9.")
    found = windows(items, horizon, count=count, step=step, gap=gap)
    past = [window.past for window in found]
    forecast = forecaster.predict(
        [item.values for item in past],
        horizon,
        texts=[item.text for item in past],
        items=[str(item.name) for item in past],
        periods=[item.step.period for item in past],
        covariates=[window.covariates for window in found],
        gap=gap,
        **options,
    )
    return Backtest(
        tuple(found), levels, forecast.quantiles(levels).numpy(), forecast.median.numpy(), forecast.mean.numpy()
    )


def _seasonal(window: Window, period: int) -> Values:
    """Return what was there a period before each point, as far as that was known at the origin."""
    places = np.arange(window.first, window.end)
    known = places - period * (-(-(places - window.origin + 1) // period))
    return np.asarray(window.item.values[known])


def _last(window: Window) -> Values:
    values = window.past.values
    seen = values[~np.isnan(values)]
    return np.full(window.end - window.first, seen[-1] if len(seen) else np.nan)


def _mean(values: Values) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
