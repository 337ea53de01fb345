"""Official protocols: trivial rules give the figures that an independent script of the specification gave.

Origin of the golden figures: the project's specification of forecasting, section 1.2 (TimeMMD: windows, MSE and MAE of
last value, seasonal naive and window mean, each a mean over four horizons), 6.2 (ETTh) and 7 (M4 hourly), which were
measured apart from this code; 6.8 and 1.2 have those of EPF.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from tiny_aurora import PACKS, TINY, tiny_aurora

from zoo_core.catalog import find
from zoo_forecast.eval import evaluate
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring.options import SUITES, ForecastEvaluateOptions
from zoo_forecast.measuring.suite_run import evaluate_suite
from zoo_forecast.measuring.suites import Part, measure_part, prepare, published, suites, summary
from zoo_forecast.measuring.ways import naive_ways

needs_packs = pytest.mark.skipif(
    not Path(PACKS, "forecast/eval").is_dir(), reason="the data packs are not here: set ZOO_PACKS"
)
RULES = ("last_value", "seasonal_naive", "context_mean")
# set: windows of the first and the last horizon, then MSE and MAE of the three rules
TIMEMMD = {
    "agriculture": (94, 88, 0.199, 0.288, 0.571, 0.504, 2.717, 1.294),
    "climate": (94, 88, 2.018, 1.141, 1.723, 1.054, 1.084, 0.834),
    "economy": (79, 73, 0.051, 0.182, 0.022, 0.127, 2.133, 1.430),
    "economy, in time order": (79, 73, 0.321, 0.453, 0.280, 0.418, 0.964, 0.852),
    "energy": (284, 248, 0.237, 0.349, 0.640, 0.626, 0.753, 0.687),
    "environment": (3148, 2860, 0.542, 0.519, 0.546, 0.521, 0.294, 0.390),
    "health": (266, 230, 2.760, 1.096, 2.182, 0.976, 1.961, 1.031),
    "security": (54, 48, 116.2, 5.203, 127.3, 5.466, 87.86, 5.379),
    "socialgood": (173, 167, 1.007, 0.483, 1.675, 0.759, 2.386, 1.331),
    "traffic": (101, 95, 0.457, 0.519, 0.221, 0.259, 0.280, 0.437),
}


def spec(suite: str, name: str) -> dict[str, Any]:
    return next(one for one in suites()[suite]["sets"] if one["name"] == name)


def naive_figures(part: Part) -> dict[str, dict[str, Any]]:
    ways = {name: way for name, way in naive_ways().items() if name in RULES}
    measured = measure_part(part, ways, samples=1, seed=0, step=lambda _: None)
    return {name: summary(by_horizon) for name, by_horizon in measured.items()}


@needs_packs
@pytest.mark.parametrize("name", TIMEMMD)
def test_trivial_rules_on_timemmd(name: str) -> None:
    part = prepare(spec("timemmd", name))
    first, last, *golden = TIMEMMD[name]
    counts = [
        sum(w.origin + horizon <= len(part.series[0].values) for w in part.chosen) for horizon in part.spec["horizons"]
    ]
    assert (counts[0], counts[-1]) == (first, last)
    found = naive_figures(part)
    mine = [found[rule][metric] for rule in RULES for metric in ("mse", "mae")]
    assert mine == pytest.approx(golden, rel=5e-4, abs=5.1e-4)


@needs_packs
@pytest.mark.parametrize(("name", "mse", "mae"), [("etth1", 0.512, 0.433), ("etth2", 0.391, 0.380)])
def test_seasonal_naive_on_etth(name: str, mse: float, mae: float) -> None:
    part = prepare({**spec("etth", name), "horizons": [96]})
    assert len(part.chosen) == 7 * (2880 - 96 + 1)
    found = naive_figures(part)["seasonal_naive"]
    assert (found["mse"], found["mae"]) == pytest.approx((mse, mae), abs=5.1e-4)


@needs_packs
def test_naive_rules_on_m4() -> None:
    """Of whole sets the competition's own benchmarks (M4-methods) print 1.193 and 2.777 (from memory)."""
    hourly, weekly = (prepare(spec("m4", name)) for name in ("m4 hourly", "m4 weekly"))
    assert (len(hourly.chosen), len(weekly.chosen)) == (414, 359)  # one window a series
    assert naive_figures(hourly)["seasonal_naive"]["mase"] == pytest.approx(1.193, abs=5.1e-4)
    assert naive_figures(weekly)["last_value"]["mase"] == pytest.approx(2.777, abs=5.1e-4)
    by_name = sorted(hourly.chosen, key=lambda w: hourly.series[w.series].name)
    every_seventh = replace(hourly, chosen=by_name[::7])
    assert naive_figures(every_seventh)["seasonal_naive"]["mase"] == pytest.approx(1.074, abs=5.1e-4)


@needs_packs
@pytest.mark.parametrize(
    ("name", "mse", "mae"),
    [("NP", 0.440, 0.367), ("PJM", 0.127, 0.224), ("BE", 0.585, 0.361), ("FR", 0.552, 0.302), ("DE", 0.936, 0.620)],
)
def test_yesterday_on_epf(name: str, mse: float, mae: float) -> None:
    part = prepare(spec("epf", name))
    assert len(part.chosen) == 10_460  # as the paper has
    found = naive_figures(part)["seasonal_naive"]
    assert (found["mse"], found["mae"]) == pytest.approx((mse, mae), abs=5.1e-4)


@needs_packs
@pytest.mark.parametrize(
    ("suite", "name"),
    [("timemmd", "energy"), ("timemmd", "socialgood"), ("etth", "etth1"), ("m4", "m4 weekly"), ("illness", "illness")],
)
def test_validation_ends_where_the_test_begins(suite: str, name: str) -> None:
    tested, validated = prepare(spec(suite, name)), prepare(spec(suite, name), which="validation")
    assert len(validated.chosen) > 20
    assert validated.scale.tolist() == tested.scale.tolist()
    for w in validated.chosen:
        first_tested = int(np.argmax(tested.series[w.series].test))
        assert len(validated.series[w.series].values) == first_tested
        if "train" in validated.spec:  # what scales errors is not what is measured
            count = len(tested.series[w.series].values)
            train = validated.spec["train"]
            assert w.origin >= (train if isinstance(train, int) else int(train * count))


def test_suites_and_published_figures_agree_on_names() -> None:
    assert tuple(suites()) == SUITES
    names = {one["name"] for suite in suites().values() for one in suite["sets"]}
    assert set(published()["sets"]) <= names
    assert set(published()["means over a suite"]) <= set(SUITES)
    # the order of the file is the papers', so that only that set has their figures
    assert "economy, in time order" not in published()["sets"]


@needs_packs
def test_a_suite_reports_every_way_in_every_set() -> None:
    options = ForecastEvaluateOptions(suite="timemmd", every=30, samples=4, token_length=16, peers=False)
    report = evaluate_suite(Forecaster(tiny_aurora()), options, limit=2)
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert tuple(data["sets"]) == report.names == tuple(TIMEMMD)
    assert report.dataset == "timemmd, each 30th origin, the first 2"
    for name, one in data["sets"].items():
        assert set(one["ways"]) == {"ours", *naive_ways()}
        assert bool(one["paper"]) is (name != "economy, in time order")
        assert one["text"]["used"] is True
    assert set(data["naive"]["last_value"]) == set(data["metrics"])
    assert list(data["against_ours"]["last_value"]) == ["as published", "in time order"]
    assert data["against_paper"]["Aurora zero-shot, paper"]["sets"] == 9


@needs_packs
def test_the_command_measures_a_suite(tmp_path: Path) -> None:
    entry = find("aurora-base")
    small = entry.manifest.model_copy(update={"config": TINY})
    save_file({k: v.contiguous() for k, v in tiny_aurora().state_dict().items()}, tmp_path / "tiny.safetensors")
    options = ForecastEvaluateOptions(suite="m4", samples=4, token_length=16, peers=False)
    report = evaluate(
        replace(entry, manifest=small),
        None,
        weights=tmp_path / "tiny.safetensors",
        device="cpu",
        options=options,
        limit=3,
    )
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert (data["model"], data["dataset"], data["windows"]) == ("aurora-base", "m4, every window, the first 3", 6)
    assert set(data["sets"]["m4 hourly"]["series_below"]) == set(naive_ways())


@needs_packs
def test_channels_count_together_in_crps() -> None:
    """ProbTS divides by the magnitudes of all channels of an origin, so that a channel near zero does not dominate."""
    part = prepare(spec("illness", "illness"), every=40)
    (horizon, *_) = part.spec["horizons"]
    ways = {"last_value": naive_ways()["last_value"]}
    measured = measure_part(part, ways, samples=1, seed=0, step=lambda _: None)["last_value"]
    found = summary(measured)["by_horizon"][str(horizon)]["crps"]
    by_hand = []
    for origin in sorted({w.origin for w in part.chosen}):
        came = [one.values[origin : origin + horizon] for one in part.series]
        last = [one.values[origin - 1] for one in part.series]
        wrong = sum(np.abs(y - x).sum() for x, y in zip(last, came, strict=True))
        by_hand.append(wrong / sum(np.abs(y).sum() for y in came))
    assert found == pytest.approx(np.mean(by_hand))


@needs_packs
def test_series_of_m4_count_each_for_itself() -> None:
    part = prepare(spec("m4", "m4 weekly"))
    part = replace(part, chosen=part.chosen[:20])
    found = naive_figures(part)["last_value"]["crps"]
    by_hand = []
    for w in part.chosen:
        values = part.series[w.series].values
        came = values[w.origin : w.origin + 13]
        by_hand.append(np.abs(came - values[w.origin - 1]).sum() / np.abs(came).sum())
    assert found == pytest.approx(np.mean(by_hand))
