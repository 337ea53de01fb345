"""How many steps Aurora small's flow needs: scores of its paths after 0 to 50 of them, on validation windows.

    uv run tools/forecast_steps.py small.safetensors [--before teacher.safetensors] [--write]

The values at each point are the quantile head's whatever the steps; the flow says which of them make up one path. So
CRPS of single points is the same in every row, and what steps are worth shows in what needs whole paths: the CRPS of
the total and of the largest value of a horizon, and the energy score (Gneiting and Raftery 2007). Without steps, path s
is quantile s at every point. Each score is divided by that of 50 steps, set by set; printed are geometric means over
the sets of data/forecast/eval. `--before` names the weights whose flow taught these: their 50 steps are what
all is divided by, and their rows come first. `--write` puts the table into docs/forecast-small.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from forecast_figures import apart
from numpy.typing import NDArray

from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring.suites import Part, prepare, suites
from zoo_forecast.measuring.windows import batches, truth

PAGE = Path(__file__).resolve().parents[1] / "docs/forecast-small.md"
STEPS = (0, 1, 2, 4, 8, 16, 50)
SCORES = ("CRPS of points", "CRPS of the total", "CRPS of the largest value", "energy score")
SAMPLES, LONGEST = 100, 96

Figures: TypeAlias = NDArray[np.float64]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model", default="aurora-small", help="whose weights they are")
    parser.add_argument("--before", type=Path, help="weights whose flow taught these")
    parser.add_argument("--windows", type=int, default=24, help="of a set, about")
    parser.add_argument("--sets", nargs="+", help="only these: a rehearsal")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    given = {"before": options.before, "after": options.weights} if options.before else {"": options.weights}
    forecasters = {
        name: Forecaster.load(options.model, weights=path, device=options.device) for name, path in given.items()
    }
    found: dict[str, list[Figures]] = {name: [] for name in given}
    count = 0
    for spec in suites()["all"]["sets"]:
        if options.sets and spec["name"] not in options.sets:
            continue
        horizon = max((h for h in spec["horizons"] if h <= LONGEST), default=min(spec["horizons"]))
        spec = {**spec, "horizons": [horizon]}
        part = prepare(spec, every=apart(spec, "validation", options.windows), which="validation")
        for name, forecaster in forecasters.items():
            found[name].append(measured(forecaster, part, horizon, options.windows))
        count += min(len(part.chosen), options.windows)
        print(part.name, file=sys.stderr, flush=True)
    made = table({name: np.stack(scores) for name, scores in found.items()}, count)
    print(made)
    if options.write:
        text = f"<!-- made: steps -->\n\n{made}\n\n<!-- end: steps -->"
        page = PAGE.read_text(encoding="utf-8")
        page = re.sub(r"<!-- made: steps -->.*?<!-- end: steps -->", lambda _: text, page, flags=re.DOTALL)
        PAGE.write_text(page, encoding="utf-8")


def measured(forecaster: Forecaster, part: Part, horizon: int, windows: int) -> Figures:
    """Return means over windows (steps, scores)."""
    chosen = part.chosen[:: max(1, len(part.chosen) // windows)][:windows]
    scores = np.zeros((len(STEPS), len(SCORES)))
    came = truth(part.series, chosen, horizon)
    size = len(chosen)
    ((_, batch),) = batches(part.series, chosen, context=part.spec["context"], horizon=horizon, size=size, seed=0)
    unit = np.array([np.nanstd(context) or 1.0 for context in batch.contexts])[:, None]
    kept = ~np.isnan(came).any(1)
    for row, steps in enumerate(STEPS):
        paths = forecaster.predict(
            list(batch.contexts), horizon, num_samples=SAMPLES, items=list(batch.items), periods=list(batch.seasons),
            steps=steps,
        ).samples.numpy()  # fmt: skip
        scores[row] = _scores(paths[kept] / unit[kept, None], came[kept] / unit[kept])
    return scores


def _scores(paths: Figures, came: Figures) -> Figures:
    """Return the means over windows of each score: paths (W, S, H), what came (W, H)."""
    each = (
        crps(paths, came).mean(1),
        crps(paths.sum(2), came.sum(1)),
        crps(paths.max(2), came.max(1)),
        energy(paths, came),
    )
    return np.array([score.mean() for score in each])


def crps(values: Figures, came: Figures) -> Figures:
    """Return the CRPS of equally likely values (W, S, ...) where `came` (W, ...) was observed."""
    ordered, count = np.sort(values, axis=1), values.shape[1]
    weights = (2 * np.arange(1, count + 1) - count - 1).reshape(-1, *[1] * (values.ndim - 2))
    spread = (weights * ordered).sum(1) / count**2
    return np.asarray(np.abs(values - came[:, None]).mean(1) - spread)


def energy(paths: Figures, came: Figures) -> Figures:
    """Return the energy score (W,) of equally likely paths (W, S, H) where `came` (W, H) was observed."""
    given = torch.from_numpy(paths)
    spread = torch.cdist(given, given).mean((1, 2)).numpy()
    return np.asarray(np.linalg.norm(paths - came[:, None], axis=2).mean(1) - spread / 2)


def table(found: dict[str, Figures], count: int) -> str:
    """Return the table of (sets, steps, scores) of each of the weights, over the last steps of the first ones."""
    base = next(iter(found.values()))[:, -1:]
    rows = [("steps", *SCORES), ("---",) * (len(SCORES) + 1)]
    for name, scores in found.items():
        means = np.exp(np.log(scores / base).mean(0))
        for steps, row in zip(STEPS, means, strict=True):
            rows.append((f"{steps} {name}".strip(), *(f"{score:.4f}" for score in row)))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    whose = f"{STEPS[-1]} steps before" if len(found) > 1 else f"{STEPS[-1]} steps"
    ending = f"Over that of {whose}; {count} windows of {len(base)} sets, {SAMPLES} paths of each."
    return "\n".join([*lines, "", ending])


if __name__ == "__main__":
    main()
