"""How the learning rate goes: a function of the step."""

from __future__ import annotations

import math


def warm_cosine(step: int, *, steps: int, warmup_steps: int, highest: float, lowest: float) -> float:
    """Return the rate of a step: a linear rise, then half a cosine down (Loshchilov and Hutter, arXiv:1608.03983).

    Args:
        step: from 0.
        steps: of the whole run.
        warmup_steps: of the rise, whose last one has the highest rate.
        highest: rate.
        lowest: rate, which the step behind the last would have.
    """
    if step < warmup_steps:
        return highest * (step + 1) / warmup_steps
    way = (step - warmup_steps) / max(1, steps - warmup_steps)
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * way)) / 2
