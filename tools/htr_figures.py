"""Compare HTR-JAND's trainings over their seeds on one split, and keep the figures: what teaching is worth, and more.

    uv run tools/htr_figures.py RUNS --data htr/lines/val.parquet -o models/htr-jand-student/figures-val.json

RUNS holds what tools/train_htr_gpu.py trained: teacher-1 to teacher-3, student, student-2, ..., student-taught, ...,
and maybe short, ..., short-taught, ..., each with weights.safetensors. All networks read the lines greedily, teachers
with the n-grams too, by the language weights in `--language`, which were fitted on val. A line's edits are averaged
over the seeds, then two ways are compared as `zoo eval` compares: writers are resampled whole, on both sides the same.
`--against rapidocr` needs `uv run --with rapidocr --with onnxruntime`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo_core.catalog import find
from zoo_core.evaluate import paired
from zoo_core.io.packs import find_pack
from zoo_core.train.record import commit, versions
from zoo_core.weights.build import construct
from zoo_core.weights.files import load_strict, read_tensors, sha256_of
from zoo_htr.confidence import Calibration, read_calibration
from zoo_htr.decode import Decoder
from zoo_htr.eval import evaluate, read, read_by_peer, resampled_together
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.metrics import Scores, score
from zoo_htr.peers import peer
from zoo_htr.recognise import LineReader
from zoo_htr.truth import TrueLine, true_lines

TEACHER, STUDENT = "htr-jand-teacher", "htr-jand-student"
WAYS = {  # name -> model, runs
    "teacher": (TEACHER, ("teacher-1", "teacher-2", "teacher-3")),
    "student alone": (STUDENT, ("student", "student-2", "student-3")),
    "student taught": (STUDENT, ("student-taught", "student-taught-2", "student-taught-3")),
    "student alone, fewer steps": (STUDENT, ("short", "short-2", "short-3")),
    "student taught, fewer steps": (STUDENT, ("short-taught", "short-taught-2", "short-taught-3")),
}
DIFFERENCES = {
    "student taught minus student alone": ("student taught", "student alone"),
    "the same with fewer steps": ("student taught, fewer steps", "student alone, fewer steps"),
    "student taught minus teacher": ("student taught", "teacher"),
}
BEAM = ("teacher",)  # read with the n-grams too


def read_run(
    model: str, weights: Path, lines: Sequence[TrueLine], language: Calibration | None
) -> tuple[Scores, Scores | None]:
    """Read all lines with one run's weights, greedily, and with the n-grams if there are language weights."""
    network = construct(find(model))
    assert isinstance(network, HTRJAND)  # noqa: S101 - the manifest names this class
    load_strict(network.eval(), read_tensors(weights)[0], what=str(weights))
    decoders = [Decoder(network.alphabet)]
    if language is not None:
        bare = language.model_copy(update={"maps": {}})
        decoders.append(Decoder(network.alphabet, decoder="beam", calibration=bare))
    found = read(LineReader(network.float()), decoders, lines, step=lambda _: None)
    truth = [line.text for line in lines]
    scores = [score(truth, outcome.texts) for outcome in found]
    return scores[0], scores[1] if len(scores) > 1 else None


def mean_values(scores: Sequence[Scores]) -> list[float]:
    """Return a line's CER, averaged over the seeds."""
    values: list[float] = np.mean([one.values["cer"] for one in scores], axis=0).tolist()
    return values


def told(scores: Sequence[Scores], corpora: Mapping[str, Any]) -> dict[str, Any]:
    """Return the CER of each seed, their mean, and the means by corpus."""
    rates = [one.rate("cer") for one in scores]
    return {
        "cer": float(np.mean(rates)),
        "seeds": rates,
        "corpora": {name: float(np.mean([one.rate("cer", mask) for one in scores])) for name, mask in corpora.items()},
    }


def main() -> None:
    """Read, compare, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", default="htr/lines/val.parquet")
    parser.add_argument("--limit", type=int, help="only the first lines: a rehearsal")
    parser.add_argument("--against", help="a peer, such as rapidocr")
    parser.add_argument("--language", type=Path, help="a calibration file, for the teachers' beam")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    path = find_pack(options.data)
    lines = list(true_lines(path, limit=options.limit))
    truth, groups = [line.text for line in lines], resampled_together(lines)
    corpora = {name: np.array([line.corpus == name for line in lines]) for name in sorted({x.corpus for x in lines})}
    language = read_calibration(options.language) if options.language else None

    greedy: dict[str, list[Scores]] = {}
    beams: list[Scores] = []
    hashes = {}
    for name, (model, runs) in WAYS.items():
        if not (options.runs / runs[0]).is_dir():
            continue
        for run in runs:
            weights = options.runs / run / "weights.safetensors"
            plain, beam = read_run(model, weights, lines, language if name in BEAM else None)
            greedy.setdefault(name, []).append(plain)
            beams += [beam] if beam is not None else []
            hashes[run] = sha256_of(weights)
            print(
                f"{run}: {100 * plain.rate('cer'):.2f} %" + (f", beam {100 * beam.rate('cer'):.2f} %" if beam else "")
            )

    figures: dict[str, Any] = {name: told(scores, corpora) for name, scores in greedy.items()}
    if beams:
        figures["teacher, beam"] = told(beams, corpora)
    weights_of_lines = greedy["teacher"][0].weights["cer"].tolist()
    compared = {
        name: paired(mean_values(greedy[a]), mean_values(greedy[b]), weights=weights_of_lines, groups=groups)._asdict()
        for name, (a, b) in DIFFERENCES.items()
        if a in greedy and b in greedy
    }
    published = evaluate(find(STUDENT), str(path), limit=options.limit)
    published_beam = evaluate(find(STUDENT), str(path), limit=options.limit, protocol="beam")
    figures["published student"] = {
        "cer": score(truth, list(published.ours.answers)).rate("cer"),
        "corpora": {name: row["cer"] for name, row in published.more["corpora"].items()},
        "ece": published.more["confidence"]["ece"],
    }
    figures["published student, beam"] = {
        "cer": score(truth, list(published_beam.ours.answers)).rate("cer"),
        "corpora": {name: row["cer"] for name, row in published_beam.more["corpora"].items()},
        "ece": published_beam.more["confidence"]["ece"],
    }
    if options.against:
        other = read_by_peer(peer(options.against, threads=torch.get_num_threads()), lines, step=lambda _: None)
        figures[options.against] = told([score(truth, other.texts)], corpora)

    record = {
        "data": path.name,
        "lines": len(lines),
        "characters": int(sum(weights_of_lines)),
        "figures": figures,
        "differences": compared,
        "weights": hashes,
        "versions": versions("zoo-htr"),
        "commit": commit(),
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


def table(record: Mapping[str, Any]) -> str:
    """Return the figures as a table in Markdown."""
    corpora = sorted(next(iter(record["figures"].values()))["corpora"])
    rows = [["greedy unless said", "CER", "seeds", *corpora, "ECE"]]
    for name, row in record["figures"].items():
        seeds = " ".join(f"{100 * rate:.2f}" for rate in row.get("seeds", ()))
        ece = f"{row['ece']:.4f}" if "ece" in row else ""
        shown = [f"{100 * row['corpora'][corpus]:.2f}" for corpus in corpora]
        rows.append([name, f"{100 * row['cer']:.2f} %", seeds, *shown, ece])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    for name, gap in record["differences"].items():
        low, high = 100 * gap["low"], 100 * gap["high"]
        lines.append(f"\n{name}: {100 * gap['mean']:+.2f} points ({low:+.2f} to {high:+.2f}), p = {gap['p']:.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
