"""Files of whole series: JSON lines as gluonts has them, and .tsf of the Monash archive."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoo_core.errors import InputError
from zoo_core.io.inputs import Source
from zoo_forecast.calendar import Step
from zoo_forecast.options import ForecastOptions
from zoo_forecast.reading import MAX_BYTES, Table, read_input

TSF = """# Dataset Information
# A remark: with, signs @ of all kinds.
@relation tourism
@attribute series_name string
@attribute start_timestamp date
@frequency monthly
@horizon 12
@missing true
@equallength false
@data
T1:1979-01-01 00-00-00:1149.87,1053.8,?,1517
T2:1979-06-30 00-00-00:2,3.5e3
"""


def read(data: str | bytes, **options: Any) -> Table:
    data = data.encode() if isinstance(data, str) else data
    return read_input(Source("data.txt", data=data), ForecastOptions(**options))


def lines(*entries: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, entries)) + "\n"


def test_tsf() -> None:
    one, two = read(TSF).items
    np.testing.assert_array_equal(one.values, [1149.87, 1053.8, np.nan, 1517])
    assert (one.name, one.step) == ("T1", Step("months", 1))
    assert one.stamps.astype("datetime64[D]").astype(str).tolist()[::3] == ["1979-01-01", "1979-04-01"]
    assert two.stamps.astype("datetime64[D]").astype(str).tolist() == ["1979-06-30", "1979-07-31"]
    assert two.future(1).astype("datetime64[D]").astype(str).tolist() == ["1979-08-31"]


@pytest.mark.parametrize(
    ("monash", "freq"),
    [("yearly", "YS"), ("quarterly", "QS"), ("weekly", "W"), ("daily", "D"), ("hourly", "h"), ("half_hourly", "30min"),
     ("10_minutes", "10min"), ("4_seconds", "4s"), ("minutely", "min")],
)  # fmt: skip
def test_every_frequency_of_the_archive(monash: str, freq: str) -> None:
    assert read(TSF.replace("monthly", monash)).items[0].step == Step.named(freq)


def test_a_tsf_without_dates_says_that_they_are_made_up() -> None:
    text = TSF.replace("@attribute start_timestamp date\n", "")
    text = text.replace(":1979-01-01 00-00-00", "").replace(":1979-06-30 00-00-00", "")
    one, _ = read(text).items
    assert one.stamps[0] == np.datetime64("2000-01-01")
    assert "made up" in one.notes[0]


def test_a_tsf_of_another_code_page() -> None:
    assert [item.name for item in read(TSF.replace("T1", "Köln").encode("latin-1")).items] == ["Köln", "T2"]


def test_json_lines() -> None:
    table = read(
        lines(
            {"item_id": "a", "start": "2024-01-01 06:00:00", "target": [1, None, "NaN", 4.5], "news": "Rain."},
            {"start": "2024-01-01", "target": [1, 2], "news": " "},
        ),
        freq="6h", text_column="news",
    )  # fmt: skip
    one, two = table.items
    np.testing.assert_array_equal(one.values, [1, np.nan, np.nan, 4.5])
    assert (one.text, two.text, two.name) == ("Rain.", None, "1")
    assert one.future(1)[0] == np.datetime64("2024-01-02T06:00")


def test_covariates_of_json_lines_reach_into_the_future() -> None:
    entry = {"start": "2024-01-01", "target": [1, 2, 3], "feat_dynamic_real": [[1] * 5, [2] * 5], "freq": "D"}
    table = read(lines(entry), covariates="feat_dynamic_real", horizon=2)
    assert table.covariates is not None
    np.testing.assert_array_equal(table.covariates[0], [[1] * 5, [2] * 5])
    assert read(lines(entry), horizon=2).covariates is None, "only what is named is read"
    with pytest.raises(InputError, match=r"data\.txt.*'0' has covariates for 5 points, but 6"):
        read(lines(entry), covariates="feat_dynamic_real", horizon=2, gap=1)


def test_what_gzip_packed_is_read() -> None:
    assert [item.name for item in read(gzip.compress(TSF.encode())).items] == ["T1", "T2"]


def test_a_bomb_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BYTES == 2**30
    monkeypatch.setattr("zoo_forecast.reading.MAX_BYTES", 10_000)
    with pytest.raises(InputError, match=r"data\.txt unpacks to over 10000 bytes"):
        read(gzip.compress(b"item_id,timestamp,target\n" + b"0" * 20_000))


JSON = {"start": "2024-01-01", "target": [1, 2], "freq": "D"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lines(JSON) + "{", "line 2 is no JSON"),
        (lines(JSON) + "[1]", "line 2 is no object"),
        ('{"a":' * 200_000, "line 1 is no JSON"),
        (lines({"start": "2024-01-01", "targte": [1]}), "no field 'target'.*Did you mean 'targte'"),
        (lines(JSON | {"target": ["many"]}), "no number"),
        (lines(JSON | {"target": [[1, 2]]}), "one row of numbers"),
        (lines(JSON | {"target": []}), "one row of numbers"),
        (lines(JSON | {"start": "soon"}), "'soon' is no time stamp"),
        (lines(JSON | {"start": "2024-01-01T00:00+01:00"}), "time zone"),
        (lines(JSON | {"freq": None}), "the frequency is not said.*--freq"),
        (lines(JSON | {"freq": "fortnight"}), "no frequency 'fortnight'"),
        (lines(JSON | {"item_id": 1}, JSON | {"item_id": "1"}), "'1' is there twice"),
        (lines(JSON | {"item_id": [1]}), "neither a word nor a whole number"),
        (b'{"target": "\xff"}', "no UTF-8"),
        (TSF.replace("1053.8", "many"), "line 11 holds something that is no number"),
        (TSF.replace("T1:", ""), "line 11 has 1 attributes, but 2 are declared"),
        (TSF.replace("1979-06-30", "soon"), "line 12: start 'soon.*no time stamp"),
        (TSF.replace("monthly", "montly"), "no frequency 'montly'.*Did you mean 'monthly'"),
        (TSF.replace("T2", "T1"), "'T1' is there twice"),
        (TSF[: TSF.index("T1")], "no series"),
        (TSF.replace("@horizon 12", "horizon 12"), "line 7 comes before @data"),
        (gzip.compress(TSF.encode(), mtime=0)[:60], "ends too early"),
        (b"\x1f\x8bnothing", "cannot be unpacked"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_with_file_and_line(content: str | bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(content)
    assert "data.txt" in caught.value.message
    assert "\n" not in caught.value.message


def test_no_texts_in_a_tsf() -> None:
    with pytest.raises(InputError, match="neither texts nor covariates"):
        read(TSF, text_column="news")


@pytest.mark.parametrize(
    "make", [lambda text: text, lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text]
)
def test_line_ends_and_marks_of_other_systems(make: Callable[[str], str], tmp_path: Path) -> None:
    assert [item.name for item in read(make(TSF)).items] == ["T1", "T2"]
    assert [item.name for item in read(make(lines(JSON))).items] == ["0"]
