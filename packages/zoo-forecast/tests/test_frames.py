"""A data frame in, a data frame out; what is wrong with a frame is said by item and row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_aurora import tiny_aurora

from zoo_core.errors import InputError, UsageError
from zoo_forecast.forecaster import Forecaster


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(tiny_aurora())


def a_frame(*, ids: tuple[Any, ...] = ("b", "a"), freq: str = "D", length: int = 60, **more: Any) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "item_id": name,
                "timestamp": pd.date_range("2024-01-01", periods=length, freq=freq, **more),
                "target": np.sin(np.arange(length) / (3 + place)) + place,
                "news": None,
            }
        )
        for place, name in enumerate(ids)
    ]
    return pd.concat(parts, ignore_index=True).astype({"news": object})


def test_shape_of_chronos_2(forecaster: Forecaster) -> None:
    frame = a_frame()
    out = forecaster.predict_df(frame, prediction_length=7, quantile_levels=[0.1, 0.5, 0.9], num_samples=20)
    assert list(out.columns) == ["item_id", "timestamp", "target_name", "predictions", "0.1", "0.5", "0.9"]
    assert out["item_id"].tolist() == ["b"] * 7 + ["a"] * 7, "items come in the order of the frame"
    assert out["timestamp"].tolist() == list(pd.date_range("2024-03-01", periods=7)) * 2
    assert (out["predictions"] == out["0.5"]).all()
    assert (out["0.1"] < out["0.9"]).all()
    assert set(out["target_name"]) == {"target"}


def test_names_of_nixtla_come_back(forecaster: Forecaster) -> None:
    frame = a_frame().rename(columns={"item_id": "unique_id", "timestamp": "ds", "target": "y"})
    out = forecaster.predict_df(frame, prediction_length=3, num_samples=5)
    assert list(out.columns[:4]) == ["unique_id", "ds", "target_name", "predictions"]
    plain = forecaster.predict_df(a_frame(), prediction_length=3, num_samples=5)
    assert (out["predictions"] == plain["predictions"]).all()


def test_rows_in_any_order_give_the_same_and_say_so(forecaster: Forecaster) -> None:
    frame = a_frame()
    shuffled = frame.sample(frac=1, random_state=0)
    with pytest.warns(UserWarning, match="they were sorted"):
        out = forecaster.predict_df(shuffled, prediction_length=3, num_samples=5)
    plain = forecaster.predict_df(frame, prediction_length=3, num_samples=5)
    for name in ("a", "b"):
        assert out[out["item_id"] == name]["predictions"].tolist() == pytest.approx(
            plain[plain["item_id"] == name]["predictions"].tolist(), rel=1e-5
        )


def test_missing_rows_are_missing_values(forecaster: Forecaster) -> None:
    frame = a_frame(ids=("a",))
    with pytest.warns(UserWarning, match="2 time stamps are missing"):
        gone = forecaster.predict_df(frame.drop([10, 30]), prediction_length=3, num_samples=5)
    frame.loc[[10, 30], "target"] = np.nan
    with pytest.warns(UserWarning, match="2 missing values were bridged"):
        empty = forecaster.predict_df(frame, prediction_length=3, num_samples=5)
    pd.testing.assert_frame_equal(gone, empty)


def test_the_newest_text_is_read(forecaster: Forecaster) -> None:
    frame, alone = a_frame(), a_frame()
    frame.loc[3, "news"], frame.loc[20, "news"], frame.loc[40, "news"] = "Old news.", "A strike begins.", "  "
    alone.loc[59, "news"] = "A strike begins."
    told, newest = (
        forecaster.predict_df(each, prediction_length=3, num_samples=5, text_column="news") for each in (frame, alone)
    )
    pd.testing.assert_frame_equal(told, newest)
    without = forecaster.predict_df(frame, prediction_length=3, num_samples=5)
    assert np.isclose(told["predictions"], without["predictions"], rtol=1e-5).tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("freq", ["D", "h"])
def test_time_zones_are_kept_over_a_change_of_clocks(forecaster: Forecaster, freq: str) -> None:
    begin = pd.Timestamp("2024-03-31", tz="Europe/Paris") - pd.tseries.frequencies.to_offset(freq) * 59
    stamps = pd.date_range(begin, periods=62, freq=freq)
    frame = a_frame(ids=("a",)).assign(timestamp=stamps[:60])
    out = forecaster.predict_df(frame, prediction_length=2, num_samples=5)
    assert out["timestamp"].tolist() == list(stamps[60:])
    assert str(out["timestamp"].dt.tz) == "Europe/Paris"


def test_ids_keep_their_type_and_their_noise(forecaster: Forecaster) -> None:
    out = forecaster.predict_df(a_frame(ids=(7, 3)), prediction_length=2, num_samples=5)
    assert out["item_id"].tolist() == [7, 7, 3, 3]
    assert out["item_id"].dtype == np.int64
    other = forecaster.predict_df(a_frame(ids=(8, 3)), prediction_length=2, num_samples=5)
    assert np.isclose(out["predictions"], other["predictions"], rtol=1e-5).tolist() == [False, False, True, True]


def test_an_item_of_one_row_takes_the_step_of_the_others(forecaster: Forecaster) -> None:
    frame = a_frame(freq="MS")
    with pytest.warns(UserWarning, match="item 'a': one value was observed"):
        out = forecaster.predict_df(frame.iloc[: 60 + 1], prediction_length=2, num_samples=5)
    assert out["timestamp"].tolist()[2:] == [pd.Timestamp("2024-02-01"), pd.Timestamp("2024-03-01")]


def test_a_back_test_is_a_forecast_of_the_past(forecaster: Forecaster) -> None:
    frame = a_frame()
    frame.loc[10, "news"], frame.loc[50, "news"], frame.loc[56, "news"] = "Rain.", "A strike begins.", "It ends."
    options: dict[str, Any] = {"prediction_length": 4, "num_samples": 5, "text_column": "news"}
    tested = forecaster.cross_validation_df(frame, n_windows=3, step_size=2, **options)
    assert list(tested.columns[:4]) == ["item_id", "timestamp", "cutoff", "target"]
    assert len(tested) == 2 * 3 * 4
    for day in ("2024-02-21", "2024-02-23", "2024-02-25"):
        cutoff = pd.Timestamp(day)
        window = tested[tested["cutoff"] == cutoff]
        alone = forecaster.predict_df(frame[frame["timestamp"] <= cutoff], **options)
        assert window["timestamp"].tolist() == alone["timestamp"].tolist()
        np.testing.assert_allclose(window["0.9"], alone["0.9"], rtol=1e-5)
        truth = frame.merge(window[["item_id", "timestamp"]], on=["item_id", "timestamp"])
        assert sorted(window["target"]) == sorted(truth["target"])


def test_an_item_too_short_for_the_windows_is_named(forecaster: Forecaster) -> None:
    with pytest.raises(UsageError, match="Item 'b' has 60 points"):
        forecaster.cross_validation_df(a_frame(), prediction_length=20, n_windows=3)


def broken(change: str) -> pd.DataFrame:
    frame = a_frame()
    if change == "empty":
        return frame.iloc[:0]
    if change == "doubled":
        frame.loc[63, "timestamp"] = frame.loc[62, "timestamp"]
    elif change == "no stamp":
        frame.loc[61, "timestamp"] = pd.NaT
    elif change == "irregular":
        frame["timestamp"] += pd.to_timedelta(np.random.default_rng(0).uniform(size=120), unit="D").round("s")
    elif change == "infinite":
        frame.loc[62, "target"] = np.inf
    elif change == "words":
        frame["target"] = "many"
    elif change == "two zones":
        zones = ["2024-01-01 00:00+01:00", "2024-01-02 00:00+02:00"]
        frame = frame.astype({"timestamp": object}).assign(timestamp=zones * 60)
    elif change == "no dates":
        frame["timestamp"] = "soon"
    return frame


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("empty", "no rows"),
        ("doubled", r"Item 'a' has the time stamp 2024-01-03T00:00:00 twice, in rows 62 and 63"),
        ("no stamp", r"Row 61 \(item 'a'\) has no time stamp"),
        ("irregular", r"Item 'b' has irregular time stamps.*freq="),
        ("infinite", "infinite at place 2"),
        ("words", "no number"),
        ("two zones", "one time zone"),
        ("no dates", "time stamps"),
    ],
)
def test_what_is_wrong_is_said(forecaster: Forecaster, change: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        forecaster.predict_df(broken(change), prediction_length=2, num_samples=5)


def test_a_wrong_column_gets_the_nearest_name(forecaster: Forecaster) -> None:
    with pytest.raises(UsageError, match=r"no column 'new'.*Did you mean 'news'"):
        forecaster.predict_df(a_frame(), prediction_length=2, text_column="new")


def test_samples_are_those_of_the_series(forecaster: Forecaster) -> None:
    frame = a_frame(ids=("a",))
    out = forecaster.predict_df(frame, prediction_length=4, num_samples=9, seed=3)
    samples = forecaster.predict([frame["target"]], 4, items=["a"], num_samples=9, seed=3).samples
    torch.testing.assert_close(torch.tensor(out["predictions"].to_numpy()), samples.median(1).values[0])
