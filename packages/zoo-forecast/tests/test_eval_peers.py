"""Peers get the same windows and answer in the same form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_aurora import PACKS

from zoo_core.errors import MissingDependencyError, UsageError
from zoo_forecast.measuring import naive
from zoo_forecast.measuring.peers import MODULES, failed, installed, peer
from zoo_forecast.measuring.scores import score
from zoo_forecast.measuring.suites import measure_part, prepare, suites, summary
from zoo_forecast.measuring.windows import Batch

needs_packs = pytest.mark.skipif(
    not Path(PACKS, "forecast/eval").is_dir(), reason="the data packs are not here: set ZOO_PACKS"
)


def batch(contexts: list[np.ndarray], season: int = 12, horizon: int = 12) -> Batch:
    count = len(contexts)
    names = [str(n) for n in range(count)]
    return Batch(contexts, [season] * count, horizon, [None] * count, [None] * count, names, [])


def waves(count: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (
        50 + 10 * np.sin(np.arange(length) * np.pi / 6) + rng.normal(size=(count, length)) + rng.normal(size=(count, 1))
    )


@pytest.mark.parametrize("name", MODULES)
def test_a_peer_knows_a_wave_and_how_sure_it_is(name: str) -> None:
    pytest.importorskip(MODULES[name])
    given = waves(6, 132)
    predicted = peer(name)(batch(list(given[:, :120])))
    assert (np.diff(predicted.values, axis=1) >= 0).all()
    figures = score(predicted, given[:, 120:], np.ones(6))
    repeated = naive.forecast(naive.seasonal_naive, list(given[:, :120]), [12] * 6, 12)
    assert figures["mae"].mean() < score(repeated, given[:, 120:], np.ones(6))["mae"].mean()
    assert figures["coverage80"].mean() > 0.6
    assert (predicted.quantile(0.9) - predicted.quantile(0.1)).mean() < 10  # half of what the wave spans


@pytest.mark.parametrize("name", MODULES)
def test_a_window_is_forecast_by_itself(name: str) -> None:
    pytest.importorskip(MODULES[name])
    given = [waves(1, length)[0] for length in (60, 90, 60)]
    together, alone = peer(name)(batch(given)), peer(name)(batch(given[1:2]))
    assert together.values[1] == pytest.approx(alone.values[0], rel=1e-4)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("context", [[5.0], [1.0, 2.0, np.nan], [3.0] * 40, [np.nan] * 30 + [1.0, 4.0]], ids=str)
def test_contexts_that_say_little_get_a_forecast(name: str, context: list[float]) -> None:
    pytest.importorskip(MODULES[name])
    asked = peer(name)
    predicted = asked(batch([np.array(context)]))
    assert np.isfinite(predicted.values).all()
    assert failed(asked) in (0, 1)


@needs_packs
@pytest.mark.slow
@pytest.mark.parametrize(("name", "mse", "mae"), [("climate", 0.879, 0.747), ("traffic", 0.135, 0.207)])
def test_fracast_on_timemmd(name: str, mse: float, mae: float) -> None:
    """Origin: section 1.2 of the specification, which measured it apart from this code."""
    pytest.importorskip("fracast")
    spec = next(one for one in suites()["timemmd"]["sets"] if one["name"] == name)
    part = prepare(spec)
    measured = measure_part(part, {"fracast": peer("fracast")}, samples=39, seed=0, step=lambda _: None)
    found = summary(measured["fracast"])
    assert (found["mse"], found["mae"]) == pytest.approx((mse, mae), abs=5.1e-4)


def test_a_peer_that_is_unknown_or_missing_is_said() -> None:
    with pytest.raises(UsageError, match="fracast"):
        peer("fracst")
    for name in set(MODULES) - set(installed()):
        with pytest.raises(MissingDependencyError, match="peers"):
            peer(name)
