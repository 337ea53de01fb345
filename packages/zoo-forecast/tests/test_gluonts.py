"""gluonts takes us for one of its own, and its figures are those of our samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from gluonts.dataset.common import ListDataset
from gluonts.dataset.split import split
from gluonts.ev.metrics import MASE, MeanWeightedSumQuantileLoss
from gluonts.model.evaluation import evaluate_model
from tiny_aurora import tiny_aurora

from zoo_core.errors import InputError, UsageError
from zoo_forecast.for_gluonts import GluonTSPredictor
from zoo_forecast.forecaster import Forecaster

HORIZON, LENGTH = 6, 72
LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(tiny_aurora())


def entries(count: int = 5, **more: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"item_id": f"s{n}", "start": pd.Period("2024-01-01", "h"), **more,
         "target": 10 + np.sin(np.arange(LENGTH) * (0.2 + n / 10)) + rng.normal(scale=0.1, size=LENGTH)}
        for n in range(count)
    ]  # fmt: skip


def test_samples_dates_and_names(forecaster: Forecaster) -> None:
    data = ListDataset(entries(), freq="h")
    predictor = GluonTSPredictor(forecaster, HORIZON, batch_size=2)
    found = list(predictor.predict(data, num_samples=7))
    assert [one.item_id for one in found] == [f"s{n}" for n in range(5)]
    assert all(one.samples.shape == (7, HORIZON) for one in found)
    assert found[0].start_date == pd.Period("2024-01-04 00:00", "h")
    ours = forecaster.predict(
        [one["target"] for one in data], HORIZON, items=[f"s{n}" for n in range(5)], num_samples=7
    )
    np.testing.assert_allclose(np.stack([one.samples for one in found]), ours.samples.numpy(), rtol=1e-4, atol=1e-4)


def test_evaluate_model(forecaster: Forecaster) -> None:
    """Figures of gluonts, and the same by the formulas over our samples."""
    data = ListDataset(entries(), freq="h")
    _, template = split(data, offset=-2 * HORIZON)
    test = template.generate_instances(prediction_length=HORIZON, windows=2)
    predictor = GluonTSPredictor(forecaster, HORIZON, num_samples=50)
    metrics = [MASE(), MeanWeightedSumQuantileLoss(quantile_levels=LEVELS)]
    scored = evaluate_model(predictor, test_data=test, metrics=metrics, axis=None, seasonality=24)
    assert np.isfinite(scored.to_numpy()).all()
    samples = np.stack([one.samples for one in predictor.predict(test.input)])
    truth = np.stack([one["target"] for one in test.label])
    errors = [
        np.abs(label - np.median(path, 0)).mean() / np.abs(past[24:] - past[:-24]).mean()
        for label, path, past in zip(truth, samples, (one["target"] for one in test.input), strict=True)
    ]
    assert scored["MASE[0.5]"].iloc[0] == pytest.approx(np.mean(errors), rel=0.02)
    assert 0 < scored["mean_weighted_sum_quantile_loss"].iloc[0] < 1


def test_an_entry_is_forecast_alike_in_any_dataset(forecaster: Forecaster) -> None:
    predictor = GluonTSPredictor(forecaster, HORIZON, num_samples=5)
    nameless = [{key: value for key, value in entry.items() if key != "item_id"} for entry in entries()]
    forward = [one.samples for one in predictor.predict(nameless)]
    backward = [one.samples for one in predictor.predict(nameless[::-1])][::-1]
    np.testing.assert_allclose(np.stack(forward), np.stack(backward), rtol=1e-4, atol=1e-4)


def test_texts_covariates_and_lead_time(forecaster: Forecaster) -> None:
    tracks = np.random.default_rng(1).normal(size=(2, LENGTH + 30))
    data = entries(1, news="Demand will fall.", feat_dynamic_real=tracks)
    data[0]["target"] = data[0]["target"] + tracks[:, :LENGTH].sum(0)
    plain = next(GluonTSPredictor(forecaster, HORIZON).predict(data))
    told = next(GluonTSPredictor(forecaster, HORIZON, text_field="news").predict(data))
    covered = next(GluonTSPredictor(forecaster, HORIZON, covariates=True).predict(data))
    later = next(GluonTSPredictor(forecaster, HORIZON, lead_time=3).predict(data))
    assert (told.samples != plain.samples).any()
    assert later.start_date == plain.start_date + 3
    assert np.corrcoef(covered.samples.mean(0), tracks[:, LENGTH : LENGTH + HORIZON].sum(0))[0, 1] > 0.9


def test_what_is_not_understood_is_said(forecaster: Forecaster) -> None:
    with pytest.raises(UsageError, match="prediction_length is 0"):
        GluonTSPredictor(forecaster, 0)
    several = [{"start": pd.Period("2024-01-01", "h"), "target": np.zeros((2, 9))}]
    with pytest.raises(InputError, match=r"Entry 0 has a target of shape \(2, 9\)"):
        next(GluonTSPredictor(forecaster, 3).predict(several))


def test_nothing_observed_says_so(forecaster: Forecaster) -> None:
    entry = {"start": pd.Period("2024-01", "M"), "target": np.full(9, np.nan)}
    found = next(GluonTSPredictor(forecaster, 3).predict([entry]))
    assert np.isnan(found.samples).all()
    assert "nothing was observed" in found.info["notes"][0]
