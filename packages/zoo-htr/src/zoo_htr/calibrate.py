"""Fit the confidences of a network's weights, and its language weights: `python -m zoo_htr.calibrate ID --data PACK`.

Everything is fitted on lines that the network was not trained on: the split val. What is printed of confidences is
cross-fitted: the lines of a fifth of the writers are judged by a map that the other four fifths made.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from zoo_core import catalog
from zoo_core.cli import output
from zoo_core.cli.main import main
from zoo_core.cli.record import check_free
from zoo_core.errors import InputError
from zoo_core.io.atomic import whole
from zoo_core.io.packs import find_pack
from zoo_core.weights.build import build
from zoo_core.weights.find import find
from zoo_htr.alphabet import Alphabet
from zoo_htr.confidence import Calibration, DecoderName, Floats, as_json
from zoo_htr.decode import BONUS, LANGUAGE_SCALE, Decoder
from zoo_htr.eval import reliability
from zoo_htr.fingerprint import fingerprint
from zoo_htr.fitting import fit_map, fit_temperature
from zoo_htr.graph8 import LINES, find_bounds
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.metrics import score
from zoo_htr.normalise import prepare, standardise_one
from zoo_htr.reading import Reading
from zoo_htr.recognise import LineReader
from zoo_htr.truth import TrueLine, true_lines

SCHEMA = "zoo.htr.calibration/1"
FOLDS = 5
SCALES = (0.2, 1.2)  # where alpha is looked for
BONUSES = (0.0, 1.5)  # where beta is
_STEPS = (0.2, 0.1)  # of the search for both, coarse to fine
_DECODERS: tuple[DecoderName, ...] = ("greedy", "beam")


@dataclass(frozen=True, eq=False)
class Examples:
    """Lines that a network has read: their log-probabilities and truths, grouped by the page that they share."""

    lines: Sequence[TrueLine]
    log_probs: Sequence[Tensor]

    def pages(self) -> list[list[int]]:
        """Return the numbers of the lines of each page."""
        grouped: dict[str, list[int]] = {}
        for i, line in enumerate(self.lines):
            grouped.setdefault(line.page, []).append(i)
        return list(grouped.values())


def calibrate(
    examples: Examples, alphabet: Alphabet, *, model: str, weights: str, fitted_on: str, say: Callable[[str], None]
) -> Calibration:
    """Fit everything.

    Args:
        examples: lines that the network was not trained on.
        alphabet: of the network.
        model: its id.
        weights: fingerprint of its weights.
        fitted_on: the lines, in words.
        say: told what is being done.
    """
    usable = [i for i, line in enumerate(examples.lines) if line.text and not alphabet.unknown(line.text)]
    logs = [examples.log_probs[i].numpy() for i in usable]
    temperature = fit_temperature(logs, [alphabet.encode(examples.lines[i].text) for i in usable])
    say(f"temperature {temperature:.3f}")
    base = Calibration(
        model=model,
        weights=weights,
        fitted_on=fitted_on,
        temperature=round(temperature, 4),
        language_scale=LANGUAGE_SCALE,
        bonus=BONUS,
    )
    base = fit_language(examples, alphabet, base, say=say)
    maps = {}
    for decoder in _DECODERS:
        readings, features = read_all(examples, alphabet, base, decoder)
        maps[decoder] = fit_map(features, readings, [line.text for line in examples.lines])
        say(f"confidences of {decoder} fitted")
    return base.model_copy(update={"maps": maps})


def fit_language(
    examples: Examples, alphabet: Alphabet, base: Calibration, *, say: Callable[[str], None]
) -> Calibration:
    """Find the weight of the language and the bonus a character with the least CER, by steps from a start."""
    tried: dict[tuple[float, float], float] = {}

    def cer(scale: float, bonus: float) -> float:
        place = round(scale, 3), round(bonus, 3)
        if place not in tried:
            now = base.model_copy(update={"language_scale": place[0], "bonus": place[1]})
            texts = [r.text for r in read_all(examples, alphabet, now, "beam", with_features=False)[0]]
            tried[place] = score([line.text for line in examples.lines], texts).rate("cer")
            say(f"alpha {place[0]:.2f}, beta {place[1]:.2f}: CER {100 * tried[place]:.2f} %")
        return tried[place]

    best = (LANGUAGE_SCALE, BONUS)
    for step in _STEPS:
        while True:
            around = [
                (
                    min(max(best[0] + a * step, SCALES[0]), SCALES[1]),
                    min(max(best[1] + b * step, BONUSES[0]), BONUSES[1]),
                )
                for a, b in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))
            ]
            found = min(around, key=lambda place: cer(*place))
            if cer(*found) >= cer(*best):
                break
            best = found
    return base.model_copy(update={"language_scale": round(best[0], 3), "bonus": round(best[1], 3)})


def read_all(
    examples: Examples, alphabet: Alphabet, base: Calibration, decoder: DecoderName, *, with_features: bool = True
) -> tuple[list[Reading], list[Floats]]:
    """Read all lines page by page; return plain readings, and the features of their characters."""
    bare = Decoder(alphabet, decoder=decoder, below=1.0, calibration=base.model_copy(update={"maps": {}}))
    readings: dict[int, Reading] = {}
    features: dict[int, Floats] = {}
    for page in examples.pages():
        log_probs = [examples.log_probs[i] for i in page]
        found = bare.read(log_probs)
        readings |= zip(page, found, strict=True)
        if with_features:
            features |= zip(page, bare.features(log_probs, found), strict=True)
    count = range(len(examples.lines))
    return [readings[i] for i in count], [features[i] for i in count] if with_features else []


def cross_fitted(
    readings: Sequence[Reading], features: Sequence[Floats], lines: Sequence[TrueLine], base: Calibration
) -> list[Reading]:
    """Return readings with confidences by maps that never saw the line's writer."""
    decoder: DecoderName = "greedy"  # only a name here
    folds = np.array([_fold(line) for line in lines])
    result = list(readings)
    for fold in range(FOLDS):
        train, test = np.flatnonzero(folds != fold).tolist(), np.flatnonzero(folds == fold).tolist()
        if not train or not test:
            continue
        made = fit_map([features[i] for i in train], [readings[i] for i in train], [lines[i].text for i in train])
        fitted = base.model_copy(update={"maps": {decoder: made}})
        for i in test:
            result[i] = fitted.apply(decoder, readings[i], features[i])
    return result


def _fold(line: TrueLine) -> int:
    # all of a page, and of a writer, in one fold
    return zlib.crc32(f"{line.corpus}/{line.writer or line.document}".encode()) % FOLDS


def shades(lines: Sequence[TrueLine], height: int) -> list[Tensor]:
    """Return some lines, spread evenly, as a network of this height takes them."""
    chosen = np.linspace(0, len(lines) - 1, min(len(lines), LINES)).round().astype(int)
    return [standardise_one(prepare(lines[i].pixels(), height=height)) for i in chosen]


FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("model", metavar="ID")
@click.option(
    "--data", default="htr/lines/val.parquet", show_default=True, metavar="PATH|NAME", help="Lines to fit on."
)
@click.option("--weights", type=FILE, help="Weights of yours (safetensors) instead of the model's.")
@click.option("-o", "--output", "target", required=True, type=FILE, help="The file to write, ID.calibration.json.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first lines.")
@output.format_option
def command(
    model: str,
    *,
    data: str,
    weights: Path | None,
    target: Path,
    overwrite: bool,
    limit: int | None,
    out: output.Output,
) -> None:
    """Fit temperature, language weights and confidences of the model ID; print what they are worth, cross-fitted."""
    check_free(target, overwrite=overwrite)
    entry = catalog.find(model)
    network = build(entry, find(entry, weights=weights), device=torch.device("cpu"), dtype=torch.float32)
    if not isinstance(network, HTRJAND):
        raise InputError(f"{model} reads no lines.", "Name an HTR-JAND.")
    path = find_pack(data)
    lines = list(true_lines(path, limit=limit))
    output.note(f"reading {len(lines)} lines of {path.name}")
    examples = Examples(lines, LineReader(network).log_probs([line.pixels() for line in lines]))
    bounds = {}
    if importlib.util.find_spec("openvino") is not None:
        bounds = find_bounds(network, shades(lines, network.height))
    else:
        output.note('no bounds for --precision int8, which take: pip install "zoo-htr[openvino]"')
    calibration = calibrate(
        examples,
        network.alphabet,
        model=entry.manifest.id,
        weights=fingerprint(network),
        fitted_on=f"{path.name}: {len(lines)} lines of {len({(x.corpus, x.writer) for x in lines})} writers",
        say=output.note,
    ).model_copy(update={"bounds": bounds})
    with whole(target, overwrite=overwrite) as aside:
        aside.write_text(as_json(calibration), "utf-8")
    rows = []
    for decoder in _DECODERS:
        readings, features = read_all(examples, network.alphabet, calibration, decoder)
        scores = score([line.text for line in lines], [reading.text for reading in readings])
        for name, shown in (("posteriors", readings), ("fitted", cross_fitted(readings, features, lines, calibration))):
            rows.append({"decoder": decoder, "confidences": name, **reliability(lines, shown, scores)})
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "decoder": lambda row: str(row["decoder"]),
        "confidences": lambda row: str(row["confidences"]),
        **{name: partial(_figure, name=name) for name in ("ece", "brier", "line_ece", "aurc")},
        **{f"CER -{name} %": partial(_rate, name=name) for name in ("0", "10", "20")},
    }
    out.table(SCHEMA, rows, columns, right=[name for name in columns if name not in ("decoder", "confidences")])
    output.note(
        f"temperature {calibration.temperature}, alpha {calibration.language_scale}, beta {calibration.bonus}: {target}"
    )


def _figure(row: Mapping[str, Any], *, name: str) -> str:
    return f"{row[name]:.4f}"


def _rate(row: Mapping[str, Any], *, name: str) -> str:
    return f"{100 * row['cer_after_rejecting_percent'][name]:.2f}"


if __name__ == "__main__":
    main(command=command, name="python -m zoo_htr.calibrate")
