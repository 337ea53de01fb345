"""Print the figures that Aurora small is judged by, and keep them: one weight file a seed, beside rules and peers.

    uv run tools/forecast_figures.py --part test                                           # of the published weights
    uv run tools/forecast_figures.py small-1.safetensors small-2.safetensors --peers peers.json -o figures.json
    uv run tools/forecast_figures.py --peers peers.json --measure-peers autoets fracast    # peers alone, once

    uv run tools/forecast_figures.py large.safetensors --model aurora-small-10m --peers peers.json -o figures.json

    uv run tools/forecast_figures.py --draw     # the tables of figures-*.json in models/ID into the docs

Drawn are the tables of aurora-small, and of a larger network how far it differs from them, if its figures are kept.

`--part validation` (the default) reads what lies between the train and the test part of each set: models, texts and
token lengths are chosen by it. `--part test` is for the end, once. Windows: every origin of TimeMMD but Environment; of
the others about `--windows`, each as many origins apart as the next prime says, so that all phases of a day come; of
the comparisons with papers (TimeMMD, ETTh, EPF) every origin on the test part. Peers take long, so that their figures
are kept in a file by set, part and distance of the origins.

Forecasts are the quantile head's alone (steps=0). That is no shortcut: the paths of the flow are those same quantiles
in another order, so that CRPS from quantiles, coverage, the median's MAE and the mean's MSE do not depend on the steps.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from zoo_core.catalog import find
from zoo_core.errors import MissingDependencyError
from zoo_core.io.atomic import whole
from zoo_core.train.record import commit, versions
from zoo_core.weights.files import sha256_of
from zoo_forecast import minilm
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.light_tower import minilm_or_light
from zoo_forecast.measuring.peers import MODULES, failed, peer
from zoo_forecast.measuring.suites import Part, Which, measure_part, prepare, published, suites, summary
from zoo_forecast.measuring.ways import Method, Model, model_ways, naive_ways
from zoo_forecast.small_exam import Exam, events

ROOT = Path(__file__).resolve().parents[1]
PAGE, MODELS = ROOT / "docs/forecast-small.md", ROOT / "models"
SMALL, LARGER = "aurora-small", ("aurora-small-10m",)
SAMPLES = 50  # quantiles that stand for a forecast, in the middle of equal shares
ALL_ORIGINS = 2_000  # windows: of validation, instead of all origins
EVENTS = {"validation": 0, "test": 1}  # seed of the made series that a text tells of
COVARIATES = ("exog1", "exog2")
RULES = ("last_value", "seasonal_naive")
SEEDS = "ours"
AURORA = "Aurora zero-shot, paper"


class Bar(NamedTuple):
    """What a figure is held to.

    Args:
        says: the figure.
        floor: the least, or a range.
        aim: what is hoped for.
        more: more is better.
        against_paper: only the test part has it.
    """

    says: str
    floor: float | tuple[float, float]
    aim: float | tuple[float, float]
    more: bool = False
    against_paper: bool = False

    def reached(self, value: float, what: float | tuple[float, float]) -> bool:
        """Say whether a value is on the right side."""
        if isinstance(what, tuple):
            return what[0] <= value <= what[1]
        return value >= what if self.more else value <= what

    def verdict(self, value: float) -> str:
        """Say which of the two a value reaches."""
        return "aim" if self.reached(value, self.aim) else "floor" if self.reached(value, self.floor) else "no"


BARS = {
    "naive": Bar("share of sets, CRPS below seasonal naive and last value", 0.75, 1.0, more=True),
    "autoets": Bar("share of sets, CRPS below AutoETS", 0.5, 0.8, more=True),
    "timemmd": Bar("TimeMMD domains of 9, MSE and MAE below published Aurora", 4, 7, more=True, against_paper=True),
    "fracast": Bar("geometric-mean MAE on TimeMMD over fracast's", 1.05, 1.0),
    "coverage": Bar("coverage of the 80 % interval, mean of all sets", (0.72, 0.88), (0.76, 0.84)),
    "text": Bar("CRPS with text over without, events in held-out phrases", 0.85, 0.75),
    "etth1": Bar("ETTh1 MSE, H=96", 0.44, 0.39, against_paper=True),
    "etth2": Bar("ETTh2 MSE, H=96", 0.34, 0.30, against_paper=True),
    "epf": Bar("EPF markets of 5, MSE and MAE with covariates below Table 4", 3, 5, more=True, against_paper=True),
}


def main() -> None:
    """Measure, print, keep."""
    options = arguments()
    if options.draw:
        draw()
        return
    begin = time.perf_counter()
    which: Which = options.part
    known = json.loads(options.peers.read_text()) if options.peers and options.peers.is_file() else {}
    chosen = [spec for spec in suites()["all"]["sets"] if not options.sets or spec["name"] in options.sets]
    if options.measure_peers:
        measure_peers(chosen, which, options.measure_peers, known, options)
    if not options.weights:
        return
    forecasters = [Forecaster.load(options.model, weights=path, device=options.device) for path in options.weights]
    record: dict[str, Any] = {
        "model": options.model,
        "part": which,
        "texts": options.texts,
        "reader": reader(),
        "token_length": options.tokens,
        "steps": 0,
        "quantiles": SAMPLES,
        "weights": {path.name: sha256_of(path) for path in options.weights},
        "sets": {},
        "every origin": {},
    }
    for spec in chosen:
        every = apart(spec, which, options.windows)
        part = prepare(spec, every=every, which=which)
        found = ways(forecasters, part, every, options)
        found["ways"] |= {name: known[key] for name in MODULES if (key := peer_key(part, which, every, name)) in known}
        record["sets"][spec["name"]] = found
        say(f"{spec['name']}: {found['seconds']:.0f} s")
    suite = {name: {one["name"] for one in suites()[name]["sets"]} for name in ("timemmd", "etth", "epf")}
    for spec in chosen:
        name = spec["name"]
        if not any(name in sets for sets in suite.values()):
            continue
        spec = {**spec, "horizons": [96]} if name in suite["etth"] else spec
        every = 1 if which == "test" else apart(spec, which, ALL_ORIGINS)
        if name in suite["timemmd"] and record["sets"][name]["every"] == every:
            record["every origin"][name] = record["sets"][name]
            continue
        covariates = COVARIATES if name in suite["epf"] else ()
        found = ways(forecasters, prepare(spec, every=every, which=which, covariates=covariates), every, options)
        record["every origin"][name] = found
        say(f"{name}, for the papers' rows: {found['seconds']:.0f} s")
    record["text"] = [told(one, which, options.events) for one in forecasters] if options.events else []
    seconds = time.perf_counter() - begin
    record |= {"seconds": seconds, "versions": versions("zoo-forecast"), "commit": commit()}
    record["figures"] = {name: value for name, value in figures(record).items() if value}
    if options.output:
        with whole(options.output, overwrite=True) as aside:
            aside.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "weights", type=Path, nargs="*", help="one file a seed; default: the published one, beside the kept peers"
    )
    parser.add_argument("--model", choices=(SMALL, *LARGER), default=SMALL, help="whose weights they are")
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--peers", type=Path, help="file of the peers' figures")
    parser.add_argument("--measure-peers", nargs="+", choices=tuple(MODULES), help="those that the file lacks")
    parser.add_argument(
        "--texts", choices=("true", "shuffled", "none"), default="none", help="of TimeMMD: own, of other origins, none"
    )
    parser.add_argument("--tokens", choices=("model", "suite"), default="model", help="whose token lengths")
    parser.add_argument("--windows", type=int, default=160, help="of a set that is not measured at every origin")
    parser.add_argument("--events", type=int, default=1000, help="made series with an event; 0 for none")
    parser.add_argument("--sets", nargs="+", help="only these: a rehearsal")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--draw", action="store_true", help="only the docs, from what was kept")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.measure_peers and not options.peers:
        parser.error("--measure-peers needs --peers FILE, where the figures are kept")
    if not options.weights and not options.measure_peers:
        options.weights = [published_weights(options.model)]
        options.peers = options.peers or ROOT / f"models/{SMALL}/peers-{options.part}.json"
    if len({path.name for path in options.weights}) < len(options.weights):
        parser.error("figures are kept by the names of weight files: give each another name")
    return options


def published_weights(model: str) -> Path:
    """Return the file that users have: of the wheel, or beside the card."""
    entry = find(model)
    return (entry.folder / "weights" if entry.manifest.weights else ROOT / "models" / model) / f"{model}.safetensors"


def draw() -> None:
    """Put the tables of the kept figures, test part first, into the page."""
    small = kept(SMALL)
    tables = [table(record) for record in small.values()]
    for model in LARGER:
        tables += [compared(small[part], record) for part, record in kept(model).items() if part in small]
    text = "\n\n".join(["<!-- made: forecast figures -->", *tables, "<!-- end: forecast figures -->"])
    page = PAGE.read_text(encoding="utf-8")
    page = re.sub(
        r"<!-- made: forecast figures -->.*?<!-- end: forecast figures -->", lambda _: text, page, flags=re.DOTALL
    )
    PAGE.write_text(page, encoding="utf-8")


def kept(model: str) -> dict[str, dict[str, Any]]:
    """Return the records of a network by part, the test part first; none where none were kept."""
    records = [json.loads(path.read_text()) for path in (MODELS / model).glob("figures-*.json")]
    return {record["part"]: record for record in sorted(records, key=lambda record: record["part"])}


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def apart(spec: Mapping[str, Any], which: Which, windows: int) -> int:
    """Return how many points lie between origins of a set: a prime, so that no phase of a day or week is left out."""
    timemmd = {one["name"] for one in suites()["timemmd"]["sets"]} - {"environment"}
    if spec["name"] in timemmd:
        return 1
    number = -(-len(prepare(spec, which=which).chosen) // windows)
    while any(number % factor == 0 for factor in range(2, int(number**0.5) + 1)):
        number += 1
    return number


def ways(forecasters: Sequence[Forecaster], part: Part, every: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of our weights, one after the other, and of the naive rules, in a set."""
    length = part.spec["token_length"] if options.tokens == "suite" else None
    begin = time.perf_counter()
    ours = []
    for forecaster in forecasters:
        model = Model(forecaster, SAMPLES, 0, length, 0, part.spec["context"])
        way = model_ways(model, options.texts, has_texts=any(one.texts for one in part.series))
        ours.append(measured(part, way)["ours"])
    others = measured(part, naive_ways())
    return {
        "every": every,
        "windows": len(part.chosen),
        "horizons": part.spec["horizons"],
        "seconds": time.perf_counter() - begin,
        "ways": {SEEDS: ours, **others},
        "paper": published()["sets"].get(part.name, []),
    }


def measured(part: Part, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Return the figures of ways on a set."""
    found = measure_part(part, methods, samples=SAMPLES, seed=0, step=lambda _: None)
    return {name: summary(by_horizon) for name, by_horizon in found.items()}


def peer_key(part: Part, which: Which, every: int, name: str) -> str:
    """Return the name under which a peer's figures are kept."""
    return f"{part.name} / {which} / every {every} / {name} / {part.sha256[:16]}"


def measure_peers(
    specs: Sequence[Mapping[str, Any]], which: Which, names: Sequence[str], known: dict[str, Any],
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Measure what is not known of peers, and keep it set by set."""
    methods = {name: peer(name) for name in names}
    for spec in specs:
        every = apart(spec, which, options.windows)
        part = prepare(spec, every=every, which=which)
        for name, method in methods.items():
            key = peer_key(part, which, every, name)
            if key in known:
                continue
            begin, before = time.perf_counter(), failed(method)
            known[key] = {
                **measured(part, {name: method})[name],
                "windows": len(part.chosen),
                "failed": failed(method) - before,
                "seconds": time.perf_counter() - begin,
            }
            # another process may measure another peer: what it kept stays
            kept = json.loads(options.peers.read_text()) if options.peers.is_file() else {}
            known |= kept
            with whole(options.peers, overwrite=True) as aside:
                aside.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
            say(f"{name}, {spec['name']}: {known[key]['seconds']:.0f} s")


def told(forecaster: Forecaster, which: Which, count: int) -> float:
    """Return CRPS with texts over that without on made events, told in phrases that were kept from learning."""
    tower = minilm_or_light(layers=forecaster.module.text_layers, device=forecaster.device)  # type: ignore[attr-defined]
    return Exam([], events(count, seed=EVENTS[which], part=which), tower)(forecaster.module)["text"]  # type: ignore[arg-type]


def reader() -> str:
    """Return what reads texts here."""
    try:
        minilm.find()
    except MissingDependencyError:
        return "the light tower"
    return "MiniLM"


def figures(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the value of each figure, one a seed; nothing where it was not measured."""
    seeds = range(len(record["weights"]))
    everywhere, whole_sets = record["sets"], record["every origin"]
    # of the two orders of Economy the one in time order is a forecast; the papers' is only compared with theirs
    sets = {name: one["ways"] for name, one in everywhere.items() if name != "economy"}
    timemmd = [one["name"] for one in suites()["timemmd"]["sets"] if one["name"] in sets]
    mean = np.mean

    def share(seed: int, others: Sequence[str]) -> list[bool]:
        return [
            all(ways[SEEDS][seed]["crps"] < ways[other]["crps"] for other in others)
            for ways in sets.values()
            if all(other in ways for other in others)
        ]

    def below_paper(name: str, seed: int) -> bool:
        one = whole_sets[name]
        row = next(row for row in one["paper"] if row["way"] == AURORA)
        return all(one["ways"][SEEDS][seed][metric] < row[metric] for metric in ("mse", "mae"))

    def over_fracast(seed: int) -> list[float]:
        return [
            float(np.log(sets[name][SEEDS][seed]["mae"] / sets[name]["fracast"]["mae"]))
            for name in timemmd
            if "fracast" in sets[name]
        ]

    result: dict[str, list[float]] = {
        "naive": [float(mean(share(seed, RULES))) for seed in seeds if share(seed, RULES)],
        "autoets": [float(mean(share(seed, ["autoets"]))) for seed in seeds if share(seed, ["autoets"])],
        "fracast": [float(np.exp(mean(over_fracast(seed)))) for seed in seeds if over_fracast(seed)],
        "coverage": [float(mean([ways[SEEDS][seed]["coverage80"] for ways in sets.values()])) for seed in seeds],
        "text": record["text"],
    }
    for name in ("etth1", "etth2"):
        if name in whole_sets:
            result[name] = [whole_sets[name]["ways"][SEEDS][seed]["mse"] for seed in seeds]
    if record["part"] == "test":
        for figure, suite in (("timemmd", "timemmd"), ("epf", "epf")):
            names = [one["name"] for one in suites()[suite]["sets"] if one["name"] in whole_sets]
            names = [name for name in names if whole_sets[name]["paper"]]
            result[figure] = [float(sum(below_paper(name, seed) for name in names)) for seed in seeds]
    return result


def table(record: Mapping[str, Any]) -> str:
    """Return the figures as tables in Markdown: those with bars, then a row a set."""
    found = figures(record)
    test = record["part"] == "test"
    rows: list[tuple[str, ...]] = [(f"figure, {record['part']} part", "mean", "seeds", "floor", "aim", "reached")]
    for name, bar in BARS.items():
        values = found.get(name) or []
        verdict = "not measured" if test or not bar.against_paper else "test part only"
        if values and (test or not bar.against_paper):
            verdict = bar.verdict(float(np.mean(values)))
        shown = [f"{value:.3f}" for value in values]
        rows.append(
            (bar.says, f"{np.mean(values):.3f}" if values else "", " ".join(shown), *map(_bound, bar[1:3]), verdict)
        )
    names = (*RULES, *MODULES)
    metrics = ("mse", "mae", "crps", "coverage80")
    each: list[tuple[str, ...]] = [("set", "windows", *metrics, *(f"CRPS over {n}" for n in names), "MAE over fracast")]
    each += [_row(name, one, metrics, names) for name, one in record["sets"].items()]
    papers: list[tuple[str, ...]] = [("every origin", "windows", "mse", "mae", "naive mse", "naive mae", "paper")]
    for name, one in record["every origin"].items():
        mine, naive = _means(one["ways"][SEEDS]), one["ways"]["seasonal_naive"]
        row = next((row for row in one["paper"] if row["way"] == AURORA), None)
        papers.append(
            (
                f"{name}, H={'/'.join(map(str, one['horizons']))}",
                str(one["windows"]),
                *(f"{way[metric]:.3f}" for way in (mine, naive) for metric in ("mse", "mae")),
                f"{row['mse']:g} {row['mae']:g}" if row and test else "",
            )
        )
    return "\n\n".join([*(_markdown(one) for one in (rows, each, papers)), _weights(record)])


def compared(small: Mapping[str, Any], large: Mapping[str, Any]) -> str:
    """Return tables of a larger network beside aurora-small, of the same part: what has bars, then a row a set."""
    names, part = (SMALL, large["model"]), large["part"]
    both = [figures(record) for record in (small, large)]
    rows: list[tuple[str, ...]] = [(f"figure, {part} part", *names, "floor", "aim", f"{names[1]} reaches")]
    for name, bar in BARS.items():
        means = [float(np.mean(found[name])) if found.get(name) else None for found in both]
        if None in means or (bar.against_paper and part != "test"):
            continue
        shown = (f"{mean:.3f}" for mean in means)
        rows.append((bar.says, *shown, *map(_bound, bar[1:3]), bar.verdict(means[1])))  # type: ignore[arg-type]
    metrics = ("mse", "mae", "crps", "coverage80")
    each: list[tuple[str, ...]] = [("set", *(f"{metric}: {name}" for metric in metrics for name in names), "CRPS over")]
    for name, one in large["sets"].items():
        if name not in small["sets"]:
            continue
        ours, larger = (_means(record["ways"][SEEDS]) for record in (small["sets"][name], one))
        values = [f"{way[metric]:.4g}" for metric in metrics for way in (ours, larger)]
        each.append((name, *values, f"{larger['crps'] / ours['crps']:.3f}"))
    seeds = ", ".join(f"{record.get('model', SMALL)} {len(record['weights'])}" for record in (small, large))
    ending = f"Means over weight files, of which there are: {seeds}. {_weights(large)}"
    return "\n\n".join([_markdown(rows), _markdown(each), ending])


def _weights(record: Mapping[str, Any]) -> str:
    """Return the end of a table: which weights, read how."""
    weights = ", ".join(f"{name} {sha[:8]}" for name, sha in record["weights"].items())
    return (
        f"Texts of TimeMMD: {record['texts']}; texts are read by {record.get('reader', 'MiniLM')}; token lengths: the "
        f"{record['token_length']}'s; weights: {weights}; "
        f"{record['seconds']:.0f} s."
    )


def _bound(bound: float | tuple[float, float]) -> str:
    return "-".join(f"{x:g}" for x in bound) if isinstance(bound, tuple) else f"{bound:g}"


def _means(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {metric: float(np.mean([one[metric] for one in seeds])) for metric in seeds[0] if metric != "by_horizon"}


def _row(name: str, one: Mapping[str, Any], metrics: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    mine = _means(one["ways"][SEEDS])
    over = [f"{mine['crps'] / one['ways'][n]['crps']:.3f}" if n in one["ways"] else "" for n in others]
    fracast = one["ways"].get("fracast")
    last = f"{mine['mae'] / fracast['mae']:.3f}" if fracast else ""
    return name, str(one["windows"]), *(f"{mine[metric]:.4g}" for metric in metrics), *over, last


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
