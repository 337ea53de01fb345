"""Published sets by their official protocols, beside the figures that papers print: `zoo eval ID --suite timemmd`.

`suites.json` holds the protocols: pack, split, context and token length, horizons, season. `published.json` holds what
papers print for the same protocol, each figure with its source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Literal, TypeAlias

import numpy as np

from zoo_core.evaluate import paired
from zoo_core.io.packs import find_pack
from zoo_core.weights.files import sha256_of
from zoo_forecast.measuring.data import Tested, read_pack
from zoo_forecast.measuring.scores import Figures
from zoo_forecast.measuring.side_by_side import Measured, fitting, measure
from zoo_forecast.measuring.ways import Method
from zoo_forecast.measuring.windows import Window, resampled_together, told, windows

PACKS_BELOW = "forecast/eval"
FIGURES = ("mse", "mae", "mase", "crps", "coverage80")
Which: TypeAlias = Literal["test", "validation"]
MORE = ("mae_of_mean", "crps_energy", "coverage50", "coverage95", "nd")  # crps_energy in the unit of mae


@dataclass(frozen=True, eq=False)
class Part:
    """One set of a suite, ready to be measured.

    Args:
        spec: its protocol, from `suites.json`.
        series: cut where the test part ends.
        scale: (series,) what errors are divided by: standard deviations of the train parts, or ones.
        chosen: windows of the shortest horizon.
        sha256: of the pack.
    """

    spec: Mapping[str, Any]
    series: Sequence[Tested]
    scale: Figures
    chosen: Sequence[Window]
    sha256: str

    @property
    def name(self) -> str:
        """What the tables call it."""
        return str(self.spec["name"])


def suites() -> dict[str, Any]:
    """Return the protocols; `all` has the sets of all others."""
    found = _data("suites.json")
    distinct = {one["name"]: one for suite in found.values() for one in suite["sets"]}
    return found | {"all": {"says": "every set by the protocol of its own suite", "sets": list(distinct.values())}}


def published() -> dict[str, Any]:
    """Return the figures that papers print: by set, and as means over whole suites."""
    return _data("published.json")


def _data(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("zoo_forecast.measuring").joinpath(name).read_text(encoding="utf-8"))
    return found


def prepare(spec: Mapping[str, Any], *, every: int = 1, covariates: Sequence[str] = (), which: Which = "test") -> Part:
    """Read a set and cut it as its protocol says.

    Args:
        spec: from `suites.json`.
        every: take each so many-th origin; all channels have the same ones.
        covariates: columns to keep.
        which: validation is what lies between train and test part, or, of series without a train part, the longest
            horizon before the test part.

    Raises:
        UsageError: the pack is not below ZOO_PACKS, or has no such column.
    """
    path = find_pack(str(spec["pack"]), below=PACKS_BELOW)
    read = read_pack(
        path, rows=spec.get("rows", "file"), season=spec["season"], covariates=covariates, item=spec.get("item")
    )
    cut = [_split(one, spec, which) for one in read]
    series = [one for one, _ in cut]
    chosen, _ = windows(series, context=spec["context"], horizon=min(spec["horizons"]), stride=every)
    return Part(spec, series, np.array([scale for _, scale in cut]), chosen, sha256_of(path))


def _split(one: Tested, spec: Mapping[str, Any], which: Which) -> tuple[Tested, float]:
    """Return a series with the part to be measured, cut where that ends, and what its errors are divided by."""
    if spec.get("drop_missing"):
        kept = ~np.isnan(one.values)
        texts = tuple(text for text, keep in zip(one.texts, kept, strict=False) if keep)
        one = replace(
            one, values=one.values[kept], test=one.test[kept], texts=texts, covariates=one.covariates[:, kept]
        )
    count, scale = len(one.values), 1.0
    if "test" in spec:
        test, train = spec["test"], spec["train"]
        first, last = test if isinstance(test, list) else (count - int(test * count), count)
        trained = train if isinstance(train, int) else int(train * count)
        scale = float(np.nanstd(one.values[:trained])) or 1.0
    else:
        first, last = (int(np.argmax(one.test)) if one.test.any() else count), count
        trained = max(first - max(spec["horizons"]), 0)
    if which == "validation":
        first, last = trained, first
    return replace(
        one, values=one.values[:last], test=np.arange(last) >= first, texts=one.texts[:last],
        covariates=one.covariates[:, :last],
    ), scale  # fmt: skip


def measure_part(
    part: Part, ways: Mapping[str, Method], *, samples: int, seed: int, step: Callable[[int], None]
) -> dict[str, dict[int, Measured]]:
    """Measure ways on a set: way -> horizon -> figures by window, errors in the protocol's scale."""
    horizons = part.spec["horizons"]
    found = measure(
        ways, part.series, part.chosen, context=part.spec["context"], horizons=horizons, samples=samples, seed=seed,
        step=step,
    )  # fmt: skip
    for by_horizon in found.values():
        for horizon, measured in by_horizon.items():
            rows = fitting(part.series, part.chosen, horizon)
            scale = part.scale[[part.chosen[row].series for row in rows]]
            for metric, power in (("mse", 2), ("mae", 1), ("mae_of_mean", 1), ("crps_energy", 1)):
                measured.figures[metric] = measured.figures[metric] / scale**power
            if part.spec.get("channels_together"):
                origins = [part.chosen[row].origin for row in rows]
                for metric, loss in (("crps", "quantile_loss"), ("nd", "absolute_loss")):
                    measured.figures[metric] = _together(measured.figures[loss], measured.figures["magnitude"], origins)
    return found


def _together(losses: Figures, magnitudes: Figures, origins: Sequence[int]) -> Figures:
    """Return each window's share in the ratio of its origin, so that their mean is the mean ratio over origins.

    ProbTS divides the losses of all channels at an origin by the magnitudes of all: a channel near zero does not rule.
    """
    labels = np.unique(np.array(origins), return_inverse=True)[1]
    whole = np.bincount(labels, magnitudes)[labels]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(whole > 0, losses * np.bincount(labels)[labels] / whole, np.nan))


def summary(by_horizon: Mapping[int, Measured]) -> dict[str, Any]:
    """Return a way's figures on a set: means over the horizons of the means over all windows."""
    each = [{metric: measured.mean(metric) for metric in (*FIGURES, *MORE)} for measured in by_horizon.values()]
    means = {metric: float(np.mean([found[metric] for found in each])) for metric in (*FIGURES, *MORE)}
    return {**means, "by_horizon": dict(zip(map(str, by_horizon), each, strict=True))}


def differences(part: Part, mine: Mapping[int, Measured], theirs: Mapping[int, Measured]) -> dict[str, Any]:
    """Return ours minus another way in MSE, MAE and CRPS, paired by blocks of windows; horizons weigh the same."""
    values: dict[str, list[float]] = {"mse": [], "mae": [], "crps": []}
    weights: dict[str, list[float]] = {metric: [] for metric in values}
    groups: list[str] = []
    labels, drawn = resampled_together(part.chosen, horizon=max(mine))
    for horizon, measured in mine.items():
        rows = fitting(part.series, part.chosen, horizon)
        groups += [labels[row] for row in rows]
        for metric, found in values.items():
            apart = measured.figures[metric] - theirs[horizon].figures[metric]
            seen = ~np.isnan(apart)
            found += np.nan_to_num(apart).tolist()
            weights[metric] += (seen / max(int(seen.sum()), 1)).tolist()
    zero = [0.0] * len(groups)
    result: dict[str, Any] = {
        metric: told(paired(found, zero, weights=weights[metric], groups=groups), groups)
        for metric, found in values.items()
    }
    return {**result, "resampled": drawn}
