"""Covariates beside a model that reads none: they help where they cause the series, else do not hurt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_aurora import tiny_aurora

from zoo_core.errors import InputError, UsageError
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.ridge import explain

LENGTH, HORIZON = 200, 24


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(tiny_aurora())


def two_tracks(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(size=LENGTH + HORIZON).cumsum(), 10 + 3 * rng.normal(size=LENGTH + HORIZON)])


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_sum_of_two_covariates_is_learnt(forecaster: Forecaster, scale: float) -> None:
    """y = x1 + x2, which SalesforceAIResearch/uni2ts issue 25 says a larger model does not learn."""
    tracks = two_tracks() * scale
    y = tracks.sum(0)
    paths = forecaster.predict([y[:LENGTH]], HORIZON, covariates=[tracks], num_samples=9).samples[0].numpy()
    np.testing.assert_allclose(paths, np.broadcast_to(y[LENGTH:], paths.shape), rtol=0, atol=1e-4 * y.std())
    without = forecaster.predict([y[:LENGTH]], HORIZON, num_samples=9).samples[0].numpy()
    assert np.abs(without - y[LENGTH:]).mean() > 0.1 * y.std()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(-100, 100), st.floats(0.01, 100))
def test_units_of_the_covariates_do_not_matter(seed: int, shift: float, stretch: float) -> None:
    tracks = two_tracks(seed)
    y = tracks.sum(0)[:LENGTH] + np.random.default_rng(seed).normal(size=LENGTH)
    plain, moved = explain(y, tracks), explain(y, tracks * stretch + shift)
    np.testing.assert_allclose(plain.future, moved.future, rtol=1e-6, atol=1e-6 * y.std())


@pytest.mark.parametrize(("kind", "most"), [("walks", 1.03), ("caused walks", 1.02), ("noise", 1.03), ("caused", 0.95)])
def test_covariates_help_where_they_cause_and_hardly_hurt_elsewhere(kind: str, most: float) -> None:
    """Random walks are the trap: any two of them correlate over a context, and part afterwards."""
    with_them, without = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(3, LENGTH + HORIZON))
        walks, caused = noise.cumsum(1), 0.5 * noise[1]
        y, tracks = {
            "walks": (walks[0], walks[1:]),
            "caused walks": (walks[0] + 0.3 * walks[1], walks[1:]),
            "noise": (walks[0], noise[1:]),
            "caused": (noise[0] + caused, noise[1:]),
        }[kind]
        found = explain(y[:LENGTH], tracks)
        rest = y[:LENGTH] - found.past
        # the best that can be said of a walk is its last value, of noise its mean
        last, plain = (rest.mean(), y[:LENGTH].mean()) if kind == "caused" else (rest[-1], y[LENGTH - 1])
        with_them.append(np.abs(last + found.future - y[LENGTH:]).mean())
        without.append(np.abs(plain - y[LENGTH:]).mean())
    assert np.mean(with_them) < most * np.mean(without)


def test_the_fit_is_of_the_series_alone(forecaster: Forecaster) -> None:
    tracks, other = two_tracks(), two_tracks(1)
    y = tracks.sum(0)[:LENGTH] + np.sin(np.arange(LENGTH))
    alone = forecaster.predict([y], HORIZON, covariates=[tracks], items=["a"], num_samples=5).samples[0]
    mates = [np.sin(np.arange(LENGTH)), y, 1000 * other[0, :LENGTH]]
    beside = forecaster.predict(
        mates, HORIZON, covariates=[None, tracks, other], items=["b", "a", "c"], num_samples=5
    ).samples[1]
    torch.testing.assert_close(beside, alone, rtol=1e-5, atol=1e-5)


def test_a_constant_series_stays_exact_beside_covariates(forecaster: Forecaster) -> None:
    samples = forecaster.predict([np.full(LENGTH, 7.1)], HORIZON, covariates=[two_tracks()]).samples
    assert (samples == 7.1).all()


def test_missing_covariates_are_their_mean_and_said(forecaster: Forecaster) -> None:
    tracks = two_tracks()
    y = tracks.sum(0)[:LENGTH]
    tracks[0, 3], tracks[1, LENGTH + 2] = np.nan, np.nan
    forecast = forecaster.predict([y], HORIZON, covariates=[tracks], num_samples=3)
    assert torch.isfinite(forecast.samples).all()
    assert forecast.notes[0] == ("at 1 coming points covariates are missing: their mean stands for them",)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_too_short_a_context_is_said(forecaster: Forecaster, length: int) -> None:
    y = np.sin(np.arange(length))
    forecast = forecaster.predict([y], 3, covariates=[np.ones((2, length + 3))], num_samples=3)
    assert any("too few points" in note for note in forecast.notes[0])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.ones((2, LENGTH)), "one column for each of 224 points"),
        (np.full((1, LENGTH + HORIZON), np.inf), "Covariate 0 of series 0 is infinite at place 0"),
        ([["much"] * (LENGTH + HORIZON)], "no number"),
    ],
)
def test_wrong_covariates_are_named(forecaster: Forecaster, given: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        forecaster.predict([np.arange(LENGTH)], HORIZON, covariates=[given])


def test_one_entry_a_series(forecaster: Forecaster) -> None:
    with pytest.raises(UsageError, match="covariates"):
        forecaster.predict([np.arange(9), np.arange(9)], 3, covariates=[None])
