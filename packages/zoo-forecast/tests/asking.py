"""What the tests of bad input ask with: small tables, a small Aurora, the command in this process."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from zoo_core.cli.main import main
from zoo_forecast.forecaster import Forecaster

ROWS = 60


def a_frame(*, ids: tuple[Any, ...] = ("a",), freq: str = "D", rows: int = ROWS, start: str = "2024-01-01") -> Any:
    parts = [
        pd.DataFrame(
            {
                "item_id": name,
                "timestamp": pd.date_range(start, periods=rows, freq=freq),
                "target": np.sin(np.arange(rows) / 3) + place,
            }
        )
        for place, name in enumerate(ids)
    ]
    return pd.concat(parts, ignore_index=True)


def forecast(forecaster: Forecaster, frame: Any, future: Any = None, **options: Any) -> Any:
    return forecaster.predict_df(frame, future, **{"prediction_length": 4, "num_samples": 5, **options})


def with_prices() -> tuple[Any, Any]:
    frame = a_frame(ids=("a", "b"), rows=ROWS + 4)
    frame["price"] = np.random.default_rng(0).normal(size=len(frame))
    frame["target"] += 5 * frame["price"]
    ahead = frame.groupby("item_id").cumcount() >= ROWS
    return frame[~ahead], frame[ahead].drop(columns="target")


@dataclass(frozen=True)
class Done:
    exit_code: int
    stderr: str


def zoo(*arguments: Any) -> Done:
    said = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with redirect_stderr(said), pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    said.seek(0)
    return Done(int(caught.value.code or 0), " ".join(said.read().split()))


def predict(weights: Path, *arguments: Any) -> Done:
    options = ["--weights", weights, "--device", "cpu", "--samples", "3", "--horizon", "2"]
    return zoo("predict", "aurora-base", *arguments, *options)
