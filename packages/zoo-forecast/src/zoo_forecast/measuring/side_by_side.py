"""Let several ways forecast the same windows, and score what each says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from zoo_core.errors import ZooError
from zoo_forecast.measuring import scores
from zoo_forecast.measuring.data import Tested
from zoo_forecast.measuring.scores import Figures, Predicted
from zoo_forecast.measuring.ways import Method
from zoo_forecast.measuring.windows import Window, batches, scales, truth

AT_ONCE = 6_000_000  # values of sample paths in memory
METRICS = (
    "mse",
    "mae",
    "mase",
    "crps",
    "crps_energy",
    "mae_of_mean",
    *(f"coverage{share}" for share in scores.COVERED),
)


@dataclass
class Measured:
    """What one way earned at one horizon.

    Args:
        figures: metric -> (W,), NaN where a window could not be scored by it.
        pit: (10,) shares.
        seconds: of all its forecasts, of all horizons.
    """

    figures: dict[str, Figures] = field(default_factory=dict)
    pit: Figures = field(default_factory=lambda: np.full(scores.PIT_BINS, np.nan))
    seconds: float = 0.0

    def mean(self, metric: str) -> float:
        """Return the mean over the windows that were scored; every window counts once."""
        values = self.figures[metric]
        return float(np.nanmean(values)) if (~np.isnan(values)).any() else float("nan")

    @property
    def crps_sums(self) -> float:
        """CRPS as gluonts has it: quantile losses of all windows over the sum of all |truth|."""
        return _ratio(float(self.figures["quantile_loss"].sum()), float(self.figures["magnitude"].sum()))


def measure(
    ways: Mapping[str, Method],
    series: Sequence[Tested],
    chosen: Sequence[Window],
    *,
    context: int,
    horizons: Sequence[int],
    samples: int,
    seed: int,
    step: Callable[[int], None],
) -> dict[str, dict[int, Measured]]:
    """Score ways at the same windows.

    Each origin is forecast once, at the longest horizon; shorter ones are its beginning. At a horizon those windows
    are scored that end within their series.

    Args:
        ways: name -> forecaster.
        series: that the windows are of.
        chosen: windows, of the shortest horizon.
        context: points that are known.
        horizons: which are scored.
        samples: paths of the largest way; says how many windows are in memory.
        seed: of shuffled texts.
        step: told after every batch of a way how many windows are done.

    Returns:
        way -> horizon -> figures, in the order of the windows that fit the horizon.

    Raises:
        ZooError: a forecast is not finite.
    """
    longest = max(horizons)
    size = int(np.clip(AT_ONCE // (samples * longest), 1, 512))
    scale = scales(series, chosen, context)
    parts: dict[str, dict[int, list[dict[str, Figures]]]] = {name: {h: [] for h in horizons} for name in ways}
    tallies = {name: {h: Measured() for h in horizons} for name in ways}
    pits: dict[str, dict[int, list[tuple[int, Figures]]]] = {name: {h: [] for h in horizons} for name in ways}
    for numbers, batch in batches(series, chosen, context=context, horizon=longest, size=size, seed=seed):
        part = [chosen[n] for n in numbers]
        came = truth(series, part, longest)
        for name, way in ways.items():
            begin = time.perf_counter()
            predicted = way(batch)
            seconds = time.perf_counter() - begin
            _check(name, predicted, batch.items)
            for horizon, rows in _fitting(series, part, horizons):
                mine, y = predicted.cut(rows, horizon), came[rows, :horizon]
                parts[name][horizon].append(scores.score(mine, y, scale[numbers[rows]]))
                if predicted.values.shape[1] > 1:
                    pits[name][horizon].append((int((~np.isnan(y)).sum()), scores.pit(mine, y)))
            for tally in tallies[name].values():
                tally.seconds += seconds
            step(len(part))
    for name, by_horizon in tallies.items():
        for horizon, tally in by_horizon.items():
            found = parts[name][horizon]
            tally.figures = {key: np.concatenate([one[key] for one in found]) for key in found[0]} if found else {}
            counted = [(count, shares) for count, shares in pits[name][horizon] if count]
            if counted:
                tally.pit = np.average([s for _, s in counted], axis=0, weights=[c for c, _ in counted])
    return tallies


def fitting(series: Sequence[Tested], chosen: Sequence[Window], horizon: int) -> list[int]:
    """Return the numbers of the windows that end within their series at this horizon."""
    return [row for row, w in enumerate(chosen) if w.origin + horizon <= len(series[w.series].values)]


def series_below(mine: Measured, theirs: Measured, chosen: Sequence[Window], metric: str) -> float:
    """Return in which share of the series mine has the lower mean; NaN where no series was scored.

    Args:
        mine: of one way.
        theirs: of another.
        chosen: the windows that both scored.
        metric: such as mase.
    """
    labels = np.array([w.series for w in chosen])
    apart = mine.figures[metric] - theirs.figures[metric]
    scored = ~np.isnan(apart)
    sums = np.bincount(labels[scored], apart[scored])
    there = np.bincount(labels[scored]) > 0
    return float((sums[there] < 0).mean()) if there.any() else float("nan")


def _fitting(
    series: Sequence[Tested], part: Sequence[Window], horizons: Sequence[int]
) -> Iterator[tuple[int, np.ndarray[tuple[int], np.dtype[np.intp]]]]:
    for horizon in horizons:
        rows = fitting(series, part, horizon)
        if rows:
            yield horizon, np.array(rows, dtype=np.intp)


def _check(name: str, predicted: Predicted, items: Sequence[str]) -> None:
    finite = np.isfinite(predicted.values).all((1, 2))
    if not finite.all():
        raise ZooError(f"The forecast of {items[int(np.argmin(finite))]} by {name} is not finite.", "Use fp32.")


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")
