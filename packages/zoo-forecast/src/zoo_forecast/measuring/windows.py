"""Windows over series: from which origins forecasts are made, what is known there, and what came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo_core.evaluate import Difference
from zoo_forecast.measuring.data import Tested
from zoo_forecast.measuring.scores import Figures, mase_scale
from zoo_forecast.series import Values

FEWEST_GROUPS = 6  # of which a bootstrap says where a mean lies
MANY_SERIES = 10  # from so many on, intervals are for other series
BLOCKS = 40  # of a series, in intervals of fewer


@dataclass(frozen=True)
class Window:
    """An origin in a series: points before it are known, those from it on are forecast."""

    series: int
    origin: int


@dataclass(frozen=True, eq=False)
class Batch:
    """What a forecaster is given for some windows.

    Args:
        contexts: known values of each, oldest first, with NaN where nothing was observed.
        seasons: points of a season.
        horizon: points to forecast.
        texts: the newest text known at each origin; None for none.
        other_texts: the same texts, each at another origin by chance; a text may then be of a later time,
            which can only make it look better than it should.
        items: names for the noise, one a window.
        covariates: (C, context + horizon) of each: of columns that are known ahead.
    """

    contexts: Sequence[Values]
    seasons: Sequence[int]
    horizon: int
    texts: Sequence[str | None]
    other_texts: Sequence[str | None]
    items: Sequence[str]
    covariates: Sequence[Values]


def windows(series: Sequence[Tested], *, context: int, horizon: int, stride: int) -> tuple[list[Window], int]:
    """Return the windows of a test part, and how many were left out as nothing was observed in context or horizon.

    The first origin of a series is the first point of its test part, the next ones are a stride apart. All points that
    are forecast are of the test part.

    Args:
        series: the series.
        context: points that are known, at most.
        horizon: points to forecast.
        stride: points between origins.
    """
    found, empty = [], 0
    for number, one in enumerate(series):
        tested = np.flatnonzero(one.test)
        if not len(tested):
            continue
        for origin in range(max(int(tested[0]), 1), int(tested[-1]) + 1, stride):
            coming = slice(origin, origin + horizon)
            if origin + horizon > len(one.values) or not one.test[coming].all():
                continue
            known = one.values[max(0, origin - context) : origin]
            if np.isnan(known).all() or np.isnan(one.values[coming]).all():
                empty += 1
            else:
                found.append(Window(number, origin))
    return found, empty


def batches(
    series: Sequence[Tested], chosen: Sequence[Window], *, context: int, horizon: int, size: int, seed: int
) -> Iterator[tuple[NDArray[np.intp], Batch]]:
    """Yield numbers of windows and what is known in them, `size` at a time; the seed is that of shuffled texts."""
    texts = [series[w.series].text(w.origin) for w in chosen]
    told = [row for row, text in enumerate(texts) if text is not None]
    others = list(texts)
    for row, other in zip(told, np.random.default_rng(seed).permutation(told).tolist(), strict=True):
        others[row] = texts[other]
    for first in range(0, len(chosen), size):
        part = chosen[first : first + size]
        yield (
            np.arange(first, first + len(part)),
            Batch(
                contexts=[series[w.series].values[max(0, w.origin - context) : w.origin] for w in part],
                seasons=[series[w.series].season for w in part],
                horizon=horizon,
                texts=texts[first : first + size],
                other_texts=others[first : first + size],
                items=[f"{series[w.series].name}@{w.origin}" for w in part],
                covariates=[
                    series[w.series].covariates[:, max(0, w.origin - context) : w.origin + horizon] for w in part
                ],
            ),
        )


def truth(series: Sequence[Tested], chosen: Sequence[Window], horizon: int) -> Figures:
    """Return what came, (W, H), NaN where nothing was observed or the series ends."""
    came = np.full((len(chosen), horizon), np.nan)
    for row, w in enumerate(chosen):
        values = series[w.series].values[w.origin : w.origin + horizon]
        came[row, : len(values)] = values
    return came


def scales(series: Sequence[Tested], chosen: Sequence[Window], context: int) -> Figures:
    """Return what errors of each window are divided by for MASE, from its context alone."""
    return np.array(
        [
            mase_scale(series[w.series].values[max(0, w.origin - context) : w.origin], series[w.series].season)
            for w in chosen
        ]
    )


def resampled_together(chosen: Sequence[Window], *, horizon: int) -> tuple[list[str], str]:
    """Return for each window the label of what is drawn whole in resampling, and what that is in words.

    Windows of one series are alike, so that whole series are drawn. Of fewer than 10 series that says nothing: there,
    blocks of windows that follow each other are drawn, at least as long as a horizon and at most 40 a series.
    """
    series = {w.series for w in chosen}
    if len(series) >= MANY_SERIES:
        return [str(w.series) for w in chosen], f"{len(series)} series"
    if not chosen:
        return [], "nothing"
    origins = {n: [w.origin for w in chosen if w.series == n] for n in series}
    length = max(horizon, *(-(-(o[-1] - o[0] + 1) // BLOCKS) for o in origins.values()))
    labels = [f"{w.series}/{(w.origin - origins[w.series][0]) // length}" for w in chosen]
    return labels, f"{len(set(labels))} blocks of windows, {length} points long"


def told(difference: Difference, groups: Sequence[str]) -> dict[str, float]:
    """Return a paired difference by name, as far as few groups allow.

    A bootstrap of few groups is too sure. Its p value is no smaller here than that of a sign test in which all groups
    agree, 2 / 2^groups; of fewer than 6 groups there is no interval.
    """
    count = len(set(groups))
    few = {"low": float("nan"), "high": float("nan")} if count < FEWEST_GROUPS else {}
    return {**difference._asdict(), **few, "p": max(difference.p, 2.0 ** (1 - count)) if count else float("nan")}
