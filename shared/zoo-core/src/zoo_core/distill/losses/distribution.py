"""Distances between sets of features, and a loss with a given gradient (distill spec 4.6, 4.7)."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.distill.losses.reduce import same_shape, wide


def mmd_mean(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the means of two sets of features: maximum mean discrepancy with a linear kernel.

    Args:
        student: (B, n, D), B sets of n features.
        teacher: (B, m, D).

    Returns:
        (B,), summed over D.
    """
    return (wide(student).mean(1) - wide(teacher).mean(1)).square().sum(-1)


def gram(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square of the difference of the cosine similarities between the places of a sample: needs no adapter.

    Args:
        student: (B, N, D).
        teacher: (B, N, D'), any width.

    Returns:
        (B,).
    """
    ours, theirs = (torch.nn.functional.normalize(wide(x), dim=-1) for x in (student, teacher))
    ours, theirs = ours @ ours.mT, theirs @ theirs.mT
    same_shape(ours, theirs)
    return (ours - theirs).square().mean(dim=(1, 2))


def with_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose gradient with respect to x is exactly the given one: half the square of x - sg(x - gradient).

    Args:
        x: (B, ...).
        gradient: the same shape; no gradient flows into it.

    Returns:
        (B,), summed over all but the first dimension; an objective's mean over samples divides by B.
    """
    same_shape(x, gradient)
    goal = (x - gradient).detach()
    return ((x - goal).square() / 2).flatten(1).sum(1)
