"""From lines of text to an interpolated character n-gram (Chen and Goodman, 1999, sections 2.6, 2.7 and 3).

With h the symbols before c, h' the same without the oldest one:

    p(c | h) = alpha(c | h) + gamma(h) p(c | h'),    gamma(h) = 1 - sum of alpha(. | h);  below one symbol 1 / V

Witten-Bell:  alpha = n(hc) / (n(h) + t(h)), with t(h) kinds of symbols after h.
Kneser-Ney, modified:  alpha = (n(hc) - D(n(hc))) / n(h), with discounts D for counts of 1, 2 and more, from how many
n-grams have each count; below the highest order n(hc) counts the kinds of symbols before hc, except at a line's begin.

Every n-gram is one number: its context, the youngest symbol in the highest of the used bytes, and c in the lowest.
Sorted, that is the order of a tree that is walked from the youngest symbol to the oldest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import UsageError
from zoo_htr.alphabet import Alphabet, normal

Codes: TypeAlias = NDArray[np.uint64]
Floats: TypeAlias = NDArray[np.float64]
Method: TypeAlias = Literal["kneser-ney", "witten-bell"]

EDGE = 0  # the begin of a line in contexts, its end as a symbol: the blank's index, which no text holds
MOST_SYMBOLS = 255
MOST_ORDER = 8  # bytes of a number


@dataclass(frozen=True)
class Level:
    """The n-grams of one length, sorted.

    Args:
        codes: context and symbol, see the module.
        alpha: what each n-gram adds to its symbol.
        gamma: for each n-gram, what its context leaves to the level below; equal within a context.
        counts: how often it occurs.
    """

    codes: Codes
    alpha: Floats
    gamma: Floats
    counts: NDArray[np.int64]


def estimate(
    lines: Iterable[str], alphabet: Alphabet, *, order: int = 7, method: Method = "kneser-ney", prune: float = 0.0
) -> list[Level]:
    """Estimate a model; level k has contexts of k symbols.

    Args:
        lines: text as it stands in lines: the begin and the end of each are learnt too.
        alphabet: characters that it lacks are left out of the text.
        order: symbols of the longest n-gram, 2 to 8.
        method: of estimation.
        prune: nats; an n-gram of three symbols or more goes if without it the training text would become less likely by
            no more than this (as in Seymore and Rosenfeld, 1996).

    Raises:
        UsageError: an order out of range, an alphabet of more than 254 symbols, or no text.
    """
    if not 2 <= order <= MOST_ORDER:
        raise UsageError(f"An n-gram has 2 to {MOST_ORDER} symbols, not {order}.")
    if len(alphabet) > MOST_SYMBOLS:
        raise UsageError(f"An n-gram file holds at most {MOST_SYMBOLS - 1} symbols, not {len(alphabet) - 1}.")
    symbols, places = _symbols(lines, alphabet)
    counted = _counts(symbols, places, order)
    if method == "witten-bell":
        levels = [_witten_bell(codes, counts) for codes, counts in counted]
    else:
        levels = [
            _kneser_ney(codes, counts, counts if above is None else _kinds(codes, counts, above))
            for (codes, counts), above in zip(counted, [*(codes for codes, _ in counted[1:]), None], strict=True)
        ]
    return _pruned(levels, len(alphabet), prune) if prune > 0 else levels


def pseudo_lines(paragraphs: Iterable[str], *, shortest: int = 22, longest: int = 60, seed: int = 0) -> list[str]:
    """Cut running text into lines as handwriting has them: at blanks, of varying length, beginning amid sentences.

    Args:
        paragraphs: running text.
        shortest: least length that is aimed at, in characters.
        longest: largest one.
        seed: of the lengths.
    """
    rng = np.random.default_rng(seed)
    lines = []
    for paragraph in paragraphs:
        line, aim = "", int(rng.integers(shortest, longest + 1))
        for word in paragraph.split():
            if line and len(line) + 1 + len(word) > aim:
                lines.append(line)
                line, aim = "", int(rng.integers(shortest, longest + 1))
            line = f"{line} {word}" if line else word
        if line:
            lines.append(line)
    return lines


def _symbols(lines: Iterable[str], alphabet: Alphabet) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all symbols with an edge before and after each line, and the place of each in its line."""
    coded: list[bytes] = []
    for line in lines:
        text = normal(line)
        missing = set(alphabet.unknown(text))
        if missing:
            text = "".join(c for c in text if c not in missing)
        if text:
            coded.append(bytes([EDGE, *alphabet.encode(text), EDGE]))
    if not coded:
        raise UsageError("There is no text to count.", "Name a text file or a pack with lines of text.")
    places = np.concatenate([np.arange(len(line)) for line in coded])
    return np.frombuffer(b"".join(coded), np.uint8), places


def _counts(symbols: NDArray[np.uint8], places: NDArray[np.int64], order: int) -> list[tuple[Codes, NDArray[np.int64]]]:
    contexts = np.zeros(len(symbols), np.uint64)
    counted = []
    for level in range(order):
        if level:
            older = np.zeros(len(symbols), np.uint64)
            older[level:] = symbols[:-level]
            contexts = contexts << np.uint64(8) | older
        # the edge before a line is given, never foretold
        told = places >= max(level, 1)
        codes, counts = np.unique(contexts[told] << np.uint64(8) | symbols[told], return_counts=True)
        counted.append((codes, counts))
    return counted


def _kinds(codes: Codes, counts: NDArray[np.int64], above: Codes) -> NDArray[np.int64]:
    """Return for each n-gram how many kinds of symbols stand before it; where the line begins, how often it occurs."""
    known, kinds = np.unique(_shorter(above), return_counts=True)
    result = counts.copy()
    places = np.searchsorted(codes, known)
    result[places] = kinds
    return result


def _shorter(codes: Codes) -> Codes:
    """Return n-grams without the oldest symbol of their contexts."""
    return codes >> np.uint64(16) << np.uint64(8) | (codes & np.uint64(0xFF))


def _contexts(codes: Codes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each context begins, and for each n-gram the number of its context."""
    contexts = codes >> np.uint64(8)
    starts = np.flatnonzero(np.append(True, contexts[1:] != contexts[:-1]))
    return starts, np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(codes))))


def _witten_bell(codes: Codes, counts: NDArray[np.int64]) -> Level:
    starts, owner = _contexts(codes)
    total, kinds = np.add.reduceat(counts, starts), np.bincount(owner)
    whole = (total + kinds)[owner]
    return Level(codes, counts / whole, kinds[owner] / whole, counts)


def _kneser_ney(codes: Codes, counts: NDArray[np.int64], kinds: NDArray[np.int64]) -> Level:
    """Estimate from `kinds` (which are counts at the highest level)."""
    seen = [int((kinds == n).sum()) for n in range(1, 5)]
    # a level so small that a count does not occur gets the discounts of absolute discounting
    if min(seen) > 0:
        share = seen[0] / (seen[0] + 2 * seen[1])
        discounts = [n - (n + 1) * share * seen[n] / seen[n - 1] for n in (1, 2, 3)]
        discounts = [min(max(d, 0.0), n) for d, n in zip(discounts, (1, 2, 3), strict=True)]
    else:
        discounts = [0.5, 0.75, 0.75]
    discount = np.array([0.0, *discounts])[np.minimum(kinds, 3)]
    starts, owner = _contexts(codes)
    total = np.add.reduceat(kinds, starts)[owner]
    gamma = np.add.reduceat(discount, starts)[owner] / total
    return Level(codes, (kinds - discount) / total, gamma, counts)


def _pruned(levels: Sequence[Level], symbols: int, threshold: float) -> list[Level]:
    """Drop n-grams that the level below foretells nearly as well; what they had goes to the level below."""
    kept: list[Level] = []
    whole = np.zeros(0)
    for number, level in enumerate(levels):
        if number:
            below = whole[np.searchsorted(levels[number - 1].codes, _shorter(level.codes))]
        else:
            below = np.full(len(level.codes), 1 / symbols)
        whole = level.alpha + level.gamma * below
        if number < 2:
            kept.append(level)
            continue
        stays = level.counts * (np.log(whole) - np.log(below)) > threshold
        starts, owner = _contexts(level.codes)
        left = np.bincount(owner, np.where(stays, level.alpha, 0.0), len(starts))
        alpha, codes = level.alpha[stays], level.codes[stays]
        kept.append(Level(codes, alpha, (1 - left)[owner][stays], level.counts[stays]))
    return kept
