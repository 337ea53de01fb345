"""What users give to a forecaster, a sentence a test: it is forecast rightly, or refused with file and remedy."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from asking import ROWS, a_frame, forecast, predict, with_prices

import zoo_core
from zoo_core.errors import InputError, UsageError
from zoo_forecast.forecaster import Forecaster

# -- stamps ------------------------------------------------------------------------------------------------------------


def test_an_empty_frame_is_refused(forecaster: Forecaster) -> None:
    with pytest.raises(InputError, match="no rows"):
        forecast(forecaster, a_frame().iloc[:0])


@pytest.mark.parametrize(
    ("column", "near"), [("traget", "target"), ("Item_id", "item_id"), ("time_stamp", "timestamp")]
)
def test_a_wrong_column_is_named_with_the_nearest_one(forecaster: Forecaster, column: str, near: str) -> None:
    frame = a_frame().rename(columns={near: column})
    with pytest.raises(UsageError, match=rf"no column '{near}'.*Did you mean '{column}'"):
        forecast(forecaster, frame)


def test_a_doubled_stamp_names_item_and_rows(forecaster: Forecaster) -> None:
    frame = a_frame(ids=("a", "b"))
    frame.loc[70, "timestamp"] = frame.loc[65, "timestamp"]
    with pytest.raises(InputError, match="Item 'b' has the time stamp 2024-01-06T00:00:00 twice, in rows 65 and 70"):
        forecast(forecaster, frame)


def test_unsorted_rows_are_sorted_and_that_is_said(forecaster: Forecaster) -> None:
    with pytest.warns(UserWarning, match="not in the order of time: they were sorted"):
        out = forecast(forecaster, a_frame().iloc[::-1])
    pd.testing.assert_frame_equal(out, forecast(forecaster, a_frame()))


def test_mixed_time_zones_are_refused(forecaster: Forecaster) -> None:
    frame = a_frame(rows=2).assign(timestamp=["2024-01-01T00:00+01:00", "2024-01-02T00:00+02:00"])
    with pytest.raises(InputError, match="one time zone"):
        forecast(forecaster, frame)


def test_mixed_time_zones_are_refused_in_files_too(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "mixed.csv"
    path.write_text("item_id,timestamp,target\na,2024-01-01T00:00+01:00,1\na,2024-01-02T00:00+02:00,2\n")
    with pytest.raises(InputError, match=r"mixed.csv: the column 'timestamp' holds no time stamps of one time zone"):
        zoo_core.load("aurora-base", weights=weights, device="cpu").predict(path)


def test_a_parquet_file_that_is_nearly_all_repetition_is_refused_by_its_cells(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_frame().to_parquet(tmp_path / "bomb.parquet")
    monkeypatch.setattr("zoo_forecast.tables.MAX_CELLS", 179)  # it has 180
    with pytest.raises(InputError, match=r"bomb.parquet has over 179 cells"):
        zoo_core.load("aurora-base", weights=weights, device="cpu").predict(tmp_path / "bomb.parquet")


def test_irregular_stamps_are_refused_unless_a_frequency_is_given(forecaster: Forecaster) -> None:
    frame = a_frame(freq="h")
    late = pd.to_timedelta(np.random.default_rng(0).integers(-1000, 1000, ROWS), unit="s")
    frame["timestamp"] += late
    with pytest.raises(InputError, match=r"Item 'a' has irregular time stamps.*freq="):
        forecast(forecaster, frame)
    with pytest.warns(UserWarning, match="each was moved to the nearest one"):
        out = forecast(forecaster, frame, freq="h")
    pd.testing.assert_frame_equal(out, forecast(forecaster, a_frame(freq="h")))


def test_two_stamps_of_one_step_are_refused(forecaster: Forecaster) -> None:
    frame = a_frame(freq="20min")
    with pytest.raises(InputError, match=r"between the steps of its frequency.*Resample"):
        forecast(forecaster, frame, freq="h")


def test_gaps_become_missing_values_with_a_frequency(forecaster: Forecaster) -> None:
    frame = a_frame().iloc[[0, 1, 5, 9, 20, 33, 34, 50, 59]]
    with pytest.warns(UserWarning, match="51 time stamps are missing"):
        out = forecast(forecaster, frame, freq="D")
    assert out["timestamp"].iloc[0] == pd.Timestamp("2024-03-01")


def test_one_wrong_year_does_not_fill_the_memory(forecaster: Forecaster) -> None:
    frame = a_frame(freq="min")
    frame.loc[0, "timestamp"] = pd.Timestamp("1924-01-01")
    with pytest.raises(InputError, match=r"would have \d+ points, of which 60 are there"):
        forecast(forecaster, frame)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_short_future_frame_has_the_frequency_of_the_context(forecaster: Forecaster, rows: int) -> None:
    """amazon-science/chronos-forecasting issue 403: nothing is inferred from one or two rows."""
    frame = a_frame(freq="MS").assign(price=1.0)
    future = a_frame(freq="MS", rows=rows, start="2029-01-01").assign(price=2.0).drop(columns="target")
    with pytest.warns(UserWarning, match="covariates"):  # that never moved
        out = forecast(forecaster, frame, future, prediction_length=rows, covariates=["price"])
    assert out["timestamp"].tolist() == future["timestamp"].tolist()


def test_time_zones_are_kept_in_files(tmp_path: Path, weights: Path) -> None:
    frame = a_frame(freq="h").assign(timestamp=pd.date_range("2024-03-29", periods=ROWS, freq="h", tz="Europe/Paris"))
    frame.to_parquet(tmp_path / "paris.parquet")
    model = zoo_core.load("aurora-base", weights=weights, device="cpu", samples=3, horizon=2, format="parquet")
    model.predict(tmp_path / "paris.parquet").save(tmp_path / "out.parquet")
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert (
        out["timestamp"].tolist() == list(pd.date_range("2024-03-31 12:00", periods=3, freq="h", tz="Europe/Paris"))[1:]
    )
    frame.assign(timestamp=[f"2024-01-{1 + n // 24:02d}T{n % 24:02d}:00+05:30" for n in range(ROWS)]).to_csv(
        tmp_path / "india.csv", index=False
    )
    path, _ = zoo_core.load("aurora-base", weights=weights, device="cpu", samples=3, horizon=1).predict(
        tmp_path / "india.csv"
    ).save(tmp_path / "india_out.csv")  # fmt: skip
    assert pd.read_csv(path)["timestamp"].tolist() == ["2024-01-03 12:00:00+0530"]


# -- values ------------------------------------------------------------------------------------------------------------


def test_all_nan_is_a_nan_forecast_and_said(forecaster: Forecaster) -> None:
    """amazon-science/chronos-forecasting issue 544: never absurd numbers."""
    frame = a_frame(ids=("a", "b"))
    frame.loc[frame["item_id"] == "a", "target"] = np.nan
    with pytest.warns(UserWarning, match="item 'a': nothing was observed: the forecast is NaN"):
        out = forecast(forecaster, frame)
    assert out[out["item_id"] == "a"].drop(columns=["item_id", "timestamp", "target_name"]).isna().all(axis=None)
    assert out[out["item_id"] == "b"].notna().all(axis=None)


def test_a_constant_series_is_its_value_exactly(forecaster: Forecaster) -> None:
    out = forecast(forecaster, a_frame().assign(target=1234567.1))
    assert (out.drop(columns=["item_id", "timestamp", "target_name"]) == 1234567.1).all(axis=None)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_is_an_error_that_says_where(forecaster: Forecaster, value: float) -> None:
    frame = a_frame()
    frame.loc[7, "target"] = value
    with pytest.raises(InputError, match=r"infinite at place 7.*NaN, which is a gap"):
        forecast(forecaster, frame)


def test_a_series_of_one_point_and_one_of_a_million(forecaster: Forecaster) -> None:
    frame = pd.concat([a_frame(rows=1), a_frame(ids=("b",), freq="min", rows=1_000_000)], ignore_index=True)
    with pytest.warns(UserWarning, match="item 'a': one value was observed"):
        out = forecast(forecaster, frame)
    assert np.isfinite(out["predictions"]).all()
    assert (out["0.1"] < out["0.9"]).all()


@pytest.mark.parametrize("scale", [1e12, 1e-12])
def test_magnitudes_are_scaled_in_float64(forecaster: Forecaster, scale: float) -> None:
    plain = forecast(forecaster, a_frame())
    frame = a_frame()
    large = forecast(forecaster, frame.assign(target=frame["target"] * scale))
    np.testing.assert_allclose(large["predictions"] / scale, plain["predictions"], rtol=0, atol=1e-5)


def test_counts_stay_counts_when_asked(forecaster: Forecaster) -> None:
    demand = np.random.default_rng(0).poisson(0.3, ROWS)  # mostly zeros
    out = forecast(forecaster, a_frame().assign(target=demand), lowest=0, whole=True, num_samples=50)
    numbers = out.drop(columns=["item_id", "timestamp", "target_name"])
    assert ((numbers >= 0) & (numbers == numbers.round())).all(axis=None)


def test_a_batch_is_finite_beside_a_series_that_is_not_observed(forecaster: Forecaster) -> None:
    samples = forecaster.predict([np.full(9, np.nan), np.sin(np.arange(50))], 5).samples
    assert torch.isfinite(samples[1]).all()


# -- horizons, levels, numbers -----------------------------------------------------------------------------------------


def test_a_horizon_of_0_is_refused(forecaster: Forecaster) -> None:
    with pytest.raises(UsageError, match="prediction_length is 0"):
        forecast(forecaster, a_frame(), prediction_length=0)


def test_a_horizon_beyond_the_context_is_made_in_parts(forecaster: Forecaster) -> None:
    """Of tokens of 16 points, 64 at a time: a longer horizon begins as the shorter one does."""
    long = forecast(forecaster, a_frame(), prediction_length=70 * 16)
    short = forecast(forecaster, a_frame(), prediction_length=64 * 16)
    assert np.isfinite(long["predictions"]).all()
    np.testing.assert_allclose(long["predictions"][: 64 * 16], short["predictions"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [[0.5, 1.0], [0], [-0.1], [50], []])
def test_levels_outside_0_and_1_are_refused_before_anything_is_computed(
    forecaster: Forecaster, levels: list[float]
) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        forecast(forecaster, a_frame().iloc[:0], quantile_levels=levels)


def test_any_level_is_possible(forecaster: Forecaster) -> None:
    out = forecast(forecaster, a_frame(), quantile_levels=[0.001, 0.123456, 0.999])
    assert list(out.columns[4:]) == ["0.001", "0.123456", "0.999"]


# -- texts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, "", " \n\t", "\u200b"])
def test_no_text_empty_text_and_blanks_are_the_same(forecaster: Forecaster, text: str | None) -> None:
    plain = forecast(forecaster, a_frame())
    column = forecast(forecaster, a_frame().assign(news=text).astype({"news": object}), text_column="news")
    pd.testing.assert_frame_equal(column, plain)


def test_of_a_long_text_the_newest_part_is_read_and_that_is_said(forecaster: Forecaster) -> None:
    end = "sales fell " * 255
    plain = forecast(forecaster, a_frame(), text=end)
    with pytest.warns(UserWarning, match="item 'a': the text is too long: 510 word pieces were read, 400 left out"):
        out = forecast(forecaster, a_frame(), text="rain " * 400 + end)
    pd.testing.assert_frame_equal(out, plain)


def test_a_text_after_the_origin_is_refused_unless_it_is_allowed(forecaster: Forecaster) -> None:
    frame = a_frame().assign(news=None).astype({"news": object})
    frame.loc[57:, "target"] = np.nan
    frame.loc[58, "news"] = "The strike has begun."
    with pytest.raises(InputError, match=r"'a' has a text of 2024-02-28T00:00:00, but its values end at 2024-02-26"):
        forecast(forecaster, frame, text_column="news")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # values that are missing
        told = forecast(forecaster, frame, text_column="news", allow_future_text=True)
        plain = forecast(forecaster, frame)
    assert (told["predictions"] != plain["predictions"]).any()


def test_a_text_of_the_table_of_the_future_is_refused_unless_it_is_allowed(forecaster: Forecaster) -> None:
    frame, future = (each[each["item_id"] == "a"] for each in with_prices())
    frame, future = frame.assign(news=""), future.assign(news=["", None, "Prices fell.", None])
    options = {"text_column": "news", "covariates": ["price"]}
    with pytest.raises(InputError, match=r"text of item 'a' at 2024-03-03.*allow_future_text"):
        forecast(forecaster, frame, future, **options)
    told = forecast(forecaster, frame, future, allow_future_text=True, **options)
    plain = forecast(forecaster, frame, future.drop(columns="news"), **options)
    assert (told["predictions"] != plain["predictions"]).any()


def test_one_text_for_many_series_is_said_so(forecaster: Forecaster) -> None:
    with pytest.raises(UsageError, match=r"`texts` must be a list.*\[text\] \* len"):
        forecaster.predict([np.arange(9), np.arange(9)], 3, texts="Rain.")  # type: ignore[arg-type]
    frame = a_frame(ids=("a", "b"))
    out = forecast(forecaster, frame, text="Rain.")
    each = forecast(forecaster, frame.assign(news="Rain."), text_column="news")
    pd.testing.assert_frame_equal(out, each)
    with pytest.raises(UsageError, match="Give one of them"):
        forecast(forecaster, frame.assign(news="Rain."), text="Rain.", text_column="news")


# -- covariates --------------------------------------------------------------------------------------------------------


def test_covariates_are_only_read_when_named(forecaster: Forecaster) -> None:
    frame, future = with_prices()
    pd.testing.assert_frame_equal(forecast(forecaster, frame), forecast(forecaster, frame.drop(columns="price")))
    with pytest.raises(UsageError, match=r"no covariates were named.*covariates=\['price'\]"):
        forecast(forecaster, frame, future)
    with pytest.raises(UsageError, match=r"price are not known over the horizon.*future_df with the 4 rows"):
        forecast(forecaster, frame, covariates=["price"])
    with pytest.raises(UsageError, match=r"list of columns.*\['price'\]"):
        forecast(forecaster, frame, future, covariates="price")


def test_names_of_nixtla_come_back_everywhere(forecaster: Forecaster, tmp_path: Path, weights: Path) -> None:
    names = {"item_id": "unique_id", "timestamp": "ds", "target": "y"}
    frame, future = with_prices()
    plain = forecast(forecaster, frame, future, covariates=["price"])
    frame, future = frame.rename(columns=names), future.rename(columns=names)
    out = forecast(forecaster, frame, future, covariates=["price"])
    pd.testing.assert_frame_equal(out, plain.rename(columns=names).assign(target_name="y"))
    tested = forecaster.cross_validation_df(frame, prediction_length=4, num_samples=3)
    assert list(tested.columns[:5]) == ["unique_id", "ds", "cutoff", "y", "target_name"]
    frame.to_csv(tmp_path / "sales.csv", index=False)
    future.to_csv(tmp_path / "prices.csv", index=False)
    done = predict(weights, tmp_path / "sales.csv", "--covariates", "price", "--future-file", tmp_path / "prices.csv",
                   "-o", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert list(pd.read_csv(tmp_path / "out/sales_forecast.csv").columns[:3]) == ["unique_id", "ds", "target_name"]


def test_rows_of_the_future_may_come_in_any_order_and_be_too_many(forecaster: Forecaster) -> None:
    frame, future = with_prices()
    plain = forecast(forecaster, frame, future, covariates=["price"])
    more = pd.concat([future, a_frame(ids=("a", "c"), rows=9, start="2030-01-01").assign(price=9.0)])
    pd.testing.assert_frame_equal(forecast(forecaster, frame, more.iloc[::-1], covariates=["price"]), plain)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("a row is missing", r"no row of item 'b' at 2024-03-02.*4 rows of each item, from 2024-03-01"),
        ("an item is missing", r"no item 'b'"),
        ("a row is doubled", r"Item 'a' has the time stamp 2024-03-01T00:00:00 twice"),
        ("a word", r"Item 'a': the column 'price' holds something that is no number"),
        ("infinite", r"Covariate 0 of series 0 is infinite at place 61"),
        ("a zone", r"time zone UTC, the frame of None"),
        ("a stamp is missing", r"Row 2 of the table of the future \(item 'a'\) has no time stamp"),
    ],
)
def test_what_is_wrong_with_the_future_is_said(forecaster: Forecaster, change: str, said: str) -> None:
    frame, future = with_prices()
    future = future.reset_index(drop=True).astype({"price": object})
    if change == "a row is missing":
        future = future.drop(5)
    elif change == "an item is missing":
        future = future[future["item_id"] == "a"]
    elif change == "a row is doubled":
        future = pd.concat([future, future.iloc[:1]])
    elif change == "a word":
        future.loc[1, "price"] = "dear"
    elif change == "infinite":
        future.loc[1, "price"] = np.inf
    elif change == "a stamp is missing":
        future.loc[2, "timestamp"] = pd.NaT
    else:
        future["timestamp"] = future["timestamp"].dt.tz_localize("UTC")
    with pytest.raises(InputError, match=said):
        forecast(forecaster, frame, future, covariates=["price"])


def test_a_wrong_column_of_the_future_gets_the_nearest_name(forecaster: Forecaster) -> None:
    frame, future = with_prices()
    with pytest.raises(UsageError, match=r"table of the future has no column 'price'.*Did you mean 'prices'"):
        forecast(forecaster, frame, future.rename(columns={"price": "prices"}), covariates=["price"])
