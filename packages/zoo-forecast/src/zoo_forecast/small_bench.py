"""Time forecasts of Aurora small beside other forecasters: `zoo bench aurora-small --against fracast`.

Series, made ones, have 512 points, horizons 96. The head of quantiles must give the values of the 100 paths, which are
the same ones in another order; peers forecast the same series, and only their time is compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo_core.bench import BenchReport, Limits, NotRun, Way, compare
from zoo_core.catalog import CatalogEntry
from zoo_core.errors import MissingDependencyError, UsageError, did_you_mean
from zoo_core.predict import choose_device
from zoo_core.weights.build import build
from zoo_core.weights.find import find
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring.peers import MODULES, peer
from zoo_forecast.measuring.windows import Batch
from zoo_forecast.small import AuroraSmall
from zoo_forecast.synth import make_series

CONTEXT, HORIZON, SAMPLES = 512, 96, 100
SERIES, ROUNDS = 16, 5
SAME = Limits(most=1e-4, share=1.0, rms=1e-5)  # of normalised values


def bench(
    entry: CatalogEntry,
    *,
    against: Sequence[str] = (),
    size: str | None = None,
    rounds: int | None = None,
    weights: Path | None = None,
    device: str = "auto",
    offline: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Time the ways to forecast the same series; `facts` has milliseconds a series of each.

    Args:
        entry: aurora-small.
        against: peers: autoets, fracast.
        size: how many series, 16 by default.
        rounds: how often each way runs in turn.
        weights: a safetensors file; without any, fresh weights, which take as long.
        device: auto, cpu, cuda; peers always run on the CPU.
        offline: ask no network for weights.
        progress: told how many runs are done, of how many.

    Raises:
        UsageError: unknown peer or device, or a size that is no number.
        WeightsError: weights are wrong.
    """
    for name in against:
        if name not in MODULES:
            raise UsageError(f"There is no peer {name!r}.", did_you_mean(name, MODULES))
    if size is not None and (not size.isdecimal() or not int(size)):
        raise UsageError(f"{size!r} is no number of series.", "Write --size 16.")
    where, count = choose_device(device), int(size or SERIES)
    network = _network(entry, weights, where, offline=offline)
    forecaster = Forecaster(network)
    made = [make_series(0, number, CONTEXT) for number in range(count)]
    series, periods = [values for values, _ in made], [period for _, period in made]
    spread = torch.tensor([float(values.std()) or 1.0 for values in series])[:, None, None]

    def ours(name: str, note: str, **how: Any) -> Way:
        run = partial(forecaster.predict, series, HORIZON, num_samples=SAMPLES, periods=periods, **how)
        return Way(name, lambda: run().samples, lambda found: _values(found / spread), SAME, note=note)

    ways = [
        ours("ours", f"{SAMPLES} paths, {network.sampling_steps} steps"),
        ours("ours quantiles", "no paths, steps=0", steps=0),
    ]
    missing = []
    batch = Batch(series, periods, HORIZON, [None] * count, [None] * count, [f"{n}" for n in range(count)], ())
    for name in against:
        try:
            other = peer(name)
        except MissingDependencyError as error:
            missing.append(NotRun(name, str(error)))
            continue
        ways.append(Way(name, partial(other, batch), lambda found: np.asarray(found.values), None, note="on the CPU"))
    report = compare(
        ways,
        model=entry.manifest.id,
        size=f"{count} made series, context {CONTEXT}, horizon {HORIZON}",
        device=where,
        rounds=rounds or ROUNDS,
        not_run=missing,
        progress=progress,
    )
    each = {timing.way: 1000 * statistics.median(timing.seconds) / count for timing in report.timings if timing.seconds}
    timings = tuple(
        replace(one, note=f"{each[one.way]:.1f} ms a series, {one.note}") if one.way in each else one
        for one in report.timings
    )
    return replace(report, timings=timings, facts={**report.facts, "series": count, "ms_a_series": each})


def _values(samples: Tensor) -> NDArray[Any]:
    """Return what is forecast at each point, in ascending order."""
    return np.asarray(samples.sort(1).values.numpy())


def _network(entry: CatalogEntry, weights: Path | None, device: torch.device, *, offline: bool) -> AuroraSmall:
    found = find(entry, weights=weights, offline=offline) if weights is not None or entry.manifest.weights else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build(entry, found, device=device, dtype=torch.float32)
        assert isinstance(module, AuroraSmall)  # noqa: S101 - the manifest names this class
        if found is None:  # the flow of a fresh network does nothing yet, and all paths would lie alike
            for name, weight in module.flow.named_parameters():
                if "adaLN" in name or "final_layer" in name:
                    nn.init.normal_(weight, std=0.02)
    return module.requires_grad_(False)
