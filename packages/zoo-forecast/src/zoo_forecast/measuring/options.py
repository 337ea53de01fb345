"""What a user may choose when forecasts are measured. Neither torch nor numpy here: the command's help reads this."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from zoo_core.options import EvaluateOptions

Suite = Literal["timemmd", "etth", "ettm", "ett", "epf", "m4", "exchange", "illness", "weather", "all"]
SUITES: tuple[str, ...] = get_args(Suite)


class ForecastEvaluateOptions(EvaluateOptions):
    """Options of `zoo eval` for the forecasting models."""

    suite: Suite | None = Field(
        default=None,
        description="Instead of --data: published sets by their official protocols, beside naive rules, peers that "
        "are installed and the paper's figures; `all` has every set.",
    )
    context: int = Field(default=512, ge=1, le=100_000, description="Points before an origin that are known, at most.")
    horizon: int = Field(default=24, ge=1, le=10_000, description="Points to forecast from each origin.")
    stride: int = Field(default=24, ge=1, le=100_000, description="Points between origins.")
    every: int = Field(
        default=1, ge=1, le=100_000, description="Measure only each so many-th window; the report says so."
    )
    texts: Literal["true", "none", "shuffled", "all"] = Field(
        default="true",
        description="What is read beside a series: the newest text known at the origin, none, those of other origins "
        "at random, or all three in turn with paired p values.",
    )
    rows: Literal["time", "file"] = Field(
        default="time",
        description="Rows of --data: sorted by time, without doubled stamps, gaps filled as missing; or as they are "
        "in the file.",
    )
    freq: str | None = Field(
        default=None, description="Frequency of the stamps; default the column freq, else what the stamps show."
    )
    covariates: str | None = Field(
        default=None, description="Numeric columns that are known ahead, with commas between them; others are not read."
    )
    samples: int = Field(default=100, ge=2, le=10_000, description="Paths that are drawn.")
    seed: int = Field(default=0, description="Of the paths' noise, and of shuffled texts.")
    token_length: int | Literal["model"] | None = Field(
        default=None,
        description="Points that are read as one token; default the suite's, else the model's own; `model` is the "
        "model's own everywhere.",
    )
    steps: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Of the sampler; default the model's own. 0 is for models with a head of quantiles: that alone.",
    )
    peers: bool = Field(default=True, description="In a suite, also measure AutoETS and fracast if they are installed.")

    @property
    def needs_data(self) -> bool:
        """A suite names its packs itself."""
        return self.suite is None

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(name.strip() for name in (self.covariates or "").split(",") if name.strip())

    @model_validator(mode="after")
    def _a_suite_has_its_own_windows(self) -> ForecastEvaluateOptions:
        set_by_suite = {"context", "horizon", "stride", "rows", "freq"} & self.model_fields_set
        if self.suite is not None and set_by_suite:
            name = sorted(set_by_suite)[0]
            raise ValueError(f"--suite sets --{name} by its protocol; leave it out, or measure a pack with --data")
        return self
