"""What `zoo eval` shows people of a handwriting report beside the first table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zoo_core.evaluate import Table


def all_tables(more: Mapping[str, Any], others: Sequence[str]) -> Iterator[Table]:
    """Yield the tables: by corpus, writers, edits, confidences, other ways to count.

    Args:
        more: figures of the report.
        others: names of the systems that ours is compared with.
    """
    yield _by_corpus(more["corpora"], others)
    writers = more["writers"]
    if writers["count"] > 1:
        low, high = writers["quartiles"]
        cells = (str(writers["count"]), *map(_percent, (low, writers["median"], high, writers["worst_decile"])))
        head = ("writers", "number", "lower quartile", "median", "upper quartile", "worst decile")
        yield Table("CER of writers, %", (head, ("", *cells)))
    yield _edits(more)
    yield _confidences(more["confidence"])


def _by_corpus(corpora: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> Table:
    head = ["corpus", "lines", "writers", "CER", "95 % of writers", "WER", "WER signs apart", "exact", "flor-legacy"]
    for name in others:
        head += [name, "ours minus this", "p"]
    rows = [tuple(head)]
    for corpus, row in corpora.items():
        low, high = row["cer_interval"]
        cells = [corpus, str(row["lines"]), str(row["writers"]), _percent(row["cer"])]
        cells.append(f"{_percent(low)} to {_percent(high)}")
        cells += [_percent(row[metric]) for metric in ("wer", "wer_signs", "exact", "flor_legacy")]
        for name in others:
            other = row["against"][name]
            d = other["ours_minus_this"]
            cells.append(_percent(other["cer"]))
            cells.append(f"{100 * d['mean']:+.2f} ({100 * d['low']:+.2f} to {100 * d['high']:+.2f})")
            cells.append(f"{d['p']:.4f}")
        rows.append(tuple(cells))
    return Table(
        "By corpus, in % (flor-legacy is no CER: lower case, over the longer text, mean of lines)", tuple(rows)
    )


def _edits(more: Mapping[str, Any]) -> Table:
    head = ("edits", "insertions", "deletions", "substitutions", "most frequent: what stands there > what was read")
    frequent = ", ".join(f"{_shown(a)} > {_shown(b)} {count}" for a, b, count in more["top_confusions"][:10])
    counts = tuple(str(more[kind]) for kind in ("insertions", "deletions", "substitutions"))
    return Table("Edits of characters", (head, ("", *counts, frequent)))


def _confidences(found: Mapping[str, Any]) -> Table:
    rejected = found["cer_after_rejecting_percent"]
    head = ("confidences", "ECE", "Brier", "ECE words", "ECE lines", "AURC", *(f"CER -{share} %" for share in rejected))
    figures = (f"{found[name]:.4f}" for name in ("ece", "brier", "word_ece", "line_ece", "aurc"))
    return Table(
        "Confidences, and CER in % without the least sure lines",
        (head, ("", *figures, *map(_percent, rejected.values()))),
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _shown(symbol: str) -> str:
    return {"": "nothing", " ": "blank"}.get(symbol, symbol)
