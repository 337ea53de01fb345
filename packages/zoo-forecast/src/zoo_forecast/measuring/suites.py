"""Published sets by their official protocols, beside the figures that papers print: `zoo eval ID --suite timemmd`.

`suites.json` holds the protocols: pack, split, context and token length, horizons, season. `published.json` holds what
papers print for the same protocol, each figure with its source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import numpy as np

from zoo_core.errors import UsageError
from zoo_core.evaluate import Report, Table, Way, paired
from zoo_core.io.packs import find_pack
from zoo_core.weights.files import sha256_of
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring.data import Tested, read_pack
from zoo_forecast.measuring.options import ForecastEvaluateOptions
from zoo_forecast.measuring.peers import installed, peer
from zoo_forecast.measuring.scores import Figures
from zoo_forecast.measuring.side_by_side import Measured, fitting, measure
from zoo_forecast.measuring.ways import Method, Model, model_ways, naive_ways
from zoo_forecast.measuring.windows import Window, resampled_together, told, windows

PACKS_BELOW = "forecast/eval"
FIGURES = ("mse", "mae", "mase", "crps", "coverage80")
MORE = ("crps_energy", "coverage50", "coverage95", "nd")  # crps_energy in the unit of mae
DIGITS = dict.fromkeys((*FIGURES, *MORE), 4)
WEIGHTING = "a set's figure is the mean over its horizons of the mean over its windows; every set counts once"
TEXTS = {"none": "ours, no text", "shuffled": "ours, shuffled text"}


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
    """Return the protocols."""
    return _data("suites.json")


def published() -> dict[str, Any]:
    """Return the figures that papers print: by set, and as means over whole suites."""
    return _data("published.json")


def _data(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("zoo_forecast.measuring").joinpath(name).read_text(encoding="utf-8"))
    return found


def prepare(spec: Mapping[str, Any], *, every: int = 1, covariates: Sequence[str] = ()) -> Part:
    """Read a set and cut it as its protocol says.

    Args:
        spec: from `suites.json`.
        every: take each so many-th origin; all channels have the same ones.
        covariates: columns to keep.

    Raises:
        UsageError: the pack is not below ZOO_PACKS, or has no such column.
    """
    path = find_pack(str(spec["pack"]), below=PACKS_BELOW)
    read = read_pack(
        path, rows=spec.get("rows", "file"), season=spec["season"], covariates=covariates, item=spec.get("item")
    )
    cut = [_split(one, spec) for one in read]
    series = [one for one, _ in cut]
    chosen, _ = windows(series, context=spec["context"], horizon=min(spec["horizons"]), stride=every)
    return Part(spec, series, np.array([scale for _, scale in cut]), chosen, sha256_of(path))


def _split(one: Tested, spec: Mapping[str, Any]) -> tuple[Tested, float]:
    """Return a series with its test part, cut where that ends, and what its errors are divided by."""
    if spec.get("drop_missing"):
        kept = ~np.isnan(one.values)
        texts = tuple(text for text, keep in zip(one.texts, kept, strict=False) if keep)
        one = replace(
            one, values=one.values[kept], test=one.test[kept], texts=texts, covariates=one.covariates[:, kept]
        )
    if "test" not in spec:
        return one, 1.0
    count = len(one.values)
    test, train = spec["test"], spec["train"]
    first, last = test if isinstance(test, list) else (count - int(test * count), count)
    trained = one.values[: train if isinstance(train, int) else int(train * count)]
    one = replace(
        one, values=one.values[:last], test=np.arange(last) >= first, texts=one.texts[:last],
        covariates=one.covariates[:, :last],
    )  # fmt: skip
    return one, float(np.nanstd(trained)) or 1.0


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
            for metric, power in (("mse", 2), ("mae", 1), ("crps_energy", 1)):
                measured.figures[metric] = measured.figures[metric] / scale**power
    return found


def summary(part: Part, by_horizon: Mapping[int, Measured]) -> dict[str, Any]:
    """Return a way's figures on a set: means over the horizons of the means over all windows.

    CRPS is taken of all channels of an origin together, as ProbTS does, and then averaged over origins.
    """
    each = []
    for horizon, measured in by_horizon.items():
        rows = fitting(part.series, part.chosen, horizon)
        found = {metric: measured.mean(metric) for metric in (*FIGURES, *MORE)}
        found["crps"] = _joint(measured, [part.chosen[row].origin for row in rows])
        each.append(found)
    means = {metric: float(np.mean([found[metric] for found in each])) for metric in (*FIGURES, *MORE)}
    return {**means, "by_horizon": dict(zip(map(str, by_horizon), each, strict=True))}


def _joint(measured: Measured, origins: Sequence[int]) -> float:
    labels = np.unique(np.array(origins), return_inverse=True)[1]
    losses = np.bincount(labels, measured.figures["quantile_loss"])
    magnitudes = np.bincount(labels, measured.figures["magnitude"])
    kept = magnitudes > 0
    return float((losses[kept] / magnitudes[kept]).mean()) if kept.any() else float("nan")


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


def evaluate_suite(
    forecaster: Forecaster,
    options: ForecastEvaluateOptions,
    *,
    against: Sequence[str] = (),
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure a forecaster on a suite.

    Args:
        forecaster: the model.
        options: with a suite.
        against: peers, beside those that are installed (unless `--no-peers`).
        limit: only the first windows of each set.
        progress: told how many windows of all ways are done, of how many.

    Returns:
        a report without the name of the model, with an example a set; the sets' own figures are in `more`.

    Raises:
        UsageError: a pack of the suite is not there; no such peer.
        MissingDependencyError: a peer that was asked for is not installed.
    """
    suite = str(options.suite)
    protocol = suites()[suite]
    others = list(dict.fromkeys([*against, *(installed() if options.peers else [])]))
    peers = {name: peer(name) for name in others}
    specs = [{**spec, "every": options.every} for spec in protocol["sets"]]
    parts = [prepare(spec, every=options.every, covariates=options.covariate_names) for spec in specs]
    parts = [replace(part, chosen=part.chosen[:limit]) for part in parts]
    if empty := [part.name for part in parts if not part.chosen]:
        raise UsageError(f"The set {empty[0]} has no window.")
    done, total = 0, _count(parts, options, len(peers))

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    found: dict[str, dict[str, dict[int, Measured]]] = {}
    for part in parts:
        ways = _model_ways(forecaster, part, options) | naive_ways() | peers
        found[part.name] = measure_part(part, ways, samples=options.samples, seed=options.seed, step=step)
    return report(suite, protocol["says"], parts, found, options, list(peers))


def _model_ways(forecaster: Forecaster, part: Part, options: ForecastEvaluateOptions) -> dict[str, Method]:
    length = options.token_length
    points = part.spec["token_length"] if length is None else None if isinstance(length, str) else length
    model = Model(forecaster, options.samples, options.seed, points, part.spec["context"])
    return model_ways(model, options.texts, has_texts=any(one.texts for one in part.series))


def _count(parts: Sequence[Part], options: ForecastEvaluateOptions, peers: int) -> int:
    per_window = len(naive_ways()) + peers
    ours = {True: 3 if options.texts == "all" else 1, False: 1}
    return sum(len(part.chosen) * (per_window + ours[any(one.texts for one in part.series)]) for part in parts)


def report(
    suite: str, says: str, parts: Sequence[Part], found: Mapping[str, Mapping[str, Mapping[int, Measured]]],
    options: ForecastEvaluateOptions, peers: Sequence[str],
) -> Report:  # fmt: skip
    """Put a suite's figures together."""
    printed = published()
    sets: dict[str, Any] = {}
    for part in parts:
        ways = found[part.name]
        sets[part.name] = {
            "windows": {str(h): len(fitting(part.series, part.chosen, h)) for h in part.spec["horizons"]},
            "protocol": dict(part.spec),
            "ways": {name: summary(part, by_horizon) for name, by_horizon in ways.items()},
            "paper": printed["sets"].get(part.name, []),
            "ours_minus": {
                name: differences(part, ways["ours"], other) for name, other in ways.items() if name != "ours"
            },
            "calibration": {
                "pit": np.mean([m.pit for m in ways["ours"].values()], axis=0).tolist(),
                **{f"coverage{share}": summary(part, ways["ours"])[f"coverage{share}"] for share in (50, 80, 95)},
            },
            "text": text_of(part, ways, options),
        }
    everywhere = [name for name in sets[parts[0].name]["ways"] if all(name in one["ways"] for one in sets.values())]
    means = {name: _means(parts, sets, name) for name in everywhere}
    seconds = {name: sum(next(iter(found[p.name][name].values())).seconds for p in parts) for name in everywhere}
    made = {
        name: Way.of(
            name,
            {metric: [sets[part.name]["ways"][name][metric] for part in parts] for metric in FIGURES},
            seconds=seconds[name],
        )
        for name in everywhere
    }
    taken = "every window" if options.every == 1 else f"each {options.every}th origin"
    return Report(
        model="",
        dataset=f"{suite}, {taken}",
        protocol="",
        names=tuple(part.name for part in parts),
        ours=made.pop("ours"),
        others=tuple(made.values()),
        digits=DIGITS,
        shown=("mae", "crps"),
        more={
            "suite": suite,
            "says": says,
            "every": options.every,
            "windows": sum(sum(one["windows"].values()) for one in sets.values()),
            "metrics": means["ours"],
            "naive": {name: means[name] for name in naive_ways()},
            "peers": {name: means[name] for name in peers},
            "paper": printed["means over a suite"].get(suite, []),
            "weighting": WEIGHTING,
            "against_ours": {name: _verdict(parts, sets, name) for name in everywhere if name != "ours"},
            "against_paper": _against_paper(parts, sets),
            "sets": sets,
        },
        tables=(*(_table(part, sets[part.name], taken) for part in parts), _overview(parts, sets, everywhere)),
        facts={"data_sha256": {part.name: part.sha256 for part in parts}},
    )


def text_of(part: Part, ways: Mapping[str, Mapping[int, Measured]], options: ForecastEvaluateOptions) -> dict[str, Any]:
    """Return how text was used in a set, and whether true text was better than none and than shuffled text."""
    with_text = sum(part.series[w.series].text(w.origin) is not None for w in part.chosen)
    if not with_text or options.texts == "none":
        return {"used": False, "origins_with_text": with_text}
    result: dict[str, Any] = {"used": True, "run": options.texts, "origins_with_text": with_text}
    for short, name in TEXTS.items():
        if name in ways:
            result[f"true_minus_{short}"] = differences(part, ways["ours"], ways[name])
    if options.texts == "all":
        apart = [result[f"true_minus_{short}"]["crps"] for short in TEXTS]
        result["helps"] = all(one["mean"] < 0 and one["p"] < 0.05 for one in apart)
    return result


def _orders(parts: Sequence[Part]) -> dict[str, list[str]]:
    """Return which sets count in a mean: those of the papers, and those where another order takes a set's place."""
    replaced = {part.spec["instead_of"]: part.name for part in parts if "instead_of" in part.spec}
    plain = [part.name for part in parts if "instead_of" not in part.spec]
    if not replaced:
        return {"all sets": plain}
    return {
        "as published": plain,
        "in time order": [replaced.get(name, name) for name in plain],
    }


def _means(parts: Sequence[Part], sets: Mapping[str, Any], name: str) -> dict[str, float]:
    """Return plain means over the sets, the ones in time order, and the geometric means of MAE."""
    orders = _orders(parts)
    last = list(orders.values())[-1]
    means = {metric: float(np.mean([sets[one]["ways"][name][metric] for one in last])) for metric in (*FIGURES, *MORE)}
    for order, members in orders.items():
        maes = [sets[one]["ways"][name]["mae"] for one in members]
        means[f"geometric mean of mae, {order}"] = float(np.exp(np.mean(np.log(maes)))) if min(maes) > 0 else 0.0
    return means


def _verdict(parts: Sequence[Part], sets: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return in how many sets ours is below another way."""
    result: dict[str, Any] = {}
    for order, members in _orders(parts).items():
        pairs = [(sets[one]["ways"]["ours"], sets[one]["ways"][name]) for one in members]
        result[order] = {
            "sets": len(pairs),
            "crps below": sum(a["crps"] < b["crps"] for a, b in pairs),
            "mse and mae below": sum(a["mse"] < b["mse"] and a["mae"] < b["mae"] for a, b in pairs),
        }
    return result


def _against_paper(parts: Sequence[Part], sets: Mapping[str, Any]) -> dict[str, Any]:
    """Return in how many sets ours is below each row of a paper in MSE and MAE both."""
    result: dict[str, Any] = {}
    for part in parts:
        ours = sets[part.name]["ways"]["ours"]
        for row in sets[part.name]["paper"]:
            if "mse" in row:
                count = result.setdefault(row["way"], {"sets": 0, "mse and mae below": 0, "which": []})
                count["sets"] += 1
                if ours["mse"] < row["mse"] and ours["mae"] < row["mae"]:
                    count["mse and mae below"] += 1
                    count["which"].append(part.name)
    return result


def _table(part: Part, found: Mapping[str, Any], taken: str) -> Table:
    head = ("way", *FIGURES, "ours minus this: mae", "p")
    rows = [(row["way"], *(_shown(row, metric) for metric in FIGURES), "", "") for row in found["paper"]]
    for name, figures in found["ways"].items():
        apart = found["ours_minus"].get(name)
        difference = (
            (f"{apart['mae']['mean']:+.4f}", f"{apart['mae']['p']:.4f}".replace("nan", "")) if apart else ("", "")
        )
        rows.append((name, *(f"{figures[metric]:.4f}" for metric in FIGURES), *difference))
    counts = " ".join(f"{horizon}:{count}" for horizon, count in found["windows"].items())
    title = f"{part.name}: context {part.spec['context']}, windows by horizon {counts} ({taken})"
    return Table(title, (head, *rows))


def _overview(parts: Sequence[Part], sets: Mapping[str, Any], names: Sequence[str]) -> Table:
    orders = _orders(parts)
    head = (
        "over the sets",
        *(f"geometric mean of mae, {o}" for o in orders),
        *(f"ours has less crps, {o}" for o in orders),
    )
    rows = []
    for name in names:
        means = _means(parts, sets, name)
        verdict = _verdict(parts, sets, name)
        cells = [f"{means[column]:.4f}" for column in head[1 : 1 + len(orders)]]
        cells += ["" if name == "ours" else f"{one['crps below']} of {one['sets']}" for one in verdict.values()]
        rows.append((name, *cells))
    for way, count in _against_paper(parts, sets).items():
        less = f"mse and mae both less: {count['mse and mae below']} of {count['sets']}"
        rows.append((way, *[""] * (len(head) - 2), less))
    return Table("all sets", (head, *rows))


def _shown(row: Mapping[str, Any], metric: str) -> str:
    return f"{row[metric]:g}" if metric in row else ""
