"""CTC of a given text: how likely the network finds it, and which frames show which symbol (Graves et al., 2006)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoo_htr.alphabet import BLANK

Floats = NDArray[np.float64]
NEVER = -np.inf


def log_likelihoods(log_probs: NDArray[np.floating], labels: Sequence[Sequence[int]]) -> list[float]:
    """Return log p(label | line) in nats for several labels of one line: the sum over all paths (their equation 8).

    -inf where the line has too few frames for a label.

    Args:
        log_probs: (T, V) log-softmax.
        labels: symbol indices without blanks; one may be empty.
    """
    if not labels:
        return []
    logs = log_probs.astype(np.float64)
    states, skips, ends = _extended(labels)
    alpha = np.full(states.shape, NEVER)
    alpha[:, 0] = 0.0  # before the first frame: only "nothing yet" is possible, entered from the left
    alpha = np.pad(alpha, ((0, 0), (1, 0)), constant_values=NEVER)  # a column on the left that never is reached
    rows = np.arange(len(labels))
    if not len(logs):
        return [0.0 if end == 0 else NEVER for end in ends]
    first = np.full_like(alpha, NEVER)
    first[:, 1] = logs[0][states[:, 0]]
    if states.shape[1] > 1:
        first[:, 2] = np.where(ends >= 1, logs[0][states[:, 1]], NEVER)
    alpha = first
    for frame in logs[1:]:
        step = np.logaddexp(alpha[:, 1:], alpha[:, :-1])
        step[:, 2:] = np.logaddexp(step[:, 2:], np.where(skips[:, 2:], alpha[:, 1:-2], NEVER))
        alpha[:, 1:] = step + frame[states]
    last = alpha[rows, ends + 1]
    before = np.where(ends > 0, alpha[rows, ends], NEVER)
    return [float(total) for total in np.logaddexp(last, before)]


def best_spans(log_probs: NDArray[np.floating], label: Sequence[int]) -> list[tuple[int, int]]:
    """Return for each symbol of a label the frames [start, end) that show it on the likeliest path of the label.

    Args:
        log_probs: (T, V) log-softmax; a text that a decoder found on them has enough frames.
        label: symbol indices without blanks.

    Raises:
        ValueError: the line has too few frames for the label.
    """
    if not label:
        return []
    logs = log_probs.astype(np.float64)
    states, skips, _ = _extended([label])
    emitted = logs[:, states[0]]  # (T, S)
    count = emitted.shape[1]
    score = np.full(count + 2, NEVER)  # two columns on the left that never are reached
    moves = np.zeros((len(logs), count), np.int8)
    if len(logs):
        score[2:4] = emitted[0, :2]
    for t in range(1, len(logs)):
        ways = np.stack([score[2:], score[1:-1], np.where(skips[0], score[:-2], NEVER)])
        moves[t] = ways.argmax(axis=0)
        score[2:] = ways.max(axis=0) + emitted[t]
    state = count - 1 if score[-1] >= score[-2] else count - 2
    if not len(logs) or score[state + 2] == NEVER:
        raise ValueError(f"{len(logs)} frames cannot show {len(label)} symbols")
    spans = [(0, 0)] * len(label)
    for t in range(len(logs) - 1, -1, -1):
        if state % 2:
            spans[state // 2] = (t, spans[state // 2][1] or t + 1)
        state -= int(moves[t, state])
    return spans


def _extended(labels: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return labels with blanks around every symbol: states (N, S), where a blank may be skipped, and last states."""
    longest = max(map(len, labels))
    states = np.full((len(labels), 2 * longest + 1), BLANK, np.int64)
    for row, label in zip(states, labels, strict=True):
        row[1 : 2 * len(label) : 2] = label
    skips = np.zeros(states.shape, np.bool_)
    skips[:, 2:] = (states[:, 2:] != BLANK) & (states[:, 2:] != states[:, :-2])
    return states, skips, np.array([2 * len(label) for label in labels])
