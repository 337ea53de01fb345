"""What a user knows of the text beforehand: its words, its characters, or every line that can occur."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import InputError, UsageError
from zoo_htr.alphabet import BLANK, Alphabet, normal
from zoo_htr.beam import Scorer

Floats = NDArray[np.float64]

PENALTY = 6.0  # nats for a word that the lexicon lacks
MOST_BYTES = 1 << 26
_OUTSIDE = -1  # state within a word that the lexicon lacks


class Lexicon:
    """A list of words as a scorer of the beam search: a word that is not in it costs a penalty, once.

    A word is a run of letters and combining marks; digits, signs and blanks part words and are free. Capitals count: a
    list that is to allow both holds both. The arc out of the vocabulary keeps names and misspellings readable, by what
    the network and the character model say of them.

    Args:
        words: entries; one with signs or blanks in it counts as several words.
        alphabet: of the network; words with other characters are left out.
        penalty: nats, at least 0.
    """

    def __init__(self, words: Iterable[str], alphabet: Alphabet, *, penalty: float = PENALTY) -> None:
        self._letters = np.array([i != BLANK and _is_letter(symbol) for i, symbol in enumerate(alphabet.symbols)])
        self._children: list[dict[int, int]] = [{}]
        self._whole = [True]  # between words nothing is unfinished
        for entry in words:
            text = normal(entry)
            if not text or alphabet.unknown(text):
                continue
            node = 0
            for symbol in (*alphabet.encode(text), BLANK):
                if self._letters[symbol]:
                    node = self._grown(node, symbol)
                elif node:
                    self._whole[node] = True
                    node = 0
        self._penalty = -abs(penalty)
        self._free = np.zeros(len(alphabet))
        self._rows: dict[int, Floats] = {_OUTSIDE: self._free}

    def start(self) -> int:
        """Return the state at the begin of a line."""
        return 0

    def row(self, state: int) -> Floats:
        """Return what each next symbol adds, (V,); index 0 is the end of the line."""
        found = self._rows.get(state)
        if found is None:
            found = np.where(self._letters, self._penalty, 0.0 if self._whole[state] else self._penalty)
            found[list(self._children[state])] = 0.0
            self._rows[state] = found
        return found

    def step(self, state: int, symbol: int) -> int:
        """Return the state after a symbol."""
        if not self._letters[symbol]:
            return 0
        return _OUTSIDE if state == _OUTSIDE else self._children[state].get(symbol, _OUTSIDE)

    def _grown(self, node: int, symbol: int) -> int:
        found = self._children[node].get(symbol)
        if found is None:
            found = self._children[node][symbol] = len(self._children)
            self._children.append({})
            self._whole.append(False)
        return found


class Together:
    """Several scorers as one: what they say is added."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._scorers = tuple(scorers)

    def start(self) -> tuple[Any, ...]:
        """Return the states of all at the begin of a line."""
        return tuple(scorer.start() for scorer in self._scorers)

    def row(self, state: tuple[Any, ...]) -> Floats:
        """Return the sum of what all say, (V,)."""
        first, *rest = (scorer.row(part) for scorer, part in zip(self._scorers, state, strict=True))
        for row in rest:
            first = first + row
        return first

    def step(self, state: tuple[Any, ...], symbol: int) -> tuple[Any, ...]:
        """Return the states of all after a symbol."""
        return tuple(scorer.step(part, symbol) for scorer, part in zip(self._scorers, state, strict=True))


def permitted(alphabet: Alphabet, charset: str) -> NDArray[np.bool_]:
    """Return which symbols a set of characters permits, (V,); the blank always is.

    Args:
        alphabet: V symbols.
        charset: what stands between the brackets of a regular expression's set, such as `0-9/` or `^>`.

    Raises:
        UsageError: not such a set, or no symbol is in it.
    """
    try:
        pattern = re.compile(f"(?:[{charset}])+")
    except re.error as error:
        raise UsageError(f"{charset!r} is no set of characters ({error}).", "Write it as 0-9/ or A-Za-z .") from error
    allowed = np.array([i == BLANK or bool(pattern.fullmatch(s)) for i, s in enumerate(alphabet.symbols)])
    if allowed.sum() < 2:
        raise UsageError(f"No symbol of the model is in {charset!r}.", "Write it as 0-9/ or A-Za-z .")
    return allowed


def masked(log_probs: NDArray[np.float32], allowed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return log-probabilities (T, V) as if the others' logits had been masked before the softmax."""
    kept = np.where(allowed, log_probs, np.float32(-np.inf))
    total: NDArray[np.float32] = np.logaddexp.reduce(kept, axis=1, keepdims=True)
    return kept - total


def read_entries(path: Path) -> list[str]:
    """Read a list: UTF-8, an entry a line, empty lines left out, repeated ones once.

    Raises:
        InputError: missing, not UTF-8, too large, or empty.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is larger than {MOST_BYTES >> 20} MiB.", "Take a shorter list.")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "A list is a UTF-8 file with an entry a line.") from error
    entries = list(dict.fromkeys(filter(None, map(normal, lines))))
    if not entries:
        raise InputError(f"{path} holds no entries.", "A list is a UTF-8 file with an entry a line.")
    return entries


def _is_letter(symbol: str) -> bool:
    return all(unicodedata.category(c)[0] in "LM" for c in symbol)
