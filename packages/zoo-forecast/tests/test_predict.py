"""`zoo predict`: a table in, a table of quantiles and a picture out."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
from PIL import Image as pil
from pyarrow import csv, parquet
from tiny_aurora import TINY, tiny_aurora

import zoo_core
from zoo_core.errors import InputError, UsageError
from zoo_core.weights.build import CONFIG
from zoo_core.weights.files import write_tensors
from zoo_forecast.drawing import HEIGHT, WIDTH
from zoo_forecast.result import ForecastResult


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_tensors(path, tiny_aurora().state_dict(), {CONFIG: json.dumps(TINY)})
    return path


def a_table(*, ids: tuple[str, ...] = ("shop", "web"), rows: int = 48, news: bool = False) -> arrow.Table:
    months = np.arange("2020-01", "2024-01", dtype="datetime64[M]")[:rows].astype("datetime64[us]")
    columns: dict[str, Any] = {
        "item_id": [name for name in ids for _ in range(rows)],
        "timestamp": np.tile(months, len(ids)),
        "target": np.concatenate([np.sin(np.arange(rows) / 2) + place for place in range(len(ids))]),
    }
    if news:
        columns["news"] = [f"news of {n}" if n % 7 == 0 else None for _ in ids for n in range(rows)]
    return arrow.table(columns)


def predicted(table: arrow.Table, folder: Path, weights: Path, **options: Any) -> ForecastResult:
    path = folder / "sales.csv"
    csv.write_csv(table, path)
    result = zoo_core.load("aurora-base", weights=weights, device="cpu", samples=9, **options).predict(path)
    assert isinstance(result, ForecastResult)
    return result


def test_quantiles_and_picture_are_written(tmp_path: Path, weights: Path) -> None:
    result = predicted(a_table(), tmp_path, weights, horizon=6, quantiles="0.9,0.1")
    written, picture = result.save(tmp_path / "out.csv")
    rows = csv.read_csv(written).to_pydict()
    assert list(rows) == ["item_id", "timestamp", "target_name", "predictions", "0.1", "0.9"]
    assert rows["item_id"] == ["shop"] * 6 + ["web"] * 6
    assert rows["timestamp"][:2] == [datetime(2024, 1, 1), datetime(2024, 2, 1)]
    assert "2024-01-01 00:00:00," in written.read_text()
    assert all(low < high for low, high in zip(rows["0.1"], rows["0.9"], strict=True))
    with pil.open(picture) as drawn:
        assert drawn.size == (WIDTH, 2 * HEIGHT)
        assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 10
    facts = json.loads(json.dumps(result.as_dict()))
    assert (facts["series"], facts["with_text"], facts["notes"]) == (2, 0, [])


def test_parquet_gives_what_csv_gives(tmp_path: Path, weights: Path) -> None:
    table = a_table()
    from_csv = predicted(table, tmp_path, weights, horizon=6, format="parquet")
    parquet.write_table(table, tmp_path / "sales.parquet")
    model = zoo_core.load("aurora-base", weights=weights, device="cpu", samples=9, horizon=6)
    assert model.predict(tmp_path / "sales.parquet").table() == from_csv.table()
    path, _ = from_csv.save(tmp_path / "out.parquet")
    assert parquet.read_table(path).column("predictions") == from_csv.table().column("predictions")


def test_a_text_file_is_read_beside_every_series(tmp_path: Path, weights: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("A promotion starts in January.")
    plain = predicted(a_table(), tmp_path, weights, horizon=6)
    told = predicted(a_table(), tmp_path, weights, horizon=6, text_file=notes)
    assert told.texts == ("A promotion starts in January.",) * 2
    assert (abs(told.forecast.samples - plain.forecast.samples).amax((1, 2)) > 1e-3).all()
    notes.write_text(" \n")
    blank = predicted(a_table(), tmp_path, weights, horizon=6, text_file=notes)
    assert (blank.forecast.samples == plain.forecast.samples).all()


def test_of_a_column_of_texts_the_newest_is_read(tmp_path: Path, weights: Path) -> None:
    result = predicted(a_table(news=True), tmp_path, weights, horizon=6, text_column="news")
    assert result.texts == ("news of 42",) * 2


def test_a_table_without_names_is_one_series(tmp_path: Path, weights: Path) -> None:
    table = a_table(ids=("only",)).drop_columns(["item_id"])
    result = predicted(table, tmp_path, weights, horizon=3)
    assert [item.name for item in result.items] == ["sales"]
    assert result.table().column("item_id").to_pylist() == ["sales"] * 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ("item_id,timestamp,target\n", "no rows"),
        ("item_id,timestamp,target\na,soon,1\n", "no time stamps"),
        ("item_id,timestamp,target\na,2024-01-01,1\na,2024-01-02,many\n", "no number"),
        ("item_id,timestamp,value\na,2024-01-01,1\n", "no column 'target'"),
        ("item_id,timestamp,target\na,2024-01-01,1,2\n", "no table"),
        ("item_id,timestamp,target\na,2024-01-01,1\n", "one time stamp"),
    ],
)
def test_bad_tables_are_one_sentence_with_the_name(tmp_path: Path, weights: Path, content: str, said: str) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        zoo_core.load("aurora-base", weights=weights, device="cpu").predict(path)
    assert "sales.csv" in caught.value.message


@pytest.mark.parametrize(
    "wrong",
    [{"quantiles": "0.5,1"}, {"quantiles": "ten"}, {"horizon": 0}, {"freq": "fortnight"}, {"suffix": "a/b"},
     {"text_file": "not-there.txt"}, {"text_file": "a.txt", "text_column": "news"}],
)  # fmt: skip
def test_wrong_options_are_refused_before_weights_are_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        zoo_core.load("aurora-base", weights="no-such.safetensors", device="cpu", **wrong)
