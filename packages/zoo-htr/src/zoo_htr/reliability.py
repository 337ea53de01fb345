"""Whether confidences mean what they say: calibration error, Brier score, and what rejecting the unsure is worth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

BINS = 15


def expected_calibration_error(confidences: Floats, right: NDArray[np.generic], *, bins: int = BINS) -> float:
    """Return sum over bins of (n_b / N) |share right - mean confidence|, in bins of equal mass; nan without values.

    Equal confidences may fall into two bins; they are ordered by nothing else, so that the order of the input does not
    matter: bins are cut between different values where that can be done.

    Args:
        confidences: (N,) in [0, 1].
        right: (N,) bool, or shares in [0, 1].
        bins: how many.
    """
    if not len(confidences):
        return float("nan")
    order = np.argsort(confidences, kind="stable")
    sure, outcome = confidences[order], right[order].astype(np.float64)
    edges = {round(i * len(sure) / bins) for i in range(bins + 1)}
    # an edge moves to the end of the values that equal the one before it
    cuts = sorted({int(np.searchsorted(sure, sure[edge - 1], "right")) if edge else 0 for edge in edges})
    gaps = [abs(outcome[a:b].sum() - sure[a:b].sum()) for a, b in pairwise(cuts)]
    return float(sum(gaps) / len(sure))


def brier(confidences: Floats, right: NDArray[np.generic]) -> float:
    """Return the mean of (confidence - outcome)^2; nan without values."""
    return float(np.mean((confidences - right.astype(np.float64)) ** 2)) if len(confidences) else float("nan")


def area_under_risk_coverage(confidences: Floats, errors: Floats, units: Floats) -> float:
    """Return the mean, over how many of the surest lines are kept, of their error rate; nan without lines.

    Args:
        confidences: (N,) of lines.
        errors: (N,) edits of each.
        units: (N,) characters of each reference.
    """
    order = np.argsort(-confidences, kind="stable")
    kept = np.cumsum(units[order])
    rates = np.cumsum(errors[order])[kept > 0] / kept[kept > 0]
    return float(rates.mean()) if len(rates) else float("nan")


def rate_after_rejection(confidences: Floats, errors: Floats, units: Floats, share: float) -> float:
    """Return the error rate of the lines that are left when the least sure are taken out; nan if none is left.

    Args:
        confidences: (N,) of lines.
        errors: (N,) edits of each.
        units: (N,) characters of each reference.
        share: of the lines, in [0, 1].
    """
    left = np.argsort(confidences, kind="stable")[round(share * len(confidences)) :]
    total = units[left].sum()
    return float(errors[left].sum() / total) if total else float("nan")


def rejection_curve(confidences: Floats, errors: Floats, units: Floats, shares: Sequence[float]) -> dict[str, float]:
    """Return the rate after rejecting each share, by the share in per cent."""
    return {f"{100 * s:g}": rate_after_rejection(confidences, errors, units, s) for s in shares}
