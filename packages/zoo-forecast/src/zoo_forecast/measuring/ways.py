"""Forecasters side by side: each is a function from what is known in some windows to their forecasts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from zoo_core.errors import UsageError
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring import naive
from zoo_forecast.measuring.scores import Predicted
from zoo_forecast.measuring.texts import RUNS
from zoo_forecast.measuring.windows import Batch

MOST_TOKENS = 64  # that a model is asked to read; the authors' longest context has 22

Method: TypeAlias = Callable[[Batch], Predicted]


def naive_ways() -> dict[str, Method]:
    """Return the rules that anybody can follow, without and with a spread."""

    def way(forecast: Callable[..., Predicted], rule: naive.Rule) -> Method:
        return lambda batch: forecast(rule, batch.contexts, batch.seasons, batch.horizon)

    return {
        "last_value": way(naive.forecast, naive.last_value),
        "seasonal_naive": way(naive.forecast, naive.seasonal_naive),
        "context_mean": way(naive.forecast, naive.context_mean),
        "last_value_normal": way(naive.forecast_normal, naive.last_value),
        "seasonal_naive_normal": way(naive.forecast_normal, naive.seasonal_naive),
    }


@dataclass(frozen=True)
class Model:
    """A model of this package as it is asked in an evaluation.

    Args:
        forecaster: with its weights.
        samples: paths of a window.
        seed: of the noise.
        token_length: points of a token; None is the model's own.
        steps: of the sampler; None is the model's own, 0 its head of quantiles.
        context: points of a context at most; with a token length, the model reads as many of its tokens, up to 64.
    """

    forecaster: Forecaster
    samples: int
    seed: int
    token_length: int | None
    steps: int | None
    context: int

    def __call__(self, batch: Batch) -> Predicted:
        """Forecast windows."""
        settings: dict[str, Any] = {}
        if self.token_length is not None:
            settings |= {
                "token_length": self.token_length,
                "context_tokens": min(MOST_TOKENS, -(-self.context // self.token_length)),
            }
        if batch.covariates and len(batch.covariates[0]):
            if "covariates" not in inspect.signature(self.forecaster.predict).parameters:
                raise UsageError("This model reads no covariates.", "Leave --covariates out.")
            settings["covariates"] = list(batch.covariates)
        forecast = self.forecaster.predict(
            list(batch.contexts),
            batch.horizon,
            num_samples=self.samples,
            texts=list(batch.texts),
            items=list(batch.items),
            seed=self.seed,
            periods=list(batch.seasons),
            steps=self.steps,
            **settings,
        )
        samples = Predicted.samples(forecast.samples.numpy())
        if self.steps == 0:  # these are no draws, but quantiles in the middle of equal shares
            return replace(samples, levels=(np.arange(self.samples) + 0.5) / self.samples)
        return samples


def model_ways(model: Model, texts: str, *, has_texts: bool) -> dict[str, Method]:
    """Return our ways: `ours` first, and beside it, if asked for, the same without texts and with those of others.

    Args:
        model: the model.
        texts: true, none, shuffled, or all.
        has_texts: whether there are texts; if not, all ways are one.
    """

    def without(batch: Batch) -> Predicted:
        return model(replace(batch, texts=[None] * len(batch.texts)))

    def shuffled(batch: Batch) -> Predicted:
        return model(replace(batch, texts=batch.other_texts))

    if not has_texts or texts == "none":
        return {"ours": without}
    if texts == "shuffled":
        return {"ours": shuffled}
    return {"ours": model} | ({RUNS["none"]: without, RUNS["shuffled"]: shuffled} if texts == "all" else {})
