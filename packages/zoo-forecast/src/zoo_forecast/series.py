"""One series as it comes, made fit to be read: gaps bridged, infinities refused, its scale known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoo_core.errors import InputError

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A series without gaps, oldest value first.

    Args:
        values: (L,) float64, finite; empty if nothing was observed.
        notes: what was done to it, a sentence each.
        bridged: (L,) where values were missing and are made up; None is nowhere.
    """

    values: Values
    notes: tuple[str, ...] = ()
    bridged: NDArray[np.bool_] | None = None

    @property
    def constant(self) -> bool:
        """Whether all values are the same."""
        return bool((self.values == self.values[:1]).all())

    def scale(self, points: int, *, double: bool) -> tuple[Values, float, float]:
        """Return the newest values normalised, with the mean and standard deviation that undo it.

        Args:
            points: how many values.
            double: in float64 with the standard deviation itself; else as upstream, in float32 with 1e-5 added to it.
        """
        newest = self.values[-points:]
        if not double:
            narrow = newest.astype(np.float32)
            mean, std = narrow.mean(), narrow.std() + np.float32(1e-5)
            return ((narrow - mean) / std).astype(np.float64), float(mean), float(std)
        largest = float(np.abs(newest).max()) or 1.0  # squares of very large or small values leave what a float holds
        unit = newest / largest
        mean, std = unit.mean(), unit.std()
        return (unit - mean) / (std or 1.0), float(mean * largest), float(std * largest)


def clean(given: Sequence[float] | Any, *, name: str = "the series") -> Series:
    """Make a series fit to be read.

    Values before the first observation are left out. Gaps are bridged by straight lines, and a gap at the end by the
    last observation: never by zeros.

    Args:
        given: (L,) numbers, an array, tensor or list; NaN and None are gaps.
        name: for messages.

    Raises:
        InputError: it is no row of numbers, or some value is infinite.
    """
    if isinstance(given, Tensor):
        given = given.detach().cpu().double().numpy()
    try:
        values = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} holds something that is no number ({error}).") from error
    if values.ndim != 1:
        raise InputError(f"{name} has shape {values.shape}, but must be one row of numbers.", "Give channels apart.")
    if np.isinf(values).any():
        where = int(np.flatnonzero(np.isinf(values))[0])
        raise InputError(f"{name} is infinite at place {where}.", "Correct it, or make it NaN, which is a gap.")
    seen = np.flatnonzero(~np.isnan(values))
    if not len(seen):
        return Series(values[:0], ("nothing was observed: the forecast is NaN",))
    values = values[seen[0] :]
    gaps = np.isnan(values)
    if not gaps.any():
        return Series(values)
    places = np.arange(len(values))
    values[gaps] = np.interp(places[gaps], places[~gaps], values[~gaps])
    return Series(values, (f"{int(gaps.sum())} missing values were bridged by straight lines",), gaps)
