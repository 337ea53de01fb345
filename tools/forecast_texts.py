"""What texts that say nothing do to forecasts, by length: MAE with over without, on TimeMMD's validation parts.

    uv run tools/forecast_texts.py [small.safetensors ...] [--model aurora-small] [--write]

Own texts of TimeMMD stand beside those of other origins of the same set (shuffled, as in `zoo eval`) and beside texts
of a pack that has nothing to do with the set (`--foreign`): whole, and one sentence of each. Whoever reads meaning and
not length is at 1 with all that is foreign. Only windows with a text of their own count. Forecasts are the quantile
head's alone, as the median's MAE does not depend on the flow. `--write` puts the tables into docs/forecast-small.md.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from forecast_figures import SAMPLES, apart, reader
from numpy.typing import NDArray

from zoo_core.io.packs import find_pack
from zoo_core.weights.files import sha256_of
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring.data import read_pack
from zoo_forecast.measuring.scores import Predicted
from zoo_forecast.measuring.side_by_side import Measured, fitting
from zoo_forecast.measuring.suites import Part, measure_part, prepare, suites
from zoo_forecast.measuring.texts import RUNS
from zoo_forecast.measuring.ways import Method, Model, model_ways
from zoo_forecast.measuring.windows import Batch
from zoo_forecast.sentences import sentences_of

PAGE = Path(__file__).resolve().parents[1] / "docs/forecast-small.md"
TRUE, NONE, SHUFFLED, WHOLE, SENTENCE = "ours", RUNS["none"], RUNS["shuffled"], "foreign", "a sentence"
SHORT = 40  # words, below which a text is one of few sentences
FEWEST = 20  # windows that make a figure of a length
WINDOWS = 160  # of a set with many origins
COLUMNS = (
    "windows",
    "words",
    "own",
    "shuffled",
    "foreign",
    "a sentence of it",
    "own, below 40 words",
    "own, 40 and more",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="*", help="a table each; default the model's own")
    parser.add_argument("--model", default="aurora-small", help="whose weights they are")
    parser.add_argument("--foreign", default="text_finance_daily", metavar="PACK", help="of texts about other things")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    pack = find_pack(options.foreign, below="forecast/pretrain")
    foreign = list(dict.fromkeys(text for one in read_pack(pack) for text in one.texts if text))
    # of Economy the order in time; the other one is there for the papers
    specs = [spec for spec in suites()["timemmd"]["sets"] if spec["name"] != "economy"]
    parts = [prepare(spec, every=apart(spec, "validation", WINDOWS), which="validation") for spec in specs]
    tables = []
    for path in options.weights or [None]:
        begin = time.perf_counter()
        forecaster = Forecaster.load(options.model, weights=path, device=options.device)
        rows = {part.name: ratios(part, forecaster, foreign) for part in parts}
        name = f"{path.name} {sha256_of(path)[:8]}" if path else f"{options.model}, published"
        seconds = time.perf_counter() - begin
        tables.append(
            f"{table(rows)}\n\nWeights: {name}; read by {reader()}; words: median of own texts; foreign: {pack.stem}, "
            f"{median_words(foreign)} words, a sentence {median_words(pieces(foreign))}; {seconds:.0f} s."
        )
        print(tables[-1], flush=True)
    if options.write:
        text = "\n\n".join(["<!-- made: forecast texts -->", *tables, "<!-- end: forecast texts -->"])
        marked = r"<!-- made: forecast texts -->.*?<!-- end: forecast texts -->"
        page = re.sub(marked, lambda _: text, PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
        PAGE.write_text(page, encoding="utf-8")


def median_words(texts: Sequence[str]) -> int:
    """Return the median length."""
    return int(np.median([len(text.split()) for text in texts]))


def ratios(part: Part, forecaster: Forecaster, foreign: Sequence[str]) -> tuple[int, int, list[float]]:
    """Return windows with a text, their median words, and MAE with over without by column; NaN of too few."""
    ways = model_ways(Model(forecaster, SAMPLES, 0, None, 0, part.spec["context"]), "all", has_texts=True)
    ways |= {WHOLE: telling(ways[TRUE], foreign), SENTENCE: telling(ways[TRUE], pieces(foreign))}
    found = measure_part(part, ways, samples=SAMPLES, seed=0, step=lambda _: None)
    words = np.array([len((part.series[w.series].text(w.origin) or "").split()) for w in part.chosen])
    told = words > 0
    values = [over(part, found[way], found[NONE], told) for way in (TRUE, SHUFFLED, WHOLE, SENTENCE)]
    values += [over(part, found[TRUE], found[NONE], told & rows) for rows in (words < SHORT, words >= SHORT)]
    return int(told.sum()), int(np.median(words[told])), values


def telling(own: Method, texts: Sequence[str]) -> Method:
    """Return a way that reads other texts, by chance, where a window has one."""

    def way(batch: Batch) -> Predicted:
        drawn = np.random.default_rng(0).integers(len(texts), size=len(batch.texts)).tolist()
        others = [None if text is None else texts[n] for text, n in zip(batch.texts, drawn, strict=True)]
        return own(replace(batch, texts=others))

    return way


def pieces(texts: Sequence[str]) -> list[str]:
    """Return one sentence of each text, by chance."""
    random = np.random.default_rng(0)
    return [str(random.choice(sentences_of(text))) for text in texts]


def over(part: Part, mine: Mapping[int, Measured], theirs: Mapping[int, Measured], chosen: NDArray[np.bool_]) -> float:
    """Return the MAE of one way over another's at chosen windows, each a mean over horizons; NaN of too few."""
    if int(chosen.sum()) < FEWEST:
        return float("nan")
    means = []
    for way in (mine, theirs):
        each = [way[horizon].figures["mae"][chosen[fitting(part.series, part.chosen, horizon)]] for horizon in way]
        means.append(np.mean([np.nanmean(errors) for errors in each if len(errors)]))
    return float(means[0] / means[1])


def table(rows: Mapping[str, tuple[int, int, Sequence[float]]]) -> str:
    """Return the ratios in Markdown, geometric means last."""
    means = np.exp(np.nanmean(np.log([values for *_, values in rows.values()]), 0)).tolist()
    lines = [f"| MAE over that without text | {' | '.join(COLUMNS)} |", "|---" + "|--:" * len(COLUMNS) + "|"]
    for name, (windows, words, values) in rows.items():
        lines.append(f"| {name} | {windows} | {words} | {cells(values)} |")
    return "\n".join([*lines, f"| geometric mean |  |  | {cells(means)} |"])


def cells(values: Sequence[float]) -> str:
    """Return a row's ratios; nothing for NaN."""
    return " | ".join("" if np.isnan(value) else f"{value:.3f}" for value in values)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
