"""Post-correction: the language may change what the network is unsure of, and nothing else.

Off by default: a transcription shows what stands on the page. This is the first, simple form: the likeliest texts by
the network alone (16 of them) are ranked again with the n-grams. A corrector of bytes (ByT5's kind) is not built.

A candidate passes the gate if all of this holds: the line's confidence is below 0.9; every edit touches only
characters whose confidence is below 0.8; at most 20 % of the line is edited; no digit is touched; and the network
finds the text at most 2.5 nats an edit less likely than what it read: log p(y' | x) >= log p(y | x) - 2.5 edits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from zoo_htr.align import log_likelihoods
from zoo_htr.alphabet import Alphabet
from zoo_htr.beam import Hypothesis, beam_search
from zoo_htr.ngram.model import Mixture
from zoo_htr.reading import Reading

SURE_LINE = 0.9
SURE_CHAR = 0.8
MOST_EDITED = 0.2  # of the line
NATS_AN_EDIT = 2.5


def better(
    log_probs: NDArray[np.floating],
    reading: Reading,
    alphabet: Alphabet,
    mixture: Mixture,
    *,
    bonus: float,
    width: int,
) -> Hypothesis | None:
    """Return the text that the language prefers, if it passes the gate; None if the reading is to stay.

    Args:
        log_probs: (T, V) log-softmax of the line.
        reading: what was read, with calibrated confidences.
        alphabet: V symbols.
        mixture: the language.
        bonus: nats a character.
        width: how many texts are ranked.
    """
    if reading.confidence >= SURE_LINE or not reading.chars:
        return None
    label = tuple(alphabet.index(char.text) for char in reading.chars)
    found = [h.label for h in beam_search(log_probs, width=width)]
    texts = list(dict.fromkeys([label, *found]))
    acoustic = log_likelihoods(log_probs, texts)
    ranks = [
        seen + mixture.scale * sum(mixture.symbol_logs(text)) + bonus * len(text)
        for seen, text in zip(acoustic, texts, strict=True)
    ]
    for i in np.argsort([-rank for rank in ranks], kind="stable"):
        if ranks[i] <= ranks[0]:
            return None
        if passes(reading, texts[i], alphabet, lost=acoustic[0] - acoustic[i]):
            return Hypothesis(texts[i], acoustic[i], ranks[i])
    return None


def passes(reading: Reading, candidate: tuple[int, ...], alphabet: Alphabet, *, lost: float) -> bool:
    """Return whether a text may take a reading's place.

    Args:
        reading: what was read.
        candidate: symbol indices of the other text.
        alphabet: of both.
        lost: by how many nats the network finds it less likely.
    """
    label = [alphabet.index(char.text) for char in reading.chars]
    edits = Levenshtein.editops(label, candidate)
    if not len(edits) or len(edits) > MOST_EDITED * len(label) or lost > NATS_AN_EDIT * len(edits):
        return False
    for edit in edits:
        if edit.tag == "insert":
            touched = reading.chars[max(edit.src_pos - 1, 0) : edit.src_pos + 1]
            # what is added stands between two characters; one of them must be in doubt
            doubted = any(char.confidence < SURE_CHAR for char in touched)
        else:
            touched = reading.chars[edit.src_pos : edit.src_pos + 1]
            doubted = touched[0].confidence < SURE_CHAR
        written = "" if edit.tag == "delete" else alphabet.symbols[candidate[edit.dest_pos]]
        replaced = "" if edit.tag == "insert" else touched[0].text
        if not doubted or written.isdigit() or replaced.isdigit():
            return False
    return True
