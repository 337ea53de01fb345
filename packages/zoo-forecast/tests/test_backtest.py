"""A back-test reads nothing of what it forecasts, its scores are the formulas, and its page stands alone."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from tiny_aurora import TINY, tiny_aurora

from zoo_core.cli.main import main
from zoo_core.errors import InputError, UsageError
from zoo_core.weights.build import CONFIG
from zoo_core.weights.files import write_tensors
from zoo_forecast.backtest import command
from zoo_forecast.backtest_page import page
from zoo_forecast.backtesting import Backtest, Window, backtest, windows
from zoo_forecast.calendar import Step
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.items import Item

DAY = np.datetime64("2024-01-01", "us")
ROWS = 90


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(tiny_aurora())


def an_item(name: str = "a", values: np.ndarray | None = None, **more: object) -> Item:
    values = np.sin(np.arange(ROWS) / 4) + np.arange(ROWS) / 50 if values is None else values
    return Item.beginning(name, DAY, values, Step("time", 86400), **more)


def test_windows_end_with_the_series() -> None:
    found = windows([an_item()], 10, count=3, step=4, gap=2)
    assert [(one.origin, one.first, one.end) for one in found] == [(70, 72, 82), (74, 76, 86), (78, 80, 90)]
    assert all(len(one.past.values) == one.origin for one in found)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"step": 0}, {"gap": -1}, {"count": 9}])
def test_what_does_not_fit_is_said(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"at least 1|Item 'a' has 90 points: too few for 9 windows"):
        windows([an_item()], 10, **wrong)


def test_nothing_of_the_future_is_read(forecaster: Forecaster) -> None:
    item = an_item(texts=((20, "Old."), (85, "Of the future.")))
    changed = np.where(np.arange(ROWS) < 80, item.values, 1e6)
    plain = backtest(forecaster, [item], 10, num_samples=5)
    other = backtest(forecaster, [an_item(values=changed, texts=((20, "Old."),))], 10, num_samples=5)
    np.testing.assert_array_equal(plain.quantiles, other.quantiles)


def test_scores_are_the_formulas() -> None:
    """A hand-made case: what came is 0 1 2 3 4 5 6, the median is 1 too high, a week before everything was 7 less."""
    item = an_item(values=np.arange(28.0))
    [window] = windows([item], 7)
    came = item.values[21:]
    tested = Backtest(
        (window,),
        (0.1, 0.9),
        np.stack([came - 1, came + np.array([3.0] * 6 + [-0.5])])[None],
        came[None] + 1,
        came[None] + 2,
    )
    score = tested.score(item)
    assert (score.mae, score.rmse, score.mase) == (1, 2, pytest.approx(1 / 7))
    assert score.seasonal == 7
    assert score.last == pytest.approx(np.mean(np.arange(1, 8)))
    assert score.coverage == pytest.approx(6 / 7)
    lower, upper = 2 * 0.1 * 1, 2 * np.mean([0.1 * 3] * 6 + [0.9 * 0.5])
    assert score.loss == pytest.approx((lower + upper) / 2)


def test_what_did_not_come_is_not_scored() -> None:
    values = np.arange(28.0)
    values[25] = np.nan
    [window] = windows([an_item(values=values)], 7)
    came = np.nan_to_num(values[21:])
    tested = Backtest((window,), (0.1, 0.9), np.stack([came - 1, came + 1])[None], came[None], came[None])
    score = tested.score(window.item)
    assert (score.mae, score.coverage) == (0, 1)


def test_the_page_stands_alone_and_believes_no_name(forecaster: Forecaster) -> None:
    evil = "<script>alert('x')</script>&"
    items = [
        an_item(evil, texts=((80, evil),)),
        an_item("flat", np.full(ROWS, 3.0)),
        an_item("gone", np.full(ROWS, np.nan)),
    ]
    items[0].values[40:45] = np.nan
    tested = backtest(forecaster, items, 10, count=2, num_samples=5)
    written = page(tested, title=evil)

    class Reader(HTMLParser):
        tags: list[str]

        def __init__(self) -> None:
            super().__init__()
            self.tags = []

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            assert not {"src", "href"} & {name for name, _ in attributes}, "the page fetches something"

    reader = Reader()
    reader.feed(written)
    assert "script" not in reader.tags
    assert reader.tags.count("svg") == 3
    for part in written.split("<svg")[1:]:
        drawn = ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")  # noqa: S314 - our own
        assert "nan" not in ElementTree.tostring(drawn, "unicode")
    assert "20 of what" not in written
    assert "6 windows of 10 points in 3 series" in written


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "tiny.safetensors"
    write_tensors(weights, tiny_aurora().state_dict(), {CONFIG: json.dumps(TINY)})
    rows = ROWS * 2
    pd.DataFrame(
        {
            "item_id": ["a"] * ROWS + ["b"] * ROWS,
            "timestamp": [*pd.date_range("2024-01-01", periods=ROWS)] * 2,
            "target": np.sin(np.arange(rows) / 4),
            "price": np.cos(np.arange(rows)),
        }
    ).to_csv("sales.csv", index=False)
    wanted = ["aurora-base", "sales.csv", "--weights", str(weights), "--device", "cpu", "--samples", "5",
              "--horizon", "6", "--windows", "2", "--covariates", "price", "--format", "json"]  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        main(wanted, command=command)
    assert not caught.value.code
    found = json.loads(capsys.readouterr().out.splitlines()[0])
    assert "a" in json.dumps(found)
    assert "<svg" in Path("sales_backtest.html").read_text()
    said = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with redirect_stderr(said), pytest.raises(SystemExit) as caught:
        main(wanted, command=command)
    assert caught.value.code == InputError.exit_code
    assert b"sales_backtest.html exists already" in said.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_window_knows_its_item() -> None:
    item = an_item(covariates=np.ones((2, ROWS)))
    window = Window(item, 70, 72, 82)
    assert window.covariates is not None
    assert window.covariates.shape == (2, 82)
    assert len(window.came) == 10
