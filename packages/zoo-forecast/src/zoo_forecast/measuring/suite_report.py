"""What a suite says: figures of every set, means over them, verdicts, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo_core.evaluate import Report, Table, Way
from zoo_forecast.measuring import texts
from zoo_forecast.measuring.options import ForecastEvaluateOptions
from zoo_forecast.measuring.peers import MODULES, failed, installed
from zoo_forecast.measuring.side_by_side import Measured, fitting, series_below
from zoo_forecast.measuring.suites import FIGURES, MORE, Part, differences, published, summary
from zoo_forecast.measuring.ways import Method, naive_ways

WEIGHTING = "a set's figure is the mean over its horizons of the mean over its windows; every set counts once"
DIGITS = dict.fromkeys((*FIGURES, *MORE), 4)
SIMPLE = ("last_value", "seasonal_naive")


def report(
    suite: str, says: str, parts: Sequence[Part], found: Mapping[str, Mapping[str, Mapping[int, Measured]]],
    options: ForecastEvaluateOptions, peers: Mapping[str, Method], *, limit: int | None = None,
) -> Report:  # fmt: skip
    """Put a suite's figures together.

    Args:
        suite: its name.
        says: its protocol in words.
        parts: its sets.
        found: set -> way -> horizon -> figures.
        options: what was asked for.
        peers: that were measured.
        limit: of windows of a set, for the title.
    """
    printed = published()
    sets: dict[str, Any] = {}
    for part in parts:
        ways = found[part.name]
        figures = {name: summary(by_horizon) for name, by_horizon in ways.items()}
        sets[part.name] = {
            "windows": {str(h): len(fitting(part.series, part.chosen, h)) for h in part.spec["horizons"]},
            "protocol": dict(part.spec),
            "ways": figures,
            "paper": printed["sets"].get(part.name, []),
            "ours_minus": {
                name: differences(part, ways["ours"], other) for name, other in ways.items() if name != "ours"
            },
            "series_below": {
                name: {metric: _series_below(part, ways["ours"], other, metric) for metric in ("mase", "crps")}
                for name, other in ways.items()
                if name != "ours"
            },
            "calibration": {
                "pit": np.mean([m.pit for m in ways["ours"].values()], axis=0).tolist(),
                **{f"coverage{share}": figures["ours"][f"coverage{share}"] for share in (50, 80, 95)},
            },
            "text": _text(part, ways, figures, options.texts),
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
    absent = [name for name in MODULES if name not in peers and name not in installed()] if options.peers else []
    taken = "every window" if options.every == 1 else f"each {options.every}th origin"
    taken += f", the first {limit}" if limit is not None else ""
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
            "peers": {name: {**means[name], "failed": failed(method)} for name, method in peers.items()},
            "peers_not_installed": absent,
            "paper": printed["means over a suite"].get(suite, []),
            "weighting": WEIGHTING,
            "against_ours": {name: _verdict(parts, sets, name) for name in everywhere if name != "ours"},
            "against_paper": _against_paper(parts, sets),
            "crps_below_all_of": {" and ".join(SIMPLE): _below_all(parts, sets)},
            "sets": sets,
        },
        tables=(
            *(_table(part, sets[part.name], taken) for part in parts),
            *texts.table({part.name: sets[part.name]["text"] for part in parts}),
            _overview(suite, parts, sets, everywhere, absent),
        ),
        facts={"data_sha256": {part.name: part.sha256 for part in parts}},
    )


def _series_below(
    part: Part, mine: Mapping[int, Measured], theirs: Mapping[int, Measured], metric: str
) -> dict[str, float]:
    """Return by horizon in which share of the series ours has the lower mean."""
    return {
        str(horizon): series_below(
            one, theirs[horizon], [part.chosen[row] for row in fitting(part.series, part.chosen, horizon)], metric
        )
        for horizon, one in mine.items()
    }


def _text(
    part: Part, ways: Mapping[str, Mapping[int, Measured]], figures: Mapping[str, Any], run: str
) -> dict[str, Any]:
    """Return how text was used in a set, and what it changed."""
    measured = {run: name for run, name in texts.RUNS.items() if name in ways}
    return texts.use(part.series, part.chosen, run) | texts.effect(
        {run: differences(part, ways["ours"], ways[name]) for run, name in measured.items()},
        figures["ours"],
        {run: figures[name] for run, name in measured.items()},
    )


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
    title += f"; {part.spec['note']}" if "note" in part.spec else ""
    return Table(title, (head, *rows))


def _below_all(parts: Sequence[Part], sets: Mapping[str, Any]) -> dict[str, str]:
    """Return in how many sets ours has less CRPS than each of the simple rules."""
    result = {}
    for order, members in _orders(parts).items():
        ways = [sets[one]["ways"] for one in members]
        count = sum(all(way["ours"]["crps"] < way[rule]["crps"] for rule in SIMPLE) for way in ways)
        result[order] = f"{count} of {len(ways)}"
    return result


def _overview(
    suite: str, parts: Sequence[Part], sets: Mapping[str, Any], names: Sequence[str], absent: Sequence[str]
) -> Table:
    orders = _orders(parts)
    plain = ("mse", "mae", "coverage80")
    geometric = [f"geometric mean of mae, {order}" for order in orders]
    head = ("way", *plain, *geometric, *(f"ours has less crps, {o}" for o in orders), "ours has less mse and mae")
    rows = []
    for row in published()["means over a suite"].get(suite, []):
        rows.append((row["way"], *(_shown(row, metric) for metric in plain), *[""] * (len(head) - 4)))
    for way, count in _against_paper(parts, sets).items():
        rows.append((way, *[""] * (len(head) - 2), f"{count['mse and mae below']} of {count['sets']}"))
    for name in names:
        means, verdict = _means(parts, sets, name), list(_verdict(parts, sets, name).values())
        cells = [f"{means[column]:.4f}" for column in (*plain, *geometric)]
        less = [f"{one['crps below']} of {one['sets']}" for one in verdict]
        both = f"{verdict[-1]['mse and mae below']} of {verdict[-1]['sets']}"
        rows.append((name, *cells, *([""] * (len(less) + 1) if name == "ours" else [*less, both])))
    missing = f'; not installed: {", ".join(absent)} (pip install "zoo-forecast[peers]")' if absent else ""
    return Table(f"means over the sets, {list(orders)[-1]}{missing}", (head, *rows))


def _shown(row: Mapping[str, Any], metric: str) -> str:
    return f"{row[metric]:g}" if metric in row else ""
