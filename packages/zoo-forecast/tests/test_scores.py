"""Figures of forecasts: each against its definition, written out plainly or known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_forecast.measuring import naive
from zoo_forecast.measuring.scores import LEVELS, Predicted, mase_scale, pit, score


def one(samples: np.ndarray, y: list[float], scale: float = 1.0) -> dict[str, float]:
    figures = score(Predicted.samples(samples[None]), np.array([y]), np.array([scale]))
    return {name: float(values[0]) for name, values in figures.items()}


@given(seed=st.integers(0, 10_000), count=st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_energy_form_is_the_mean_over_all_pairs(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    samples, y = rng.normal(size=(count, 4)), rng.normal(size=4)
    apart = np.abs(samples - y).mean(0)
    spread = np.abs(samples[:, None] - samples[None]).sum((0, 1)) / (count * (count - 1))
    assert one(samples, y.tolist())["crps_energy"] == pytest.approx(float((apart - spread / 2).mean()))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_probts_form_is_the_mean_of_19_quantile_losses_over_the_magnitude(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples, y = rng.normal(size=(100, 6)), rng.normal(size=6) + 3
    losses = []
    for level in LEVELS:
        quantile = np.quantile(samples, level, axis=0)
        losses.append(2 * np.abs((y - quantile) * ((y <= quantile) - level)).sum() / np.abs(y).sum())
    assert one(samples, y.tolist())["crps"] == pytest.approx(np.mean(losses))


def test_crps_of_a_standard_normal_at_its_middle() -> None:
    """(sqrt(2) - 1) / sqrt(pi): Gneiting and Raftery (2007), equation 21 at y = 0."""
    rng = np.random.default_rng(0)
    exact = (math.sqrt(2) - 1) / math.sqrt(math.pi)
    assert one(rng.normal(size=(4000, 500)), [0.0] * 500)["crps_energy"] == pytest.approx(exact, rel=0.005)
    few = score(Predicted.samples(rng.normal(size=(2000, 4, 20))), np.zeros((2000, 20)), np.ones(2000))
    assert few["crps_energy"].mean() == pytest.approx(exact, rel=0.02)  # fair: four samples give the same on average
    quantiles = naive._NORMAL[None, :, None]
    given_levels = score(Predicted(quantiles, np.zeros((1, 1)), naive.LEVELS), np.zeros((1, 1)), np.ones(1))
    assert given_levels["crps_energy"][0] == pytest.approx(exact, rel=0.03)


def test_a_point_forecast_has_its_absolute_error_for_crps() -> None:
    figures = score(Predicted.point([[1.0, 2.0]]), np.array([[2.0, 4.0]]), np.array([3.0]))
    assert {name: figures[name][0] for name in ("mae", "crps_energy", "mse", "mase")} == {
        "mae": 1.5, "crps_energy": 1.5, "mse": 2.5, "mase": 0.5,
    }  # fmt: skip
    assert figures["crps"][0] == figures["nd"][0] == pytest.approx(0.5)
    assert figures["coverage80"][0] == 0


def test_squares_are_of_the_mean_and_absolutes_of_the_median() -> None:
    found = one(np.array([[0.0], [0.0], [9.0]]), [0.0])
    assert (found["mse"], found["mae"], found["mae_of_mean"]) == (9.0, 0.0, 3.0)


def test_what_is_missing_is_not_scored() -> None:
    rng = np.random.default_rng(1)
    samples, nan = rng.normal(size=(50, 4)), float("nan")
    some, rest = one(samples, [1.0, nan, 2.0, nan]), one(samples[:, [0, 2]], [1.0, 2.0])
    assert some == pytest.approx(rest)
    none = one(samples, [nan] * 4)
    assert all(math.isnan(none[name]) for name in ("mse", "mae", "crps", "crps_energy", "coverage80"))


def test_coverage_and_pit_of_right_and_of_narrow_forecasts() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(300, 20))
    right, narrow = (Predicted.samples(rng.normal(0, std, size=(300, 100, 20))) for std in (1, 0.3))
    for share in (50, 80, 95):
        assert score(right, truth, np.ones(300))[f"coverage{share}"].mean() == pytest.approx(share / 100, abs=0.025)
    assert score(narrow, truth, np.ones(300))["coverage80"].mean() < 0.35
    assert pit(right, truth) == pytest.approx(np.full(10, 0.1), abs=0.02)
    assert pit(narrow, truth)[[0, 9]].min() > 0.25
    assert pit(right, truth).sum() == pytest.approx(1)


def test_pit_makes_no_peaks_of_ties() -> None:
    """All samples and the truth equal: nothing is known of the rank, so that every tenth gets its share."""
    assert pit(Predicted.samples(np.zeros((1, 100, 1))), np.zeros((1, 1))) == pytest.approx(np.full(10, 0.1))


def test_mase_is_scaled_by_the_context_alone() -> None:
    assert mase_scale(np.array([1.0, 2.0, 4.0, 8.0]), 2) == pytest.approx((3 + 6) / 2)
    assert mase_scale(np.array([1.0, 2.0, 4.0]), 12) == pytest.approx(1.5)  # shorter than a season: neighbours
    assert mase_scale(np.array([1.0, np.nan, 4.0, 8.0]), 2) == pytest.approx(3)
    assert math.isnan(mase_scale(np.array([1.0]), 1))
    flat = score(Predicted.point([[1.0]]), np.array([[2.0]]), np.array([mase_scale(np.ones(9), 1)]))
    assert math.isnan(flat["mase"][0])


def test_naive_rules() -> None:
    context = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert naive.last_value(context, 2, 3).tolist() == [5, 5, 5]
    assert naive.seasonal_naive(context, 2, 3).tolist() == [4, 5, 4]
    assert naive.seasonal_naive(context, 6, 2).tolist() == [5, 5]
    gaps = naive.forecast(naive.last_value, [np.array([1.0, 2.0, np.nan])], [1], 2)
    assert gaps.mean.tolist() == [[2, 2]]


def test_the_normal_spread_of_naive_rules_covers_what_they_forecast() -> None:
    """A random walk is forecast as well as can be by its last value, so that these intervals must be right."""
    rng = np.random.default_rng(3)
    walks = rng.normal(size=(400, 320)).cumsum(1)
    predicted = naive.forecast_normal(naive.last_value, list(walks[:, :300]), [1] * 400, 20)
    figures = score(predicted, walks[:, 300:], np.ones(400))
    assert figures["coverage80"].mean() == pytest.approx(0.8, abs=0.04)
    point = score(naive.forecast(naive.last_value, list(walks[:, :300]), [1] * 400, 20), walks[:, 300:], np.ones(400))
    assert figures["crps_energy"].mean() < 0.8 * point["crps_energy"].mean()
