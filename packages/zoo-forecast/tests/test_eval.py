"""Measuring a forecaster: on the right points, with what was known, and said as it was done."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from tiny_aurora import TINY, tiny_aurora

from zoo_core.catalog import find
from zoo_core.errors import InputError, UsageError
from zoo_core.evaluate import Difference, Report
from zoo_forecast.eval import evaluate
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring.data import read_pack
from zoo_forecast.measuring.options import ForecastEvaluateOptions
from zoo_forecast.measuring.packs import evaluate_pack
from zoo_forecast.measuring.windows import batches, resampled_together, told, windows

START = datetime(2024, 1, 1)


def pack(path: Path, series: dict[str, list[float | None]], hours: int = 1, **columns: Any) -> Path:
    rows = [
        (name, START + timedelta(hours=hours * n), value)
        for name, values in series.items()
        for n, value in enumerate(values)
    ]
    names, stamps, values = zip(*rows, strict=True)
    table = pa.table({"item_id": names, "timestamp": pa.array(stamps, pa.timestamp("ms")), "target": values, **columns})
    pq.write_table(table, path)
    return path


def walk(count: int, seed: int = 0) -> list[float | None]:
    return (np.random.default_rng(seed).normal(size=count).cumsum() + 20).tolist()


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(tiny_aurora())


def options(**settings: Any) -> ForecastEvaluateOptions:
    return ForecastEvaluateOptions(**{"context": 48, "horizon": 4, "stride": 4, "samples": 10, **settings})


def test_the_last_fifth_is_tested_in_whole_windows(tmp_path: Path) -> None:
    series = read_pack(pack(tmp_path / "p.parquet", {"a": walk(100), "b": walk(30)}))
    found, empty = windows(series, context=48, horizon=4, stride=4)
    assert [(series[w.series].name, w.origin) for w in found] == [("a", 80 + 4 * n) for n in range(5)] + [("b", 24)]
    assert empty == 0


def test_is_test_says_what_is_tested(tmp_path: Path) -> None:
    marks = [n >= 90 for n in range(100)]
    series = read_pack(pack(tmp_path / "p.parquet", {"a": walk(100)}, is_test=marks))
    assert [w.origin for w in windows(series, context=48, horizon=5, stride=5)[0]] == [90, 95]


def test_seasons_follow_the_frequency(tmp_path: Path) -> None:
    def season(hours: int, **columns: Any) -> int:
        return read_pack(pack(tmp_path / "p.parquet", {"a": walk(40)}, hours, **columns))[0].season

    assert [season(1), season(24), season(168)] == [24, 7, 52]
    assert season(1, freq=["15min"] * 40) == 96  # what the column says, whatever the stamps look like
    with pytest.raises(UsageError, match="no frequency"):
        season(1, freq=["often"] * 40)


def test_of_doubled_stamps_the_last_is_kept_and_gaps_are_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    hours = [0, 1, 3, 2, 2, 6]
    stamps = pa.array([START + timedelta(hours=h) for h in hours], pa.timestamp("ms"))
    pq.write_table(
        pa.table({"item_id": ["a"] * 6, "timestamp": stamps, "target": [0.0, 1.0, 3.0, 2.0, 2.5, 6.0]}), path
    )
    (one,) = read_pack(path)
    assert one.values[[0, 1, 2, 3, 6]].tolist() == [0, 1, 2.5, 3, 6]
    assert np.isnan(one.values[[4, 5]]).all()
    assert sorted(one.notes.values()) == [1, 1, 2]
    (as_filed,) = read_pack(path, rows="file")
    assert as_filed.values.tolist() == [0, 1, 3, 2, 2.5, 6]


def test_only_named_columns_are_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "p.parquet", {"a": walk(20)}, price=list(range(20)), ref_model=["no number"] * 20)
    assert read_pack(path)[0].covariates.shape == (0, 20)
    assert read_pack(path, covariates=["price"])[0].covariates[0].tolist() == list(range(20))
    with pytest.raises(InputError, match="ref_model"):
        read_pack(path, covariates=["ref_model"])
    with pytest.raises(UsageError, match="price"):
        read_pack(path, covariates=["pric"])


def test_texts_are_those_known_at_the_origin(tmp_path: Path) -> None:
    texts = [None, "early", None, " ", "late", "later"]
    (one,) = read_pack(pack(tmp_path / "p.parquet", {"a": walk(6)}, text=texts))
    assert [one.text(origin) for origin in range(7)] == [None, None, "early", "early", "early", "late", "later"]
    assert read_pack(pack(tmp_path / "p.parquet", {"a": walk(6)}, text=[" "] * 6))[0].texts == ()


def test_nothing_from_the_origin_on_is_known(tmp_path: Path) -> None:
    """Only columns that are named as known ahead reach beyond it."""
    values, later = walk(60), 52
    told: list[str | None] = [f"text {n}" for n in range(60)]
    other = [*values[:later], *(999.0 for _ in range(60 - later))]
    known = []
    for given, texts in ((values, told), (other, [*told[:later], *["later"] * (60 - later)])):
        path = pack(tmp_path / "p.parquet", {"a": given}, text=texts, price=list(range(60)))
        series = read_pack(path, covariates=["price"])
        chosen = [w for w in windows(series, context=20, horizon=4, stride=4)[0] if w.origin <= later]
        ((_, batch),) = batches(series, chosen, context=20, horizon=4, size=99, seed=0)
        known.append((np.array(batch.contexts).tolist(), batch.texts, batch.seasons))
        assert [row[0, -1] for row in batch.covariates] == [w.origin + 3 for w in chosen]
        assert batch.texts == [f"text {w.origin - 1}" for w in chosen]
    assert known[0] == known[1]


def test_windows_of_many_series_are_drawn_by_series_of_few_by_blocks(tmp_path: Path) -> None:
    many = read_pack(pack(tmp_path / "m.parquet", {str(n): walk(60, n) for n in range(12)}))
    labels, said = resampled_together(windows(many, context=9, horizon=2, stride=2)[0], horizon=2)
    assert (len(set(labels)), said) == (12, "12 series")
    few = read_pack(pack(tmp_path / "f.parquet", {"a": walk(400)}))
    labels, said = resampled_together(windows(few, context=9, horizon=4, stride=4)[0], horizon=4)
    assert labels == [f"0/{n}" for n in range(20)]
    assert said == "20 blocks of windows, 4 points long"


def test_a_report_has_what_was_asked_for(tmp_path: Path, forecaster: Forecaster) -> None:
    values = walk(100)
    values[83] = None
    report = evaluate_pack(forecaster, pack(tmp_path / "p.parquet", {"a": values, "b": walk(60, 1)}), options())
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert {"mse", "mae", "mase", "crps", "coverage80"} <= set(data["metrics"])
    for name in ("last_value", "seasonal_naive"):
        assert set(data["naive"][name]) == set(data["metrics"])
    assert (data["windows"], data["series"], data["n"]) == (8, 2, 8)
    assert data["text"]["used"] is False
    assert data["data"]["points not scored, nothing observed"] == 1
    assert len(data["calibration"]["pit"]) == 10
    # the figures of a rule that a reader can follow by hand
    errors = []
    for series, first in ((values, 80), (walk(60, 1), 48)):
        for origin in range(first, len(series) - 3, 4):
            came = [v for v in series[origin : origin + 4] if v is not None]
            last = next(v for v in reversed(series[:origin]) if v is not None)
            errors.append(np.mean([abs(v - last) for v in came]))
    assert data["naive"]["last_value"]["mae"] == pytest.approx(np.mean(errors))
    assert report.others[0].metrics["mae"] == pytest.approx(np.mean(errors))
    assert set(data["series_below"]["last_value"]) == {"mase", "crps"}
    assert data["per_series"]["last_value"]["mae"] == pytest.approx((np.mean(errors[:5]) + np.mean(errors[5:])) / 2)


def test_constant_contexts_are_counted_not_scored_by_mase(tmp_path: Path, forecaster: Forecaster) -> None:
    flat: list[float | None] = [3.0] * 60
    report = evaluate_pack(forecaster, pack(tmp_path / "p.parquet", {"flat": flat, "a": walk(60)}), options())
    assert report.more["data"]["windows not scored by mase"] == 3
    assert math.isfinite(report.metrics["mase"])
    alone = evaluate_pack(forecaster, pack(tmp_path / "p.parquet", {"flat": flat}), options())
    assert alone.as_dict()["metrics"]["mase"] is None
    assert alone.metrics["mse"] == 0


def test_three_runs_of_texts_are_compared(tmp_path: Path, forecaster: Forecaster) -> None:
    texts = [f"sales rose by {n} units" for n in range(200)]
    path = pack(tmp_path / "p.parquet", {"a": walk(200)}, text=texts)
    report = evaluate_pack(forecaster, path, options(texts="all", horizon=2, stride=2))
    text = report.more["text"]
    assert text["windows_with_text"] == report.n == 20
    assert 0 < text["true_minus_none"]["crps"]["p"] <= 1
    assert 0 < text["true_minus_shuffled"]["crps"]["p"] <= 1
    assert isinstance(text["helps"], bool)
    assert [table.title for table in report.tables][1:] == [
        "true texts against none and against those of other origins"
    ]
    ways = {way.name: way for way in (report.ours, *report.others)}
    ratio = report.metrics["crps"] / ways["ours, no text"].metrics["crps"]
    assert text["true_over_none"]["crps"] == pytest.approx(ratio)
    none = evaluate_pack(forecaster, path, options(texts="none", horizon=2, stride=2))
    assert none.more["text"]["used"] is False
    assert none.metrics == ways["ours, no text"].metrics != report.metrics
    true = evaluate_pack(forecaster, path, options(texts="true", horizon=2, stride=2))
    assert true.metrics == report.metrics


def test_few_blocks_are_never_sure(tmp_path: Path, forecaster: Forecaster) -> None:
    path = pack(tmp_path / "p.parquet", {"a": walk(60)}, text=["news"] * 60)
    report = evaluate_pack(forecaster, path, options(texts="all"))
    assert report.more["resampled"].startswith("3 blocks")
    found = report.as_dict()["text"]["true_minus_none"]["mae"]
    assert (found["low"], found["p"] >= 0.25) == (None, True)
    assert told(Difference(-1.0, -2.0, -0.5, 9, 0.0002), ["a", "b", "c"])["p"] == 0.25
    assert told(Difference(-1.0, -2.0, -0.5, 9, 0.0002), [str(n) for n in range(20)])["p"] == 0.0002


def test_windows_can_be_thinned_which_is_said(tmp_path: Path, forecaster: Forecaster) -> None:
    path = pack(tmp_path / "p.parquet", {"a": walk(200)})
    thin = evaluate_pack(forecaster, path, options(every=3))
    assert [name.partition("@")[2] for name in thin.names] == ["160", "172", "184", "196"]
    assert thin.more["data"]["every"] == 3
    first = evaluate_pack(forecaster, path, options(), limit=2)
    assert first.more["data"]["windows left out by --limit"] == 8


def test_what_cannot_be_measured_is_said(tmp_path: Path, forecaster: Forecaster) -> None:
    path = pack(tmp_path / "p.parquet", {"a": walk(50)}, price=list(range(50)))
    with pytest.raises(UsageError, match="no window"):
        evaluate_pack(forecaster, path, options(horizon=11))
    pq.write_table(pa.table({"target": [1.0]}), tmp_path / "q.parquet")
    with pytest.raises(UsageError, match="no column 'item_id'"):
        evaluate_pack(forecaster, tmp_path / "q.parquet", options())
    pq.write_table(pa.table({"item_id": ["a"], "timestamp": [START], "target": [math.inf]}), tmp_path / "q.parquet")
    with pytest.raises(InputError, match="infinite in row 0"):
        evaluate_pack(forecaster, tmp_path / "q.parquet", options())


def test_tables_in_csv_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(
        "item_id,timestamp,target,text\na,2024-01-01,1.5,\na,2024-01-02,,news\na,2024-01-03,2,\n"
    )
    (one,) = read_pack(tmp_path / "p.csv")
    assert one.values[[0, 2]].tolist() == [1.5, 2.0]
    assert (np.isnan(one.values[1]), one.texts, one.season) == (True, (None, "news", None), 7)
    (tmp_path / "p.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="no table that can be read"):
        read_pack(tmp_path / "p.parquet")
    (tmp_path / "q.csv").write_text("item_id,timestamp,target\na,soon,1\n")
    with pytest.raises(InputError, match="no time stamps"):
        read_pack(tmp_path / "q.csv")


def test_a_suite_has_its_own_windows() -> None:
    with pytest.raises(ValueError, match="--suite sets --horizon"):
        ForecastEvaluateOptions(suite="m4", horizon=3)


def test_the_command_measures_weights_by_its_manifest(tmp_path: Path) -> None:
    """Everything from the manifest to the report, with a small network instead of the official size."""
    entry = find("aurora-base")
    small = entry.manifest.model_copy(update={"config": TINY})
    save_file({k: v.contiguous() for k, v in tiny_aurora().state_dict().items()}, tmp_path / "tiny.safetensors")
    path = pack(tmp_path / "p.parquet", {"a": walk(100)})
    report: Report = evaluate(
        replace(entry, manifest=small),
        str(path),
        weights=tmp_path / "tiny.safetensors",
        device="cpu",
        options=options(),
    )
    assert (report.model, report.dataset, report.protocol, report.n) == ("aurora-base", "p", "corrected", 5)
    assert report.as_dict()["seconds"] > 0
    assert report.facts["weights"]["file"] == "tiny.safetensors"


def test_a_short_forecast_is_the_beginning_of_a_long_one(forecaster: Forecaster) -> None:
    """Suites forecast each origin once, for all of their horizons."""
    series = [[float(v or 0) for v in walk(100)]]
    long, short = (forecaster.predict(series, horizon, num_samples=5).samples for horizon in (50, 10))
    assert torch.allclose(long[..., :10], short, rtol=1e-4, atol=1e-4)
