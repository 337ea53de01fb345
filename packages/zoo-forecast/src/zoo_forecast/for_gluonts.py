"""A forecaster as gluonts has them: `GluonTSPredictor` goes into `evaluate_model` and whatever takes a Predictor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from zoo_core.errors import InputError, MissingDependencyError, UsageError
from zoo_forecast.calendar import Step
from zoo_forecast.forecaster import Forecaster

try:
    from gluonts.model.forecast import SampleForecast
    from gluonts.model.predictor import Predictor
except ImportError as error:
    raise MissingDependencyError("gluonts is not installed.", 'pip install "zoo-forecast[gluonts]"') from error


class GluonTSPredictor(Predictor):  # type: ignore[misc]  # gluonts is not typed
    """Forecasts the entries of a gluonts dataset: start, target, and item_id where there is one.

    Args:
        forecaster: any model of this package.
        prediction_length: points to forecast.
        lead_time: points between the end of an entry and the first that is forecast.
        num_samples: paths of each entry, unless `predict` is told otherwise.
        text_field: of an entry's text, the newest that was known at its end; None reads none.
        covariates: whether feat_dynamic_real is read, which is known over the horizon too.
        seed: of the noise.
        batch_size: entries that are read and forecast together.
        options: further ones of `Forecaster.predict`, such as lowest and whole.

    Raises:
        UsageError: a number out of place.
    """

    def __init__(
        self, forecaster: Forecaster, prediction_length: int, *, lead_time: int = 0, num_samples: int = 100,
        text_field: str | None = None, covariates: bool = False, seed: int = 0, batch_size: int = 256,
        **options: Any,
    ) -> None:  # fmt: skip
        for name, number in (("prediction_length", prediction_length), ("batch_size", batch_size)):
            if number < 1:
                raise UsageError(f"{name} is {number}, but must be at least 1.")
        super().__init__(prediction_length, lead_time=lead_time)
        self.forecaster, self.num_samples, self.seed, self.batch_size = forecaster, num_samples, seed, batch_size
        self.text_field, self.covariates, self.options = text_field, covariates, options

    def predict(
        self, dataset: Iterable[Mapping[str, Any]], num_samples: int | None = None, **_: Any
    ) -> Iterator[SampleForecast]:
        """Yield a forecast an entry, in their order, whose samples are (S, H).

        An entry without item_id is known by its values: it is forecast alike in any dataset and order.

        Args:
            dataset: of gluonts.
            num_samples: instead of the constructor's.

        Raises:
            InputError: an entry that cannot be used, such as one of several variables; its place is named.
        """
        entries = iter(dataset)
        first = 0
        while batch := list(islice(entries, self.batch_size)):
            yield from self._forecasts(batch, num_samples or self.num_samples, first)
            first += len(batch)

    def _forecasts(self, batch: list[Mapping[str, Any]], samples: int, first: int) -> Iterator[SampleForecast]:
        ahead = self.lead_time + self.prediction_length
        targets, shown = [], []
        for number, entry in enumerate(batch, first):
            target = np.asarray(entry["target"], dtype=np.float64)
            if target.ndim != 1:
                raise InputError(f"Entry {number} has a target of shape {target.shape}.", "Give each variable apart.")
            targets.append(target)
            tracks = entry.get("feat_dynamic_real") if self.covariates else None
            # a dataset with its answers has them beyond the horizon too
            shown.append(None if tracks is None else np.atleast_2d(tracks)[:, : len(target) + ahead])
        forecast = self.forecaster.predict(
            targets,
            self.prediction_length,
            num_samples=samples,
            texts=[entry.get(self.text_field) for entry in batch] if self.text_field else None,
            items=self._names(batch, targets),
            periods=[_period(entry) for entry in batch],
            covariates=shown if self.covariates else None,
            gap=self.lead_time,
            seed=self.seed,
            **self.options,
        )
        for row, (entry, target) in enumerate(zip(batch, targets, strict=True)):
            yield SampleForecast(
                forecast.samples[row].numpy(),
                start_date=entry["start"] + len(target) + self.lead_time,
                item_id=entry.get("item_id"),
                info={"notes": list(forecast.notes[row])},
            )

    def _names(self, batch: list[Mapping[str, Any]], targets: list[np.ndarray]) -> list[str]:
        names = [entry.get("item_id") for entry in batch]
        return [
            str(name) if name is not None else repr(target.tobytes())
            for name, target in zip(names, targets, strict=True)
        ]


def _period(entry: Mapping[str, Any]) -> int | None:
    """Return the points after which an entry usually repeats, None for a frequency that we do not know."""
    try:
        return Step.named(entry["start"].freqstr).period
    except (AttributeError, UsageError):
        return None
