"""Measure a model on a suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from zoo_core.errors import UsageError
from zoo_core.evaluate import Report
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring.options import ForecastEvaluateOptions
from zoo_forecast.measuring.peers import installed, peer
from zoo_forecast.measuring.side_by_side import Measured
from zoo_forecast.measuring.suite_report import report
from zoo_forecast.measuring.suites import Part, measure_part, prepare, suites
from zoo_forecast.measuring.ways import Method, Model, model_ways, naive_ways


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
    return report(suite, protocol["says"], parts, found, options, peers, limit=limit)


def _model_ways(forecaster: Forecaster, part: Part, options: ForecastEvaluateOptions) -> dict[str, Method]:
    length = options.token_length
    points = part.spec["token_length"] if length is None else None if isinstance(length, str) else length
    model = Model(forecaster, options.samples, options.seed, points, options.steps, part.spec["context"])
    return model_ways(model, options.texts, has_texts=any(one.texts for one in part.series))


def _count(parts: Sequence[Part], options: ForecastEvaluateOptions, peers: int) -> int:
    per_window = len(naive_ways()) + peers
    ours = {True: 3 if options.texts == "all" else 1, False: 1}
    return sum(len(part.chosen) * (per_window + ours[any(one.texts for one in part.series)]) for part in parts)
