"""Fits the parts of a calibration: a temperature, a monotone function, a logistic regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo_htr.align import log_likelihoods
from zoo_htr.confidence import FEATURES, ConfidenceMap, Monotone, log_sum, tempered
from zoo_htr.greedy import line_confidence
from zoo_htr.metrics import right, words
from zoo_htr.reading import Char, Reading

Floats: TypeAlias = NDArray[np.float64]

_GOLDEN = (5**0.5 - 1) / 2
_RIDGE = 1e-2  # keeps the regression finite where classes are apart
_PRIOR = 1.0  # imagined examples a step of the monotone function, half of them right: no step says 0 or 1


def fit_temperature(
    log_probs: Sequence[NDArray[np.float32]], labels: Sequence[Sequence[int]], *, low: float = 0.5, high: float = 4.0
) -> float:
    """Return the temperature that makes the labels likeliest by CTC; lines too short for their label do not count.

    Args:
        log_probs: (T, V) log-softmax of each line.
        labels: symbol indices of each.
        low: least temperature.
        high: greatest one.
    """

    def loss(temperature: float) -> float:
        found = [
            log_likelihoods(tempered(logs, temperature), [label])[0]
            for logs, label in zip(log_probs, labels, strict=True)
        ]
        return -sum(value for value in found if np.isfinite(value))

    return least(loss, low, high, steps=10)


def least(function: Callable[[float], float], low: float, high: float, *, steps: int) -> float:
    """Return where a function with one valley is least, by golden sections."""
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(steps):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - _GOLDEN * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + _GOLDEN * (high - low)
            at_b = function(b)
    return (low + high) / 2


def fit_monotone(x: Floats, y: Floats, weights: Floats | None = None) -> Monotone:
    """Fit by pooling adjacent violators (Ayer et al., 1955): least squares among functions that never fall.

    Args:
        x: (N,) of anything; N may be 0.
        y: (N,) in [0, 1].
        weights: (N,) of each; 1 by default.
    """
    if not len(x):
        return Monotone(x=(0.0,), y=(0.5,))
    weights = np.ones(len(x)) if weights is None else weights
    order = np.argsort(x, kind="stable")
    blocks: list[list[float]] = []  # sum of weights, of weighted y, of weighted x
    for place, value, weight in zip(x[order], y[order], weights[order], strict=True):
        blocks.append([weight, weight * value, weight * place])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    xs = np.array([b[2] / b[0] for b in blocks if b[0] > 0])
    ys = np.array([(b[1] + _PRIOR / 2) / (b[0] + _PRIOR) for b in blocks if b[0] > 0])
    # the prior pulls small blocks to the middle, which may make a step fall again
    ys = np.maximum.accumulate(ys)
    return Monotone(x=tuple(np.round(xs, 6).tolist()), y=tuple(np.round(ys, 6).clip(0, 1).tolist()))


def fit_logistic(features: Floats, outcomes: NDArray[np.bool_], *, steps: int = 25) -> tuple[Floats, float]:
    """Return slopes and bias of a logistic regression, by Newton's method with a little ridge.

    Args:
        features: (N, F), of zero mean and unit deviation.
        outcomes: (N,).
        steps: of Newton's method.
    """
    table = np.column_stack([features, np.ones(len(features))])
    beta = np.zeros(table.shape[1])
    ridge = _RIDGE * len(table) * np.eye(table.shape[1])
    ridge[-1, -1] = 0
    for _ in range(steps):
        p = 1 / (1 + np.exp(-(table @ beta).clip(-30, 30)))
        slope = table.T @ (outcomes - p) - ridge @ beta
        curve = (table * (p * (1 - p))[:, None]).T @ table + ridge + 1e-9 * np.eye(len(beta))
        beta = beta + np.linalg.solve(curve, slope)
    return beta[:-1], float(beta[-1])


def fit_map(features: Sequence[Floats], readings: Sequence[Reading], references: Sequence[str]) -> ConfidenceMap:
    """Fit the map of one decoder.

    Args:
        features: (L, 4) of each reading's characters.
        readings: of the lines.
        references: what stands in them, normal.
    """
    table = np.concatenate([np.zeros((0, len(FEATURES))), *features])
    outcomes = np.concatenate(
        [np.zeros(0, np.bool_), *(chars_right(r, t) for r, t in zip(readings, references, strict=True))]
    )
    centre = table.mean(axis=0) if len(table) else np.zeros(len(FEATURES))
    spread = np.maximum(table.std(axis=0), 1e-3) if len(table) else np.ones(len(FEATURES))
    slope, bias = fit_logistic((table - centre) / spread, outcomes)
    odds = (table - centre) / spread @ slope + bias
    level = Monotone(x=(0.0, 1.0), y=(0.0, 1.0))
    made = ConfidenceMap(
        centre=_rounded(centre),
        spread=_rounded(spread),
        slope=_rounded(slope),
        bias=round(bias, 6),
        char=fit_monotone(odds, outcomes.astype(np.float64)),
        word=level,
        line=level,
        empty=1.0,
        exact=level,
    )

    word_x, word_y, line_x, line_y, line_units, exact_x, exact_y = [], [], [], [], [], [], []
    truly_empty = [not reference for reading, reference in zip(readings, references, strict=True) if not reading.chars]
    for rows, reading, reference in zip(features, readings, references, strict=True):
        if not reading.chars:
            continue
        sure = made.chars(rows)
        chars = [Char(c.text, float(p), c.start, c.end) for c, p in zip(reading.chars, sure, strict=True)]
        plain = Reading(tuple(chars), line_confidence(chars, 1.0), 0.0)
        found = list(plain.words())
        word_x += [word.confidence for word in found]
        word_y += right(words(reference), [word.text for word in found]).tolist()
        line_x.append(plain.confidence)
        line_y.append(expected_accuracy(reading.text, reference))
        line_units.append(max(len(reference), 1))
        exact_x.append(log_sum(chars))
        exact_y.append(float(" ".join(reading.text.split()) == reference))
    mean_units = float(np.mean(line_units)) if line_units else 1.0
    return made.model_copy(
        update={
            "word": fit_monotone(np.array(word_x), np.array(word_y, np.float64)),
            "line": fit_monotone(np.array(line_x), np.array(line_y), np.array(line_units) / mean_units),
            "empty": (sum(truly_empty) + 1) / (len(truly_empty) + 1),
            "exact": fit_monotone(np.array(exact_x), np.array(exact_y)),
        }
    )


def chars_right(reading: Reading, reference: str) -> NDArray[np.bool_]:
    """Return for each symbol of a reading whether a shortest way from the reference keeps it."""
    return right(list(reference), [char.text for char in reading.chars])


def expected_accuracy(text: str, reference: str) -> float:
    """Return 1 - CER of a line, at least 0: what a line's confidence is to foretell."""
    from rapidfuzz.distance import Levenshtein

    return max(0.0, 1 - Levenshtein.distance(" ".join(text.split()), reference) / max(len(reference), 1))


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
