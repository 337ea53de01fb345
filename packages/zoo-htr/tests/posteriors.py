"""Log-probabilities for tests: of pure chance, or shaped as a CTC network's, with confusions and all."""

from __future__ import annotations

import itertools

import numpy as np


def chance(frames: int, symbols: int, seed: int, *, sharp: float = 1.0) -> np.ndarray:
    """(T, V) log-softmax of noise."""
    logits = np.random.default_rng(seed).normal(size=(frames, symbols)) * sharp
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def spoken(label: list[int], symbols: int, seed: int, *, unsure: float = 0.15) -> np.ndarray:
    """(T, V) as a network gives them for a label: blanks near 1, peaks of one or two frames, some of them unsure."""
    rng = np.random.default_rng(seed)
    frames = []
    for symbol in label:
        for _ in range(rng.integers(1, 5)):
            frames.append(_frame(0, 1 - 10.0 ** rng.uniform(-6, -2), symbols, rng))
        sure = rng.uniform(0.3, 0.7) if rng.random() < unsure else rng.uniform(0.9, 0.9999)
        for _ in range(rng.integers(1, 3)):
            frames.append(_frame(symbol, sure, symbols, rng))
    frames.append(_frame(0, 0.9999, symbols, rng))
    return np.log(np.stack(frames))


def _frame(peak: int, sure: float, symbols: int, rng: np.random.Generator) -> np.ndarray:
    rest = rng.dirichlet(np.full(symbols, 0.1)) + 1e-12
    rest[peak] = 0
    frame = rest / rest.sum() * (1 - sure)
    frame[peak] = sure
    return frame


def every_text(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Return the log probability of every text, by going through all V^T paths."""
    frames, symbols = log_probs.shape
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(symbols), repeat=frames):
        text = tuple(s for s, _ in itertools.groupby(path) if s)
        score = float(log_probs[np.arange(frames), path].sum())
        totals[text] = float(np.logaddexp(totals.get(text, -np.inf), score))
    return totals
