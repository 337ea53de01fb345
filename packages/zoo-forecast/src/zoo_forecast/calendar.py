"""The steps between time stamps: found from the stamps, or named; gaps seen; stamps of the future made.

Works on numpy's datetime64, so that no table library is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import UsageError, did_you_mean

Stamps: TypeAlias = NDArray[np.datetime64]
Kind = Literal["time", "months", "business days"]
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_MONTHS = {"ms": 1, "me": 1, "m": 1, "qs": 3, "qe": 3, "q": 3, "ys": 12, "ye": 12, "y": 12}
_OLD = {"t": "min", "a": "y", "as": "ys"}  # names of earlier versions of pandas
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Step:
    """The distance between neighbours.

    Args:
        kind: a fixed time, whole months, or business days (Monday to Friday).
        count: seconds, months or days.
    """

    kind: Kind
    count: float

    @classmethod
    def named(cls, name: str) -> Step:
        """Return the step that a name of pandas means, such as h, 15min, D, W, B, MS, QE or Y.

        Raises:
            UsageError: the name is not known.
        """
        match = re.fullmatch(r"(\d*)([A-Za-z]+)(-[A-Z]{3})?", name.strip())
        count, unit = (int(match[1] or 1), match[2].lower()) if match else (0, "")
        unit = _OLD.get(unit, unit)
        if count and unit in _SECONDS:
            return cls("time", count * _SECONDS[unit])
        if count and unit in _MONTHS:
            return cls("months", count * _MONTHS[unit])
        if count and unit == "b":
            return cls("business days", count)
        raise UsageError(f"There is no frequency {name!r}.", did_you_mean(unit, {*_SECONDS, *_MONTHS, "b"}))

    @classmethod
    def between(cls, stamps: Stamps) -> Step | None:
        """Return the step of sorted stamps without doubles, of which some may be missing; None if they are irregular.

        At least half of the distances must be the step itself.
        """
        if len(stamps) < 2:
            return None
        apart = np.diff(stamps).astype("timedelta64[us]").astype(np.int64)
        shortest = int(apart.min())
        whole = stamps.astype("datetime64[M]").astype(np.int64)
        months = np.diff(whole)
        step = int(months.min())
        # months first: some of them follow each other at equal times
        aligned = _ends(stamps).all() or (_rest(stamps) == _rest(stamps)[0]).all()
        if step and aligned and (months % step == 0).all() and (months == step).mean() >= 0.5:
            return cls("months", step)
        # one step apart is more frequent than across gaps
        if (apart % shortest == 0).all() and (apart == shortest).mean() >= 0.5:
            weekdays = (stamps.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
            daily = shortest == 86400 * 10**6
            if daily and len(stamps) > 5 and (weekdays < 5).all() and (apart == 3 * shortest).any():
                return cls("business days", 1)
            return cls("time", shortest / 1e6)
        return None

    @property
    def period(self) -> int:
        """Steps after which such series usually repeat: a day of times, a week of days, a year of weeks or months."""
        if self.kind == "months":
            return max(1, 12 // int(self.count))
        if self.kind == "business days":
            return max(1, 5 // int(self.count))
        for season in (86400, 7 * 86400, 364 * 86400):
            if season >= 2 * self.count:
                return round(season / self.count)
        return 1

    def after(self, last: np.datetime64, count: int, *, month_ends: bool = False) -> Stamps:
        """Return the `count` stamps that follow.

        Args:
            last: the one before them.
            count: how many.
            month_ends: whether stamps of months are their last days; others keep their day as far as a month has it.
        """
        steps = np.arange(1, count + 1)
        if self.kind == "time":
            return np.asarray(last + steps * np.timedelta64(round(self.count * 1e6), "us"))
        day = last.astype("datetime64[D]")
        clock = last - day
        if self.kind == "business days":
            first = np.busday_offset(day, 0, roll="backward")
            return np.asarray(np.busday_offset(first, steps * int(self.count)) + clock)
        months = day.astype("datetime64[M]") + steps * int(self.count)
        ends = (months + 1).astype("datetime64[D]") - _DAY
        if month_ends:
            return np.asarray(ends + clock)
        return np.asarray(
            np.minimum(months.astype("datetime64[D]") + (day - day.astype("datetime64[M]")), ends) + clock
        )

    def places(self, stamps: Stamps) -> NDArray[np.int64] | None:
        """Return how many steps after the first each sorted stamp is; None if one lies between steps."""
        if self.kind == "time":
            apart = (stamps - stamps[0]).astype("timedelta64[us]").astype(np.int64)
            step = round(self.count * 1e6)
            return apart // step if (apart % step == 0).all() else None
        days = stamps.astype("datetime64[D]")
        if self.kind == "business days":
            apart = np.busday_count(days[0], days)
            return apart // int(self.count) if np.is_busday(days).all() and (apart % self.count == 0).all() else None
        apart = days.astype("datetime64[M]").astype(np.int64)
        apart = apart - apart[0]
        distinct = len(np.unique(apart)) == len(apart)
        return apart // int(self.count) if distinct and (apart % self.count == 0).all() else None


def are_month_ends(stamps: Stamps) -> bool:
    """Whether all stamps are last days of their months, and not all the same day number."""
    return bool(_ends(stamps).all())


def _ends(stamps: Stamps) -> NDArray[np.bool_]:
    days = stamps.astype("datetime64[D]")
    return np.asarray((days + 1).astype("datetime64[M]") > days.astype("datetime64[M]"))


def _rest(stamps: Stamps) -> NDArray[Any]:
    return np.asarray(stamps - stamps.astype("datetime64[M]"))
