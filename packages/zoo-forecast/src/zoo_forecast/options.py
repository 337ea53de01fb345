"""What a user may choose when series are forecast. Neither torch nor numpy here: the command's help reads this."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from zoo_core.options import Options


class ForecastOptions(Options):
    """Options of `zoo predict` for the forecasting models."""

    horizon: int = Field(default=24, ge=1, le=100_000, description="How many points to forecast.")
    quantiles: str = Field(
        default="0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9", description="Levels between 0 and 1, with commas between them."
    )
    format: Literal["csv", "parquet"] = Field(default="csv", description="Files of the results: csv or parquet.")
    text_file: Path | None = Field(
        default=None, description="A text that was known when the series end; it is read beside every series."
    )
    text_column: str | None = Field(
        default=None, description="Column of texts; of every series the newest one is read."
    )
    id_column: str = Field(
        default="item_id", description="Column of the series' names; without it there is one series."
    )
    timestamp_column: str = Field(default="timestamp", description="Column of the time stamps.")
    target: str = Field(default="target", description="Column of the numbers to forecast.")
    freq: str | None = Field(
        default=None, description="Frequency of the stamps, such as h, 15min, D, B, W, MS; by default it is found."
    )
    covariates: str = Field(
        default="", description="Columns of numbers that are known in the future too, with commas between them."
    )
    future_file: Path | None = Field(
        default=None, description="A table with the covariates of the horizon, one row a time stamp of an item."
    )
    allow_future_text: bool = Field(
        default=False, description="Read texts too whose stamps lie behind the last observed value."
    )
    gap: int = Field(
        default=0, ge=0, le=100_000, description="Points between the end of a series and the first that is forecast."
    )
    point: Literal["median", "mean"] = Field(
        default="median",
        description="What the column predictions holds: the median (absolute errors) or the mean (squared errors).",
    )
    lowest: float | None = Field(
        default=None, allow_inf_nan=False, description="What no value can be below, such as 0; paths are cut there."
    )
    whole: bool = Field(default=False, description="The series count something: whole numbers are forecast.")
    samples: int = Field(default=100, ge=1, le=10_000, description="Paths that are drawn.")
    seed: int = Field(default=0, description="Of the paths' noise.")
    token_length: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Points that are read as one token, best a period of the series; by default the model's own.",
    )
    official: bool = Field(
        default=False, description="Forecast as upstream does, slips included, to compare with its figures."
    )
    suffix: str = Field(default="_forecast", max_length=100, description="What is added to the name of the input.")

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of the quantiles."""
        return tuple(float(level) for level in self.quantiles.split(","))

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """The columns of the covariates."""
        return tuple(dict.fromkeys(name.strip() for name in self.covariates.split(",") if name.strip()))

    @field_validator("quantiles")
    @classmethod
    def _levels_are_levels(cls, quantiles: str) -> str:
        try:
            levels = [float(level) for level in quantiles.split(",")]
        except ValueError:
            levels = []
        if not levels or not all(0 < level < 1 for level in levels):
            raise ValueError("give levels between 0 and 1, such as 0.1,0.5,0.9")
        return ",".join(str(level) for level in sorted(set(levels)))

    @field_validator("suffix")
    @classmethod
    def _suffix_is_no_path(cls, suffix: str) -> str:
        if re.search(r"[/\\\0]", suffix):
            raise ValueError("a suffix is a part of a file name, without slashes")
        return suffix

    @model_validator(mode="after")
    def _one_source_of_texts(self) -> ForecastOptions:
        if self.text_file is not None and self.text_column is not None:
            raise ValueError("--text-file and --text-column both bring texts; give one of them")
        if self.future_file is not None and not self.covariate_names:
            raise ValueError("--future-file needs --covariates, the names of the columns that are read from it")
        return self
