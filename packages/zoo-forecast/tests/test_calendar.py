"""Steps between time stamps, found and named, beside pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.errors import UsageError
from zoo_forecast.calendar import Step, are_month_ends

FREQS = ("s", "5min", "15min", "30min", "h", "6h", "D", "W", "2W", "B", "MS", "ME", "QS", "QE", "YS", "YE")


def stamps(start: str, freq: str, count: int) -> np.ndarray:
    return pd.date_range(start, periods=count, freq=freq).to_numpy().astype("datetime64[us]")


@pytest.mark.parametrize("freq", FREQS)
@pytest.mark.parametrize("start", ["2019-11-15 10:30", "2020-02-01", "1899-12-31"])
def test_the_future_is_that_of_pandas(freq: str, start: str) -> None:
    whole = stamps(start, freq, 60)
    step = Step.between(whole[:40])
    assert step == Step.named(freq)
    assert (step.after(whole[39], 20, month_ends=are_month_ends(whole[:40])) == whole[40:]).all()
    assert step.places(whole).tolist() == list(range(60))  # type: ignore[union-attr]


@pytest.mark.parametrize("freq", FREQS)
@given(lost=st.sets(st.integers(1, 38), max_size=8))
def test_gaps_are_seen(freq: str, lost: set[int]) -> None:
    whole = stamps("2020-01-01", freq, 40)
    kept = [n for n in range(40) if n not in lost]
    step = Step.between(whole[kept])
    assert step == Step.named(freq)
    assert step.places(whole[kept]).tolist() == kept  # type: ignore[union-attr]


def test_the_last_day_is_kept_where_a_month_has_it() -> None:
    last = np.datetime64("2023-01-30T12:00", "us")
    coming = Step("months", 1).after(last, 2)
    assert coming.astype("datetime64[m]").astype(str).tolist() == ["2023-02-28T12:00", "2023-03-30T12:00"]


def test_irregular_stamps_have_no_step() -> None:
    days = np.array([0, 1, 3, 4.5, 9, 11.2]) * 86400e6
    assert Step.between(np.datetime64("2020-01-01", "us") + days.astype("timedelta64[us]")) is None
    assert Step.between(np.array(["2020-01-01"], "datetime64[us]")) is None


@pytest.mark.parametrize("name", ["", "hh", "0h", "fortnight", "-1D"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UsageError, match="no frequency"):
        Step.named(name)


@pytest.mark.parametrize(
    ("name", "period"),
    [("h", 24), ("15min", 96), ("5min", 288), ("D", 7), ("B", 5), ("W", 52), ("MS", 12), ("QE", 4), ("Y", 1)],
)
def test_a_step_has_the_period_that_people_expect(name: str, period: int) -> None:
    assert Step.named(name).period == period
