"""What known-future covariates explain of one series, by ridge regression on its own context (Hoerl, Kennard 1970).

For models that read no covariates: they forecast what is left, and what the covariates explain is added again. The fit
is per series, so that no other series of a batch changes it. Covariates must earn their place: how strongly they are
trusted, or that they are not, is chosen on the newest quarter of the context, which the coefficients have not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import InputError
from zoo_forecast.series import Values

Places: TypeAlias = NDArray[np.bool_]
HELD_OUT = 0.25  # of the context


class Way(NamedTuple):
    """How a series is fitted.

    Args:
        changes: to the covariates' changes instead of their levels.
        penalty: share of the covariates' variance; the least is for an exact sum.
        bar: share of the movement without covariates below which they must bring it. Levels that wander correlate by
            chance, so that theirs is low; set on simulated walks and noise, see the tests.
    """

    changes: bool
    penalty: float
    bar: float


PENALTIES = (1.0, 1e-2, 1e-4, 1e-8)
WAYS = (*(Way(True, penalty, 0.95) for penalty in PENALTIES), *(Way(False, penalty, 0.6) for penalty in PENALTIES))


@dataclass(frozen=True, eq=False)
class Explained:
    """What covariates explain.

    Args:
        past: (L,) of the context, to be taken from it.
        future: (H,) of the horizon, to be added to its forecast.
        notes: what a reader should know, a sentence each.
    """

    past: Values
    future: Values
    notes: tuple[str, ...] = ()


def explain(values: Values, tracks: Values) -> Explained:
    """Return what covariates explain of a series.

    Args:
        values: (L,), the context; NaN is missing.
        tracks: (C, L + H), the covariates over context and horizon; NaN is missing and stands for the mean.

    Returns:
        zeros where they explain nothing that lasts, or the context is too short to tell.
    """
    length = len(values)
    horizon = tracks.shape[1] - length
    nothing = Explained(np.zeros(length), np.zeros(horizon))
    there = ~np.isnan(values) & ~np.isnan(tracks[:, :length]).any(0)
    if there.sum() < 2 * len(tracks) + 4:
        return Explained(nothing.past, nothing.future, ("too few points show what the covariates do: they are unused",))
    size = float(np.abs(values[there]).max()) or 1.0
    y, z = values / size, _standard(tracks, there)
    way = _chosen(y, z[:, :length], there, max(1, horizon))
    if way is None:
        return Explained(nothing.past, nothing.future, ("the covariates explain nothing that lasts: they are unused",))
    whole = _fit(y, z[:, :length], there, way) @ z * size
    lost = int(np.isnan(tracks[:, length:]).any(0).sum())
    notes = (f"at {lost} coming points covariates are missing: their mean stands for them",) if lost else ()
    return Explained(whole[:length], whole[length:], notes)


def _standard(tracks: Values, there: Places) -> Values:
    """Return covariates of mean 0 and variance 1 over the points where all is there; 0 where they are missing."""
    with np.errstate(invalid="ignore"):
        unit = tracks / np.maximum(np.nanmax(np.abs(tracks), 1, keepdims=True, initial=0), np.finfo(float).tiny)
    seen = unit[:, : len(there)][:, there]
    std = seen.std(1, keepdims=True)
    # a covariate that never moved over the context says nothing of what its moves do
    scaled: Values = np.nan_to_num((unit - seen.mean(1, keepdims=True)) / np.where(std > 1e-12, std, np.inf))
    return scaled


def _fit(y: Values, z: Values, points: Places, way: Way) -> Values:
    """Return b (C,) that minimises |y - mean(y) - b z|^2 / n + penalty |b|^2 over points (L,), of y (L,) and z (C, L).

    By changes, y and z are their changes from a point to the next: where the rest of a series wanders, levels correlate
    with whatever else wanders.
    """
    if way.changes:
        y, z, points = np.diff(y), np.diff(z), points[1:] & points[:-1]
    y, z = y[points], z[:, points]
    if not len(y):
        return np.zeros(len(z))
    y, z = y - y.mean(), z - z.mean(1, keepdims=True)
    square = z @ z.T / len(y) + way.penalty * np.eye(len(z))
    return np.asarray(np.linalg.solve(square, z @ y / len(y)))


def _chosen(y: Values, z: Values, there: Places, horizon: int) -> Way | None:
    """Return the way to fit after which the rest moves least over a horizon in the part held out; None: not at all."""
    seen = np.flatnonzero(there)
    begin = int(seen[-max(2, round(HELD_OUT * len(seen)))])
    fitted = there & (np.arange(len(there)) < begin)
    apart = min(horizon, len(y) - begin, begin)  # so that a horizon fits the part

    def movement(rest: Values) -> float:
        moves = np.abs(rest[begin:] - rest[begin - apart : len(rest) - apart])
        return float(np.nanmean(moves)) if not np.isnan(moves).all() else np.inf

    best, least, without = None, 1.0, movement(np.where(there, y, np.nan))
    for way in WAYS:
        rest = np.where(there, y - _fit(y, z, fitted, way) @ z, np.nan)
        if without and (moved := movement(rest) / without / way.bar) < least:
            best, least = way, moved
    return best


def checked(given: object, points: int, *, name: str) -> Values:
    """Return covariates as an array (C, points).

    Args:
        given: numbers, (C, points), or (points,) of one; NaN is missing.
        points: L + H.
        name: of the series, for messages.

    Raises:
        InputError: they are no numbers, of another length, or infinite.
    """
    try:
        tracks = np.atleast_2d(np.array(given, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"The covariates of {name} hold something that is no number ({error}).") from error
    if tracks.ndim != 2 or tracks.shape[1] != points:
        raise InputError(
            f"The covariates of {name} have shape {tracks.shape}, but need one column for each of {points} points.",
            "Give the context's and the horizon's, one row a covariate.",
        )
    if np.isinf(tracks).any():
        row, place = (int(n) for n in np.argwhere(np.isinf(tracks))[0])
        raise InputError(f"Covariate {row} of {name} is infinite at place {place}.", "Correct it, or make it NaN.")
    return tracks
