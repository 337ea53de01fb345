"""Time Aurora's sampler, or whole forecasts, beside the plain way to write them: `zoo bench aurora-base --size 64`.

All ways have the same weights, starts and conditions, and must give the same paths. Sizes: `64` is the sampler for 64
series, `64-whole` are forecasts of 64 series, each with a text of its own. A context has 512 points, a horizon 96, and
there are 100 samples, as in the measurements of the authors' code.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo_core.bench import BenchReport, Limits, Way, compare
from zoo_core.catalog import CatalogEntry
from zoo_core.errors import UsageError, did_you_mean
from zoo_core.nn.graphs import Graphs
from zoo_core.predict import choose_device
from zoo_core.weights.build import build
from zoo_core.weights.find import find
from zoo_forecast import flow, folded
from zoo_forecast.aurora import Aurora
from zoo_forecast.engine import Engine
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.mode import CORRECTED

CONTEXT, HORIZON, SAMPLES = 512, 96, 100
PIECES = 125  # of a text
ROUNDS = 5
SAME = Limits(most=1e-3, share=1.0, rms=1e-4)  # of normalised values
NEAR = Limits(most=0.5, share=1.0, rms=0.05)  # in bf16, whose rounding steps follow each other 50 times
SIZE = re.compile(r"([1-9]\d{0,3})(-whole)?")


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
    """Time the ways to the same paths; the first is the plain one.

    Args:
        entry: aurora-base.
        against: no peers are known.
        size: how many series, by default 64 on CUDA and 1 on a CPU; with `-whole` behind it, whole forecasts.
        rounds: how often each way runs in turn.
        weights: a safetensors file; by default fresh weights, which take as long.
        device: auto, cpu, cuda.
        offline: ask no network for weights.
        progress: told how many runs are done, of how many.

    Raises:
        UsageError: a peer, an unknown device, or a size that is none.
        WeightsError: weights are wrong.
    """
    if against:
        raise UsageError(f"There is no peer {against[0]!r}.", did_you_mean(against[0], ()))
    where = choose_device(device)
    match = SIZE.fullmatch(size or ("64" if where.type == "cuda" else "1"))
    if match is None:
        raise UsageError(f"{size!r} is no size.", "Write --size 64, or --size 64-whole for whole forecasts.")
    module = _network(entry, weights, where, offline=offline)
    half = copy.deepcopy(module).to(torch.bfloat16)
    count = int(match[1])
    ways = (_whole if match[2] else _sampler)(module, half, count)
    what = "forecasts, each with a text of its own" if match[2] else "series, the sampler alone"
    with torch.inference_mode():
        return compare(
            ways,
            model=entry.manifest.id,
            size=f"{count} {what}, context {CONTEXT}, horizon {HORIZON}, {SAMPLES} samples, "
            f"{module.sampling_steps} steps, {'fresh' if weights is None else 'given'} weights",
            device=where,
            rounds=rounds or ROUNDS,
            progress=progress,
        )


def _sampler(module: Aurora, half: Aurora, count: int) -> list[Way]:
    future = -(-HORIZON // module.token_length)
    device = module.flow.cond_embed.weight.device
    draw = torch.Generator(device).manual_seed(0)
    start = torch.randn(SAMPLES, count * future, module.token_length, generator=draw, device=device)
    z = torch.randn(count * future, module.flow.cond_embed.in_features, generator=draw, device=device)
    plain = partial(flow.sample, module.flow)

    def way(name: str, follow: Callable[..., Tensor], given: Tensor, limits: Limits, **more: Any) -> Way:
        run = partial(follow, start, given, steps=module.sampling_steps, sampler="ode")
        if start.is_cuda:
            run()  # a graph is recorded at the second run: what is compared is what is timed
        return Way(name, run, _values, limits, **more)

    ways = [
        way("plain", plain, z, SAME, note="as flow.sample writes it"),
        way(
            "ours",
            Graphs(partial(folded.sample, module.flow)),
            z,
            SAME,
            note="modulations folded; one CUDA graph on a GPU",
        ),
        way("ours bf16", Graphs(partial(folded.sample, half.flow)), z.bfloat16(), NEAR, precision="bf16"),
    ]
    if start.is_cuda:
        fused = Graphs(partial(folded.fused, half.flow))
        note = "all steps in one kernel"
        ways.append(way("ours bf16, fused", fused, z.bfloat16(), NEAR, precision="bf16", note=note))
    return ways


def _whole(module: Aurora, half: Aurora, count: int) -> list[Way]:
    random = np.random.default_rng(0)
    series = torch.tensor(random.normal(size=(count, CONTEXT)).cumsum(1))
    words = ("sales", "rose", "fell", "in", "spring", "by", "many", "units", "after", "rain")
    texts = [" ".join(random.choice(words, PIECES - 2)) for _ in range(count)]

    def way(name: str, forecaster: Forecaster, limits: Limits, *, known: bool = False, **more: Any) -> Way:
        def run() -> Tensor:
            if not known:
                forecaster.forget()
            return forecaster.predict(series, HORIZON, num_samples=SAMPLES, texts=texts).samples

        if forecaster.device.type == "cuda":
            run()  # graphs are recorded at the second run: what is compared is what is timed
        return Way(
            name, run, lambda samples: _values(samples / series.std(1, correction=0)[:, None, None]), limits, **more
        )

    plain, ours, quick = Forecaster(module), Forecaster(module), Forecaster(half)
    plain.engine = engine = Engine(module, CORRECTED, shapes=0)
    engine.follow = partial(flow.sample, module.flow)
    return [
        way("plain", plain, SAME, note="the sampler as flow.sample writes it; no CUDA graphs"),
        way("ours", ours, SAME, note="texts, series and sampler are a CUDA graph each on a GPU"),
        way("ours bf16", quick, NEAR, precision="bf16"),
        way("ours bf16, texts known", quick, NEAR, known=True, precision="bf16", note="read in an earlier call"),
    ]


def _network(entry: CatalogEntry, weights: Path | None, device: torch.device, *, offline: bool) -> Aurora:
    found = find(entry, weights=weights, offline=offline) if weights is not None or entry.manifest.weights else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build(entry, found, device=device, dtype=torch.float32)
        assert isinstance(module, Aurora)  # noqa: S101 - the manifest names this class
        if found is None:  # a fresh flow net does nothing yet: with zeros in it all ways would agree
            for name, weight in module.flow.named_parameters():
                if "adaLN" in name or "final_layer" in name:
                    nn.init.normal_(weight, std=0.02)
    return module.requires_grad_(False)


def _values(result: Tensor) -> NDArray[Any]:
    return np.asarray(result.double().cpu().numpy())
