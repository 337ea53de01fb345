"""Measure a model on a pack: windows over the test parts of its series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo_core.errors import UsageError
from zoo_core.evaluate import Report, Table, Way, paired
from zoo_core.weights.files import sha256_of
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring import texts
from zoo_forecast.measuring.data import Tested, read_pack
from zoo_forecast.measuring.options import ForecastEvaluateOptions
from zoo_forecast.measuring.peers import failed, peer
from zoo_forecast.measuring.side_by_side import METRICS, Measured, measure, series_below
from zoo_forecast.measuring.ways import Model, model_ways, naive_ways
from zoo_forecast.measuring.windows import Window, resampled_together, told, windows

SHOWN = ("mae", "crps")  # with intervals; a second table has all
FIGURES = ("mse", "mae", "mase", "crps", "coverage80")
BY_WINDOW = (*FIGURES, "crps_energy")  # with a figure of each window in the report
DIGITS = dict.fromkeys(METRICS, 4)
WEIGHTING = (
    "every window (one series at one origin) counts once; in a window every observed point does; "
    "per_series counts every series once"
)


def evaluate_pack(
    forecaster: Forecaster,
    path: Path,
    options: ForecastEvaluateOptions,
    *,
    against: Sequence[str] = (),
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure a forecaster on a pack; arguments and errors as of `evaluate`.

    Returns:
        a report without the name of the model, with an example a window.
    """
    series = read_pack(path, rows=options.rows, freq=options.freq, covariates=options.covariate_names)
    found, empty = windows(
        series, context=options.context, horizon=options.horizon, stride=options.stride * options.every
    )
    chosen = found[:limit]
    if not chosen:
        raise UsageError(
            f"{path.name} has no window: no test part holds {options.horizon} points.",
            "Give a shorter --horizon, or mark the test part in a column is_test.",
        )
    has_texts = any(one.texts for one in series)
    model = Model(forecaster, options.samples, options.seed, _token_length(options), options.steps, options.context)
    ways = model_ways(model, options.texts, has_texts=has_texts) | naive_ways()
    ways |= {name: peer(name) for name in against}
    done, total = 0, len(chosen) * len(ways)

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    measured = measure(
        ways, series, chosen, context=options.context, horizons=[options.horizon], samples=options.samples,
        seed=options.seed, step=step,
    )  # fmt: skip
    flat = {name: by_horizon[options.horizon] for name, by_horizon in measured.items()}
    groups, drawn = resampled_together(chosen, horizon=options.horizon)
    made = {name: _way(name, one, groups) for name, one in flat.items()}
    ours = made.pop("ours")
    ours_measured = flat["ours"]
    text = texts.use(series, chosen, options.texts) | texts.effect(
        _text_differences(flat, groups),
        figures(ours_measured),
        {run: figures(flat[name]) for run, name in texts.RUNS.items() if name in flat},
    )
    naive = {name: figures(flat[name]) for name in naive_ways()}
    more: dict[str, Any] = {
        "metrics": figures(ours_measured),
        "naive": naive,
        "peers": {name: {**figures(flat[name]), "failed": failed(ways[name])} for name in against},
        "windows": len(chosen),
        "series": len({w.series for w in chosen}),
        "season": sorted({series[w.series].season for w in chosen}),
        "weighting": WEIGHTING,
        "resampled": drawn,
        "per_series": {name: _per_series(one, chosen) for name, one in flat.items()},
        "series_below": {
            name: {metric: series_below(ours_measured, one, chosen, metric) for metric in ("mase", "crps")}
            for name, one in flat.items()
            if name != "ours"
        },
        "calibration": calibration(ours_measured),
        "text": text,
        "data": _data(series, chosen, found, empty, options) | _unscored(ours_measured),
    }
    return Report(
        model="",
        dataset=path.name.removesuffix(".parquet"),
        protocol="",
        names=tuple(f"{series[w.series].name}@{w.origin}" for w in chosen),
        ours=ours,
        others=tuple(made.values()),
        digits=DIGITS,
        shown=SHOWN,
        more=more,
        tables=(_table(flat), *texts.table({path.stem: text})),
        facts={"data_sha256": sha256_of(path)},
    )


def _token_length(options: ForecastEvaluateOptions) -> int | None:
    return options.token_length if isinstance(options.token_length, int) else None


def figures(measured: Measured) -> dict[str, float]:
    """Return the means over windows, CRPS in its forms, and how many windows a metric could not score."""
    found = {metric: measured.mean(metric) for metric in METRICS}
    found |= {"nd": measured.mean("nd"), "crps_sums": measured.crps_sums}
    return found | {"seconds": round(measured.seconds, 3)}


def calibration(measured: Measured) -> dict[str, Any]:
    """Return coverage of the central intervals and the PIT histogram."""
    return {
        **{f"coverage{share}": measured.mean(f"coverage{share}") for share in (50, 80, 95)},
        "pit": measured.pit.tolist(),
    }


def _way(name: str, measured: Measured, groups: Sequence[str]) -> Way:
    values = {metric: np.nan_to_num(measured.figures[metric]).tolist() for metric in BY_WINDOW}
    weights = {
        metric: (~np.isnan(measured.figures[metric])).astype(float).tolist()
        for metric in BY_WINDOW
        if np.isnan(measured.figures[metric]).any()
    }
    return Way.of(name, values, seconds=measured.seconds, weights=weights, groups=groups)


def _per_series(measured: Measured, chosen: Sequence[Window]) -> dict[str, float]:
    """Return the means over series of the means over their windows."""
    labels = np.array([w.series for w in chosen])
    result = {}
    for metric in FIGURES:
        values = measured.figures[metric]
        means = [values[labels == n] for n in np.unique(labels)]
        scored = [float(np.nanmean(v)) for v in means if (~np.isnan(v)).any()]
        result[metric] = float(np.mean(scored)) if scored else float("nan")
    return result


def _text_differences(flat: Mapping[str, Measured], groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return true texts minus the other runs, paired window by window."""
    result: dict[str, dict[str, Any]] = {}
    for run, name in texts.RUNS.items():
        if name in flat:
            for metric in ("mse", "mae", "crps"):
                mine, theirs = flat["ours"].figures[metric], flat[name].figures[metric]
                scored = ~np.isnan(mine) & ~np.isnan(theirs)
                labels = [group for group, kept in zip(groups, scored, strict=True) if kept]
                difference = paired(mine[scored].tolist(), theirs[scored].tolist(), groups=labels)
                result.setdefault(run, {})[metric] = told(difference, labels)
    return result


def _data(
    series: Sequence[Tested], chosen: Sequence[Window], found: Sequence[Window], empty: int,
    options: ForecastEvaluateOptions,
) -> dict[str, Any]:  # fmt: skip
    notes: Counter[str] = sum((one.notes for one in series), Counter())
    points = sum(int(np.isnan(series[w.series].values[w.origin : w.origin + options.horizon]).sum()) for w in chosen)
    return {
        **notes,
        "series without a window": len(series) - len({w.series for w in found}),
        "windows left out, nothing observed": empty,
        "windows left out by --limit": len(found) - len(chosen),
        "every": options.every,
        "points not scored, nothing observed": points,
    }


def _unscored(measured: Measured) -> dict[str, int]:
    """Return how many windows a metric that divides by something could not score: a flat context, or truth of zeros."""
    return {f"windows not scored by {m}": int(np.isnan(measured.figures[m]).sum()) for m in ("mase", "crps")}


def _table(flat: Mapping[str, Measured]) -> Table:
    head = ("way", *FIGURES, "coverage50", "coverage95", "crps_energy", "seconds")
    rows = [
        (name, *(f"{one.mean(metric):.4f}" for metric in head[1:-1]), f"{one.seconds:.1f}")
        for name, one in flat.items()
    ]
    return Table("means over windows; crps in ProbTS' form, crps_energy in units of the series", (head, *rows))
