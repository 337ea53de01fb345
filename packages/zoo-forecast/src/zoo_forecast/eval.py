"""Measure forecasts: `zoo eval aurora-small --data PACK.parquet --context 512 --horizon 24`, or `--suite timemmd`.

A pack is a long table: item_id, timestamp, target, and where they are there text, freq and is_test. From origins in the
test part of every series a model forecasts, beside rules that anybody can follow, all from the same contexts. Every
window, which is one series at one origin, counts once in a mean.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import UsageError, did_you_mean
from zoo_core.evaluate import Report
from zoo_core.io.packs import find_pack
from zoo_core.predict import DTYPES, choose_device
from zoo_core.train.hardware import describe_hardware
from zoo_core.train.record import commit, versions
from zoo_core.weights.build import build
from zoo_core.weights.files import sha256_of
from zoo_core.weights.find import find
from zoo_forecast.calendar import Step
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring.options import ForecastEvaluateOptions
from zoo_forecast.measuring.packs import evaluate_pack
from zoo_forecast.mode import CORRECTED, OFFICIAL

PACKS_BELOW = "forecast/eval"
PROTOCOLS = {"corrected": CORRECTED, "official": OFFICIAL}


def evaluate(
    entry: CatalogEntry,
    data: str | None,
    *,
    weights: Path | None = None,
    official: Path | None = None,
    against: Sequence[str] = (),
    protocol: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    limit: int | None = None,
    offline: bool = False,
    progress: Callable[[int, int], None] | None = None,
    options: ForecastEvaluateOptions | None = None,
) -> Report:
    """Measure MSE, MAE, MASE, CRPS and coverage beside naive rules and peers.

    Args:
        entry: a forecasting model.
        data: path of a pack, or the name of one below ZOO_PACKS; None for a suite.
        weights: a safetensors file instead of the published weights.
        official: refused: the authors' checkpoint is given as `weights`.
        against: peers: autoets, fracast.
        protocol: corrected (default) or official: Aurora as upstream runs it, slips included.
        device: auto, cpu, cuda.
        precision: fp32 or bf16.
        limit: only the first windows of a pack.
        offline: ask no network for weights.
        progress: told how many windows of all ways are done, of how many.
        options: context, horizon, stride, texts, suite, ...

    Raises:
        UsageError: unknown pack, column, protocol, precision, device or peer; no window.
        InputError: the pack cannot be used.
        WeightsError: weights are missing or wrong.
        MissingDependencyError: a peer is not installed.
    """
    begin = time.perf_counter()
    options = options or ForecastEvaluateOptions()
    manifest = entry.manifest
    mode = protocol or "corrected"
    if mode not in PROTOCOLS:
        raise UsageError(f"There is no protocol {mode!r}.", did_you_mean(mode, PROTOCOLS))
    if precision not in manifest.precisions:
        raise UsageError(f"{manifest.id} does not run in {precision!r}.", did_you_mean(precision, manifest.precisions))
    if official is not None:
        raise UsageError("The authors' weights are measured by themselves.", "Give them with --weights.")
    if options.freq is not None:
        Step.named(options.freq)
    where = choose_device(device)
    found = find(entry, weights=weights, offline=offline)
    module = build(entry, found, device=where, dtype=DTYPES[precision])
    forecaster = Forecaster(module, mode=PROTOCOLS[mode])
    facts = {
        "precision": precision,
        "weights": {"origin": found.origin, "file": found.path.name, "sha256": sha256_of(found.path)},
        "options": options.model_dump(exclude_none=True),
        "versions": versions("zoo-forecast"),
        "commit": commit(),
        "hardware": describe_hardware(where, processes=1),
    }
    if data is None:
        from zoo_forecast.measuring.suite_run import evaluate_suite

        report = evaluate_suite(forecaster, options, against=against, limit=limit, progress=progress)
    else:
        report = evaluate_pack(
            forecaster, find_pack(data, below=PACKS_BELOW), options, against=against, limit=limit, progress=progress
        )
    return replace(
        report,
        model=manifest.id,
        protocol=mode,
        facts={**facts, **report.facts},
        seconds=time.perf_counter() - begin,
    )


if __name__ == "__main__":
    from zoo_core.cli.main import main

    main(["eval", *sys.argv[1:]])
