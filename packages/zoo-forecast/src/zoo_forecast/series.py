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
    def observed(self) -> int:
        """How many values were observed."""
        return len(self.values) - (0 if self.bridged is None else int(self.bridged.sum()))

    @property
    def constant(self) -> bool:
        """Whether all values are the same."""
        return bool((self.values == self.values[:1]).all())


def scaled(values: Values, *, double: bool) -> tuple[Values, Values, Values]:
    """Return series normalised, (..., L), with the means and standard deviations (...,) that undo it.

    Args:
        values: (..., L), finite.
        double: in float64 with the standard deviation itself; else as upstream, in float32 with 1e-5 added to it.
    """
    if not double:
        narrow = values.astype(np.float32)
        mean = narrow.mean(-1, keepdims=True)
        std = narrow.std(-1, keepdims=True) + np.float32(1e-5)
        return tuple(x.astype(np.float64) for x in ((narrow - mean) / std, mean[..., 0], std[..., 0]))
    largest = np.abs(values).max(-1, keepdims=True)  # squares of very large or small values leave what a float holds
    largest[largest == 0] = 1
    unit = values / largest
    mean, std = unit.mean(-1, keepdims=True), unit.std(-1, keepdims=True)
    normal = (unit - mean) / np.where(std == 0, 1, std)
    return normal, (mean * largest)[..., 0], (std * largest)[..., 0]


def numbers(given: Sequence[float] | Any, *, name: str = "the series") -> Values:
    """Return a row of numbers, (L,) float64, NaN where it has gaps; arguments and errors as of `clean`."""
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
    return values


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
    values = numbers(given, name=name)
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
