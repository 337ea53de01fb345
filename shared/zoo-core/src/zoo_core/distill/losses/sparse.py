"""Divergence from a teacher of whom only the k largest probabilities are kept (distill spec 4.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.distill.losses.reduce import mean_inside, wide
from zoo_core.distill.targets import Sparse
from zoo_core.errors import UsageError


def sparse_kl(student: Tensor, teacher: Sparse, *, mask: Tensor | None = None, tau: float = 1.0) -> Tensor:
    """tau^2 (sum_i p_i log(p_i / q_i) + r log(r / (1 - sum_i q_i))), the tail r = 1 - sum_i p_i as one more class.

    Never above the whole divergence (merging classes loses information), and equal to it where the tail's classes agree
    up to a factor. Scaling the p_i to sum 1 instead would overestimate, as q is not scaled.

    Args:
        student: (B, ..., C) logits.
        teacher: k probabilities, classes and tail, made by `TopK` at the same temperature.
        mask: (B, ...).
        tau: temperature.

    Returns:
        (B,).
    """
    p, classes, r = wide(teacher.p), teacher.classes.long(), wide(teacher.tail)
    if student.shape[:-1] != p.shape[:-1]:
        raise UsageError(f"The student's logits are {tuple(student.shape)}, the teacher's targets {tuple(p.shape)}.")
    log_q = functional.log_softmax(wide(student) / tau, -1)
    chosen = log_q.gather(-1, classes)
    kept = torch.logsumexp(chosen, -1)
    rest = log1mexp(kept)
    values = torch.where(p == 0, 0.0, p * (p.clamp(min=1e-38).log() - chosen)).sum(-1)
    values = values + torch.where(r == 0, 0.0, r * (r.clamp(min=1e-38).log() - rest))
    return tau**2 * mean_inside(values, mask, dims=values.ndim - 1)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0, exact at both ends (Maechler 2012); finite also at x = 0, where it would be -inf."""
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > -math.log(2)
    return torch.where(
        near, torch.log(-torch.expm1(torch.where(near, x, -1.0))), torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    )
