"""Evaluate a reader of handwriting: `zoo eval htr-jand-student --data PACK`, or `python -m zoo_htr.eval ID ...`.

The first figure is the strict micro CER: edits over characters of the reference, both sides in NFC, nothing else
changed. Intervals are for other hands: whole writers are resampled, in a corpus of one writer whole documents. The
protocols are the decoders: greedy, and beam and corrected, which show greedy beside them.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import UsageError, did_you_mean
from zoo_core.evaluate import Check, Report, Way, bootstrap_mean, paired
from zoo_core.io.packs import find_pack
from zoo_core.predict import DTYPES, choose_device
from zoo_core.train.hardware import describe_hardware
from zoo_core.train.record import commit, versions
from zoo_core.weights.build import build
from zoo_core.weights.files import sha256_of
from zoo_core.weights.find import find
from zoo_htr import normalise, tables
from zoo_htr.decode import Decoder
from zoo_htr.fitting import chars_right
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.metrics import METRICS, Scores, confusions, right, score, words
from zoo_htr.options import HTROptions
from zoo_htr.reading import Char, Reading
from zoo_htr.recognise import LineReader
from zoo_htr.reliability import (
    area_under_risk_coverage,
    brier,
    expected_calibration_error,
    rejection_curve,
)
from zoo_htr.truth import TrueLine, true_lines

PACKS_BELOW = "htr/lines"
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {},
    "beam": {"decoder": "beam"},
    "corrected": {"correct": True},
}
SHOWN = ("cer", "wer", "exact")
DIGITS = dict.fromkeys(METRICS, 4)
AT_ONCE = 256  # lines whose pictures are in memory at a time, or those of one page
HURT = 0.001  # of CER in a corpus that a language model may cost
REJECTED = (0.0, 0.1, 0.2, 0.3, 0.5)
CONFUSIONS = 20


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one system read, in the order of the lines, and the seconds that it took from encoded pictures to text."""

    readings: tuple[Reading, ...]
    seconds: float

    @property
    def texts(self) -> list[str]:
        """The readings as strings."""
        return [reading.text for reading in self.readings]


def evaluate(
    entry: CatalogEntry,
    data: str,
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
) -> Report:
    """Measure error rates, confidences and speed of a reader.

    Args:
        entry: a handwriting model.
        data: a pack with the columns image and text (and corpus, writer, document, if intervals and tables are to know
            them), a folder of pairs `a.png` and `a.gt.txt`, ALTO or PAGE files with their pictures, or train, val, test
            below ZOO_PACKS.
        weights: a safetensors file instead of the published weights.
        official: refused: there are no weights of the authors.
        against: peers, such as rapidocr.
        protocol: the decoder: greedy (default), beam or corrected (greedy with post-correction), with the calibration
            of the weights if they have one.
        device: auto, cpu, cuda.
        precision: fp32, bf16, fp16, int8.
        limit: only the first lines.
        offline: ask no network for weights.
        progress: told how many lines are done, of how many.

    Raises:
        UsageError: unknown pack, decoder, precision, device or peer.
        InputError: the lines or a picture cannot be used.
        WeightsError: weights are missing or wrong.
        MissingDependencyError: a peer is not installed.
    """
    start = time.perf_counter()
    manifest = entry.manifest
    decoder = protocol or "greedy"
    if decoder not in PROTOCOLS:
        raise UsageError(f"There is no protocol {decoder!r}.", did_you_mean(decoder, tuple(PROTOCOLS)))
    if precision not in manifest.precisions:
        raise UsageError(f"{manifest.id} does not run in {precision!r}.", did_you_mean(precision, manifest.precisions))
    if official is not None:
        raise UsageError("There are no official weights: the authors have published none.", "Leave --official out.")
    where = choose_device(device)
    path = find_pack(data, below=PACKS_BELOW)
    found = find(entry, weights=weights, offline=offline)
    network = build(entry, found, device=where, dtype=DTYPES.get(precision, torch.float32))
    assert isinstance(network, HTRJAND)  # noqa: S101 - the manifest names this class
    wanted = [decoder] if decoder == "greedy" else [decoder, "greedy"]
    decoders = [Decoder.by_options(entry, network, HTROptions.model_validate(PROTOCOLS[name])) for name in wanted]
    lines = list(true_lines(path, limit=limit))

    total, done = len(lines) * (1 + len(against)), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    reader = LineReader(network, device=where, precision=precision, bounds=decoders[0].bounds)
    outcomes = read(reader, decoders, lines, step=step)
    others: dict[str, Outcome] = {f"{d.decoder} decoder": o for d, o in zip(decoders[1:], outcomes[1:], strict=True)}
    if against:
        from zoo_htr.peers import peer

        for name in against:
            others[name] = read_by_peer(peer(name, threads=torch.get_num_threads()), lines, step=step)

    groups = resampled_together(lines)
    scores = {name: score([line.text for line in lines], o.texts) for name, o in others.items()}
    ours = score([line.text for line in lines], outcomes[0].texts)
    ways = [_way(name, scores[name], others[name].seconds, groups) for name in others]
    corpora = by_corpus(lines, ours, scores, groups)
    writers = by_writer(lines, ours)
    more = {
        "lines": len(lines),
        "lines_per_second": len(lines) / outcomes[0].seconds,
        "characters": int(ours.weights["cer"].sum()),
        "macro_cer": float(np.mean([row["cer"] for row in corpora.values()])),
        "empty_references": ours.empty,
        "characters_read_in_empty_lines": ours.invented,
        **edits(lines, outcomes[0].texts),
        "confidence": reliability(lines, outcomes[0].readings, ours),
        "corpora": corpora,
        "writers": writers,
        "readings": [
            {"name": line.name, "reference": line.text, "text": r.text, "confidence": r.confidence}
            for line, r in zip(lines, outcomes[0].readings, strict=True)
        ],
    }
    return Report(
        model=manifest.id,
        dataset=path.name.removesuffix(".parquet"),
        protocol=decoder,
        names=tuple(line.name for line in lines),
        ours=replace(_way("ours", ours, outcomes[0].seconds, groups), answers=tuple(outcomes[0].texts)),
        others=tuple(ways),
        seconds=time.perf_counter() - start,
        checks=tuple(_checks(decoder, corpora)),
        digits=DIGITS,
        shown=SHOWN,
        more=more,
        tables=tuple(tables.all_tables(more, list(others))),
        facts={
            "precision": precision,
            "engine": reader.described,
            "weights": {"origin": found.origin, "file": found.path.name, "sha256": sha256_of(found.path)},
            "data_sha256": _digest(lines),
            "normaliser": normalise.VERSION,
            **decoders[0].facts,
            "versions": versions("zoo-htr"),
            "commit": commit(),
            "hardware": describe_hardware(where, processes=1),
        },
    )


def read(
    reader: LineReader, decoders: Sequence[Decoder], lines: Sequence[TrueLine], *, step: Callable[[int], None]
) -> list[Outcome]:
    """Read lines with several decoders over one run of the network, whose time each of them is charged.

    Args:
        reader: of the network.
        decoders: each reads the lines of a page together.
        lines: what is read.
        step: told after every batch how many lines are done.
    """
    seconds, network_seconds = [0.0] * len(decoders), 0.0
    readings: list[dict[int, Reading]] = [{} for _ in decoders]
    for batch in _batches(lines):
        start = time.perf_counter()
        pictures = [lines[i].pixels for page in batch for i in page]  # decoded beside the computation
        log_probs = iter(reader.log_probs(pictures))
        pages = [[next(log_probs) for _ in page] for page in batch]
        network_seconds += time.perf_counter() - start
        for number, decoder in enumerate(decoders):
            start = time.perf_counter()
            for page, known in zip(batch, pages, strict=True):
                readings[number] |= zip(page, decoder.read(known), strict=True)
            seconds[number] += time.perf_counter() - start
        step(len(pictures))
    return [
        Outcome(tuple(found[i] for i in range(len(lines))), network_seconds + own)
        for found, own in zip(readings, seconds, strict=True)
    ]


def read_by_peer(
    peer: Callable[[Sequence[NDArray[np.uint8]]], list[str]],
    lines: Sequence[TrueLine],
    *,
    step: Callable[[int], None],
) -> Outcome:
    """Read the same lines with another system."""
    readings: dict[int, Reading] = {}
    start = time.perf_counter()
    for batch in _batches(lines):
        numbers = [i for page in batch for i in page]
        texts = peer([lines[i].pixels() for i in numbers])
        readings |= {i: as_reading(text) for i, text in zip(numbers, texts, strict=True)}
        step(len(numbers))
    return Outcome(tuple(readings[i] for i in range(len(lines))), time.perf_counter() - start)


def as_reading(text: str) -> Reading:
    """Return a bare text as a reading that claims nothing."""
    return Reading(tuple(Char(c, 1.0, 0, 0) for c in text), 1.0, 0.0)


def resampled_together(lines: Sequence[TrueLine]) -> list[str]:
    """Return for each line the label of what is resampled whole: its writer, in a corpus of one writer its document.

    Lines that name neither are resampled one by one.
    """
    writers: dict[str, set[str]] = {}
    for line in lines:
        writers.setdefault(line.corpus, set()).add(line.writer)
    labels = []
    for line in lines:
        alone = len(writers[line.corpus]) < 2
        label = line.document or line.writer if alone else line.writer or line.document
        labels.append(f"{line.corpus}/{label or line.name}")
    return labels


def by_corpus(
    lines: Sequence[TrueLine], ours: Scores, others: Mapping[str, Scores], groups: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return figures of each corpus, with intervals, and ours minus the other systems'."""
    result: dict[str, dict[str, Any]] = {}
    for corpus in dict.fromkeys(line.corpus for line in lines):
        here = np.array([line.corpus == corpus for line in lines])
        labels = [group for group, inside in zip(groups, here, strict=True) if inside]
        weights = ours.weights["cer"][here].tolist()
        values = ours.values["cer"][here].tolist()
        row: dict[str, Any] = {
            "lines": int(here.sum()),
            "writers": len({line.writer for line in lines if line.corpus == corpus}),
            **{metric: ours.rate(metric, here) for metric in METRICS},
            "cer_interval": list(bootstrap_mean(values, weights=weights, groups=labels)),
            "against": {},
        }
        for name, theirs in others.items():
            difference = paired(values, theirs.values["cer"][here].tolist(), weights=weights, groups=labels)
            row["against"][name] = {"cer": theirs.rate("cer", here), "ours_minus_this": difference._asdict()}
        result[corpus or "all"] = row
    return result


def by_writer(lines: Sequence[TrueLine], ours: Scores) -> dict[str, Any]:
    """Return the CER of each writer, and how it spreads: median, quartiles, worst decile."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, line in enumerate(lines):
        groups.setdefault((line.corpus, line.writer or line.document), []).append(i)
    rows: list[dict[str, Any]] = []
    for (corpus, writer), numbers in groups.items():
        chosen = np.array(numbers)
        characters = int(ours.weights["cer"][chosen].sum())
        if characters:
            rate = ours.rate("cer", chosen)
            rows.append(
                {"corpus": corpus, "writer": writer, "lines": len(chosen), "characters": characters, "cer": rate}
            )
    rates = [float(row["cer"]) for row in rows]
    quartiles = np.quantile(rates, (0.25, 0.5, 0.75, 0.9)).tolist() if rates else [float("nan")] * 4
    return {
        "count": len(rows),
        "median": quartiles[1],
        "quartiles": [quartiles[0], quartiles[2]],
        "worst_decile": quartiles[3],
        "rows": sorted(rows, key=lambda row: -float(row["cer"])),
    }


def edits(lines: Sequence[TrueLine], texts: Sequence[str]) -> dict[str, Any]:
    """Return counts of edits by kind, and the most frequent ones."""
    found = confusions([line.text for line in lines], texts)
    return {
        "insertions": found.insertions,
        "deletions": found.deletions,
        "substitutions": found.substitutions,
        "top_confusions": [[there, read, count] for (there, read), count in found.pairs.most_common(CONFUSIONS)],
    }


def reliability(lines: Sequence[TrueLine], readings: Sequence[Reading], scores: Scores) -> dict[str, Any]:
    """Return whether confidences of characters, words and lines keep what they say, and what rejecting is worth."""
    sure = np.array([char.confidence for reading in readings for char in reading.chars])
    kept = [chars_right(reading, line.text) for reading, line in zip(readings, lines, strict=True)]
    chars = np.concatenate([np.zeros(0, np.bool_), *kept])
    found = [list(reading.words()) for reading in readings]
    sure_words = np.array([word.confidence for line in found for word in line])
    kept = [right(words(line.text), [w.text for w in f]) for line, f in zip(lines, found, strict=True)]
    of_words = np.concatenate([np.zeros(0, np.bool_), *kept])
    units = scores.weights["cer"]
    errors = scores.values["cer"] * units
    of_lines = np.array([reading.confidence for reading in readings])
    return {
        "ece": expected_calibration_error(sure, chars),
        "brier": brier(sure, chars),
        "word_ece": expected_calibration_error(sure_words, of_words),
        "word_brier": brier(sure_words, of_words),
        "line_ece": expected_calibration_error(of_lines, 1 - np.minimum(scores.values["cer"], 1)),
        **_exact_ece(readings, scores),
        "aurc": area_under_risk_coverage(of_lines, errors, units),
        "cer_after_rejecting_percent": rejection_curve(of_lines, errors, units, REJECTED),
    }


def _exact_ece(readings: Sequence[Reading], scores: Scores) -> dict[str, float]:
    """Return whether the probabilities that lines have no error keep what they say; nothing without a calibration."""
    if any(reading.exact is None for reading in readings):
        return {}
    claimed = np.array([reading.exact for reading in readings], float)
    return {"exact_ece": expected_calibration_error(claimed, scores.values["exact"])}


def _checks(decoder: str, corpora: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    """A language model is never to hurt: in no corpus may it be worse than the greedy decoder."""
    if decoder != "greedy":
        worse = [
            f"{name}: {100 * row['cer']:.2f} %, greedy {100 * row['against']['greedy decoder']['cer']:.2f} %"
            for name, row in corpora.items()
            if row["cer"] > row["against"]["greedy decoder"]["cer"] + HURT
        ]
        yield Check("the language model costs no corpus more than 0.1 points of CER", not worse, "; ".join(worse))


def _way(name: str, scores: Scores, seconds: float, groups: Sequence[str]) -> Way:
    values = {metric: scores.values[metric].tolist() for metric in METRICS}
    weights = {metric: scores.weights[metric].tolist() for metric in METRICS}
    note = f"{len(groups) / seconds:.1f} lines a second" if seconds else ""
    return Way.of(name, values, seconds=seconds, note=note, weights=weights, groups=groups)


def _batches(lines: Sequence[TrueLine]) -> Iterator[list[list[int]]]:
    """Yield the numbers of lines by pages, whole pages together, until there are enough for a batch."""
    pages: dict[str, list[int]] = {}
    for i, line in enumerate(lines):
        pages.setdefault(line.page, []).append(i)
    batch: list[list[int]] = []
    for page in pages.values():
        batch.append(page)
        if sum(map(len, batch)) >= AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _digest(lines: Sequence[TrueLine]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.text.encode() + b"\0")
        digest.update(line.picture if isinstance(line.picture, bytes) else line.picture.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    from zoo_core.cli.main import main

    main(["eval", *sys.argv[1:]])
