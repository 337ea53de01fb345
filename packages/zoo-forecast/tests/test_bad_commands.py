"""What users give to `zoo predict`, a sentence a test: refused with file and remedy, and nothing is lost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from asking import a_frame, forecast, predict, with_prices, zoo
from tiny_aurora import TINY, tiny_aurora

from zoo_core.errors import InputError, WeightsError
from zoo_core.weights.build import CONFIG
from zoo_core.weights.files import write_tensors
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.options import ForecastOptions

# -- weights -----------------------------------------------------------------------------------------------------------


def test_missing_weights_and_wrong_keys(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="aurora-base"):
        Forecaster.load("aurora-base", device="cpu")
    state = tiny_aurora().state_dict()
    lost = sorted(state)[:12]
    path = tmp_path / "holes.safetensors"
    write_tensors(path, {key: state[key] for key in state if key not in lost}, {CONFIG: json.dumps(TINY)})
    with pytest.raises(WeightsError) as caught:
        Forecaster.load("aurora-base", weights=path, device="cpu")
    assert str(path) in str(caught.value)
    named = re.split(r"[(), ]+", str(caught.value))
    assert sum(key in named for key in lost) == 10


# -- the command -------------------------------------------------------------------------------------------------------


def test_of_a_batch_what_can_be_forecast_is(tmp_path: Path, weights: Path) -> None:
    a_frame().to_csv(tmp_path / "good.csv", index=False)
    (tmp_path / "bad.csv").write_text("item_id,timestamp,target\na,2024-01-01,1\na,2024-01-02,many\n")
    a_frame().to_parquet(tmp_path / "well.parquet")
    files = [tmp_path / name for name in ("good.csv", "bad.csv", "gone.csv", "well.parquet")]
    done = predict(weights, *files, "-o", tmp_path / "out")
    assert done.exit_code == InputError.exit_code == 3
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == ["good_forecast.csv", "well_forecast.csv"]
    said = done.stderr
    assert "bad.csv: Item 'a': the column 'target' holds something that is no number" in said
    assert "gone.csv does not exist" in said
    assert "Traceback" not in said


def test_nothing_is_overwritten_unasked(tmp_path: Path, weights: Path) -> None:
    a_frame().to_csv(tmp_path / "good.csv", index=False)
    (tmp_path / "good_forecast.csv").write_text("mine")
    done = predict(weights, tmp_path / "good.csv", "-o", tmp_path)
    assert done.exit_code == 3
    assert (tmp_path / "good_forecast.csv").read_text() == "mine"
    assert "exists already" in done.stderr


def test_a_folder_that_cannot_be_written_to_fails_at_once(tmp_path: Path, weights: Path) -> None:
    a_frame().to_csv(tmp_path / "good.csv", index=False)
    (tmp_path / "out").write_text("a file")
    done = predict(weights, tmp_path / "good.csv", "-o", tmp_path / "out" / "deeper")
    assert done.exit_code == 1
    assert "cannot be made" in done.stderr


def test_covariates_on_the_command_line(tmp_path: Path, weights: Path) -> None:
    frame, future = with_prices()
    frame.to_csv(tmp_path / "sales.csv", index=False)
    future.to_csv(tmp_path / "prices.csv", index=False)
    options = ["--covariates", "price", "-o", tmp_path / "out", "--gap", "1"]
    done = predict(weights, tmp_path / "sales.csv", *options, "--future-file", tmp_path / "prices.csv")
    assert done.exit_code == 0, done.stderr
    out = pd.read_csv(tmp_path / "out/sales_forecast.csv", parse_dates=["timestamp"])
    assert out["timestamp"].tolist() == [pd.Timestamp("2024-03-02"), pd.Timestamp("2024-03-03")] * 2
    same = forecast(
        Forecaster(tiny_aurora()), frame, future, covariates=["price"], gap=1, prediction_length=2, num_samples=3
    )
    np.testing.assert_allclose(out["predictions"], same["predictions"], rtol=1e-4)
    done = predict(weights, tmp_path / "sales.csv", *options)
    assert done.exit_code == 3
    assert "sales.csv: the covariates price are not known over the horizon. try: Give --future-file" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quantiles", "0.5,1"], "--quantiles"),
        (["--future-file", "prices.csv"], "--covariates"),
        (["--covariates", "price", "--future-file", "not-there.csv"], "not-there.csv is no file"),
        (["--freq", "fortnight"], "no frequency 'fortnight'"),
        (["--horizn", "3"], "--horizon"),
        (["--point", "mode"], "--point"),
    ],
)
def test_wrong_options_are_a_usage_error(tmp_path: Path, options: list[str], said: str) -> None:
    done = zoo("predict", "aurora-base", "sales.csv", "--weights", "none.safetensors", *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_notes_are_said_on_the_command_line(tmp_path: Path, weights: Path) -> None:
    a_frame(rows=1).to_csv(tmp_path / "one.csv", index=False)
    done = predict(weights, tmp_path / "one.csv", "-o", tmp_path / "out", "--freq", "D")
    assert done.exit_code == 0
    assert "a: one value was observed: the width of the forecast is a guess" in done.stderr


@pytest.mark.parametrize("options", [{"horizon": 0}, {"horizon": 10**6}, {"gap": -1}, {"lowest": float("nan")}])
def test_numbers_out_of_place(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ForecastOptions(**options)
