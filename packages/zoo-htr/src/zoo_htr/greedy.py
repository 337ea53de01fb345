"""The plainest reading of what the network gives: the likeliest symbol of every frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoo_htr.alphabet import BLANK, Alphabet
from zoo_htr.reading import Char, Reading

ALTERNATIVES = 3  # other symbols that a reading names for a place
LEAST = 1e-9  # probability below which logarithms are not taken

Logs = NDArray[np.floating]


def greedy(log_probs: Tensor, alphabet: Alphabet) -> Reading:
    """Read one line; see `greedy_lines`."""
    return greedy_lines([log_probs], alphabet)[0]


def greedy_lines(log_probs: Sequence[Tensor], alphabet: Alphabet) -> list[Reading]:
    """Read the likeliest symbol of each frame: repeats are one symbol, blanks none.

    A symbol's confidence is the mean of its posterior over its frames, the line's the geometric mean over its symbols
    (of an empty line: the mean posterior of the blank, 1 without frames). Neither is calibrated; see
    `zoo_htr.confidence`. The score is the log probability of the one best path, a lower bound of the text's.

    Args:
        log_probs: for each line (T, V) log-softmax, T may be 0 and differs from line to line.
        alphabet: V symbols.
    """
    lengths = [len(line) for line in log_probs]
    if not sum(lengths):
        return [Reading((), 1.0, 0.0) for _ in lengths]
    logs = np.concatenate([line.detach().float().cpu().numpy() for line in log_probs])
    ends = np.cumsum(lengths)
    symbols = logs.argmax(axis=1)
    best = logs[np.arange(len(logs)), symbols]
    posteriors = np.exp(best)
    # a run of equal symbols begins where the symbol changes, and at the first frame of every line
    begins = np.append(True, symbols[1:] != symbols[:-1])
    begins[ends[:-1][ends[:-1] < len(logs)]] = True
    starts = np.flatnonzero(begins)
    stops = np.append(starts[1:], len(logs))
    means = np.add.reduceat(posteriors, starts) / (stops - starts)

    written = np.flatnonzero(symbols[starts] != BLANK)
    peaks = [start + int(best[start : stops[i]].argmax()) for i in written for start in [int(starts[i])]]
    others = iter(alternatives(logs[peaks], symbols[peaks], alphabet))

    readings, run = [], 0
    for first, end in zip(ends - lengths, ends, strict=True):
        chars = []
        while run < len(starts) and starts[run] < end:
            start, stop, symbol = int(starts[run]), int(stops[run]), int(symbols[starts[run]])
            if symbol != BLANK:
                span = start - int(first), stop - int(first)
                chars.append(Char(alphabet.symbols[symbol], min(float(means[run]), 1.0), *span, next(others)))
            run += 1
        sure = line_confidence(chars, float(posteriors[first:end].mean()) if end > first else 1.0)
        readings.append(Reading(tuple(chars), sure, float(best[first:end].sum())))
    return readings


def alternatives(logs: Logs, symbols: NDArray[np.integer], alphabet: Alphabet) -> list[tuple[tuple[str, float], ...]]:
    """Return the likeliest symbols of frames, other than the blank and the one that was read, best first.

    Args:
        logs: (L, V) log-softmax of the frames.
        symbols: (L,) what was read in each.
        alphabet: V symbols.
    """
    count = min(ALTERNATIVES + 2, len(alphabet))
    top = np.argpartition(-logs, count - 1, axis=1)[:, :count]
    likely = np.take_along_axis(logs, top, axis=1)
    order = np.argsort(-likely, axis=1, kind="stable")
    top, likely = np.take_along_axis(top, order, axis=1), np.take_along_axis(likely, order, axis=1)
    kept = (top != BLANK) & (top != symbols[:, None]) & np.isfinite(likely)
    rows = zip(top.tolist(), np.exp(likely.astype(np.float64)).tolist(), kept.tolist(), strict=True)
    return [
        tuple((alphabet.symbols[i], p) for i, p, good in zip(*row, strict=True) if good)[:ALTERNATIVES] for row in rows
    ]


def line_confidence(chars: Sequence[Char], empty: float) -> float:
    """Return the geometric mean of the symbols' confidences; `empty` for a line without symbols."""
    if not chars:
        return min(empty, 1.0)
    return math.exp(sum(math.log(max(char.confidence, LEAST)) for char in chars) / len(chars))
