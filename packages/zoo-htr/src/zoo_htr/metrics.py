"""Error rates of texts (spec 5): edits over units of the reference, each by a stated way to cut a text into units.

Both sides are brought to NFC with runs of white space as one blank and none at the ends; nothing else is changed for
the strict rates. A rate over many lines is micro: the sum of edits over the sum of units. A line whose reference is
empty has no units; it is left out of the rates and counted apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from zoo_htr.alphabet import normal

Cut = Callable[[str], Sequence[str]]

# letters, digits and underscores with their combining marks; an apostrophe stays with what it ends: l' | eau, don' | t
_WORD_OR_SIGN = re.compile(r"(?:\w[\u0300-\u036f]*)+'?|[^\w\s][\u0300-\u036f]*")
_GRAPHEME = re.compile(r".[\u0300-\u036f]*", re.DOTALL)


def words(text: str) -> list[str]:
    """Cut at white space."""
    return text.split()


def words_and_signs(text: str) -> list[str]:
    """Cut at white space, and punctuation off as units of its own; an apostrophe ends the word that it follows."""
    return _WORD_OR_SIGN.findall(text)


def graphemes(text: str) -> list[str]:
    """Cut into letters with their combining marks."""
    return _GRAPHEME.findall(text)


def without_case(text: str) -> str:
    """Return the text in lower case."""
    return text.lower()


def without_accents(text: str) -> str:
    """Return the text without combining marks: é is e, ç is c."""
    apart = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(c for c in apart if unicodedata.category(c) != "Mn"))


def without_punctuation(text: str) -> str:
    """Return the text without the characters of Unicode's categories P."""
    return " ".join("".join(c for c in text if not unicodedata.category(c).startswith("P")).split())


# name -> how a normal text is cut into the units whose edits are counted
RATES: Mapping[str, Cut] = {
    "cer": lambda text: text,
    "wer": words,
    "wer_signs": words_and_signs,
    "cer_graphemes": graphemes,
    "cer_caseless": without_case,
    "cer_accentless": without_accents,
    "cer_unpunctuated": without_punctuation,
}
# one value a line, every line counts the same
PER_LINE = ("exact", "flor_legacy")
METRICS = (*RATES, *PER_LINE)


@dataclass(frozen=True)
class Scores:
    """How far texts are from their references, line by line; rates are weighted means of the values.

    Args:
        values: metric -> (N,) edits over units of each line; 0 where there are no units.
        weights: metric -> (N,) units of each line, such as characters of the reference; 0 takes a line out.
        empty: how many references are empty.
        invented: characters that were read where the reference is empty.
    """

    values: Mapping[str, NDArray[np.float64]]
    weights: Mapping[str, NDArray[np.float64]]
    empty: int
    invented: int

    def rate(self, metric: str, lines: NDArray[np.generic] | None = None) -> float:
        """Return a metric over all lines, or those that an index or mask picks; nan if they have no units."""
        values, weights = self.values[metric], self.weights[metric]
        if lines is not None:
            values, weights = values[lines], weights[lines]
        total = weights.sum()
        return float((values * weights).sum() / total) if total else float("nan")


def score(references: Sequence[str], texts: Sequence[str]) -> Scores:
    """Compare texts with their references.

    Args:
        references: what stands in the lines.
        texts: what was read, in the same order.

    Raises:
        ValueError: not as many on both sides.
    """
    if len(references) != len(texts):
        raise ValueError(f"{len(texts)} texts cannot be compared with {len(references)} references")
    pairs = [(normal(reference), normal(text)) for reference, text in zip(references, texts, strict=True)]
    values, weights = {}, {}
    for metric, cut in RATES.items():
        edits, units = np.zeros(len(pairs)), np.zeros(len(pairs))
        for i, (reference, text) in enumerate(pairs):
            known = cut(reference)
            units[i] = len(known)
            edits[i] = Levenshtein.distance(known, cut(text))
        values[metric], weights[metric] = edits / np.maximum(units, 1), units
        values[metric][units == 0] = 0
    counted = np.array([bool(reference) for reference, _ in pairs], float)
    values["exact"] = np.array([reference == text for reference, text in pairs], float)
    values["flor_legacy"] = np.array([flor_legacy(reference, text) for reference, text in pairs], float)
    weights["exact"] = weights["flor_legacy"] = counted
    invented = sum(len(text) for reference, text in pairs if not reference)
    return Scores(values, weights, sum(not reference for reference, _ in pairs), invented)


def flor_legacy(reference: str, text: str) -> float:
    """Return the "CER" of a line as HTR-Flor's evaluation took it, for comparison with papers that may have used it.

    In lower case, over the longer of both texts; a corpus is the plain mean over lines. All three lower the figure.
    """
    a, b = reference.lower(), text.lower()
    return Levenshtein.distance(a, b) / max(len(a), len(b), 1)


@dataclass(frozen=True)
class Confusions:
    """What was done wrong, by character.

    Args:
        insertions: characters read that are not there.
        deletions: characters that were not read.
        substitutions: characters read as others.
        pairs: (what stands there, what was read) -> how often; "" on one side for insertions and deletions.
    """

    insertions: int
    deletions: int
    substitutions: int
    pairs: Counter[tuple[str, str]]


def confusions(references: Sequence[str], texts: Sequence[str]) -> Confusions:
    """Count the edits of a shortest way from each reference to its text; lines with an empty reference count too."""
    pairs: Counter[tuple[str, str]] = Counter()
    for reference, text in zip(references, texts, strict=True):
        known, read = normal(reference), normal(text)
        for edit in Levenshtein.editops(known, read):
            there = "" if edit.tag == "insert" else known[edit.src_pos]
            instead = "" if edit.tag == "delete" else read[edit.dest_pos]
            pairs[there, instead] += 1
    inserted = sum(count for (there, _), count in pairs.items() if not there)
    deleted = sum(count for (_, instead), count in pairs.items() if not instead)
    return Confusions(inserted, deleted, sum(pairs.values()) - inserted - deleted, pairs)


def right(reference: Sequence[str], text: Sequence[str]) -> NDArray[np.bool_]:
    """Return for each unit of a text whether a shortest way from the reference keeps it."""
    kept = np.zeros(len(text), np.bool_)
    for block in Levenshtein.opcodes(reference, text):
        if block.tag == "equal":
            kept[block.dest_start : block.dest_end] = True
    return kept
