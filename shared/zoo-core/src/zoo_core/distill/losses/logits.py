"""Divergences of class probabilities from logits (..., C) (distill spec 4.1).

Notation: t, s logits of teacher and student, p = softmax(t / tau), q = softmax(s / tau). The factor tau^2 keeps the
size of the gradient the same for every temperature (Hinton, Vinyals, Dean, arXiv:1503.02531, section 2.1); as tau grows
the gradient becomes that of the squared distance of centred logits over C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.distill.losses.reduce import mean_inside, same_shape, wide
from zoo_core.errors import UsageError


def kl(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, tau: float = 1.0, chunk: int = 0) -> Tensor:
    """tau^2 KL(p || q), the divergence that distils: 0 at best, gradient tau (q - p).

    Args:
        student: (B, ..., C).
        teacher: the same shape.
        mask: (B, ...), over what lies between.
        tau: temperature, above 0.
        chunk: places at a time, so that no softmax of the whole exists at once (large C); 0: all. The same value.

    Returns:
        (B,), the mean over the places of each sample.
    """
    return _places(_kl, student, teacher, mask, tau, chunk)


def reverse_kl(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, tau: float = 1.0) -> Tensor:
    """tau^2 KL(q || p): seeks one mode of the teacher instead of covering all. Arguments as `kl`."""
    return _places(lambda s, t: _kl(t, s), student, teacher, mask, tau, 0)


def jsd(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, beta: float = 0.5, tau: float = 1.0) -> Tensor:
    """Generalised Jensen-Shannon: tau^2 (beta KL(p || m) + (1 - beta) KL(q || m)), m = beta p + (1 - beta) q.

    Args:
        student: (B, ..., C).
        teacher: the same shape.
        mask: (B, ...).
        beta: 0 is the forward `kl`, 1 the `reverse_kl` (by convention; the limits of the formula over beta (1 - beta));
            0.5 is symmetric, at most ln 2 without tau.
        tau: temperature.
    """
    if not 0 <= beta <= 1:
        raise UsageError(f"beta is {beta}.", "Choose it between 0 and 1.")
    if beta in (0, 1):
        return (kl if beta == 0 else reverse_kl)(student, teacher, mask=mask, tau=tau)

    def divergence(s: Tensor, t: Tensor) -> Tensor:
        log_p, log_q = functional.log_softmax(t, -1), functional.log_softmax(s, -1)
        weights = torch.tensor([beta, 1 - beta], dtype=s.dtype, device=s.device).log()
        log_m = torch.logsumexp(torch.stack([log_p + weights[0], log_q + weights[1]]), dim=0)
        return beta * _xlogx(log_p, log_m) + (1 - beta) * _xlogx(log_q, log_m)

    return _places(divergence, student, teacher, mask, tau, 0)


def bce(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Divergence of independent yes-or-no probabilities sigmoid(s), sigmoid(t), summed over C: KL of Bernoullis.

    That is the binary cross-entropy minus the teacher's entropy, so that it is 0 where both agree. Arguments as `kl`.
    """

    def divergence(s: Tensor, t: Tensor) -> Tensor:
        p = torch.sigmoid(t)
        positive = functional.logsigmoid(t) - functional.logsigmoid(s)
        negative = functional.logsigmoid(-t) - functional.logsigmoid(-s)
        return (p * positive + (1 - p) * negative).sum(-1)

    return _places(divergence, student, teacher, mask, 1.0, 0)


def mse_logits(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, centred: bool = True) -> Tensor:
    """Half the mean square over C of the difference of logits, centred over the classes if asked.

    tau^2 `kl` becomes this (centred) as tau goes to infinity. Arguments as `kl`.
    """

    def distance(s: Tensor, t: Tensor) -> Tensor:
        d = s - t
        return (d - d.mean(-1, keepdim=True) if centred else d).square().mean(-1) / 2

    return _places(distance, student, teacher, mask, 1.0, 0)


def dkd(
    student: Tensor, teacher: Tensor, *, target: Tensor, alpha: float = 1.0, beta: float = 8.0, tau: float = 4.0
) -> Tensor:
    """Decoupled distillation (Zhao et al., CVPR 2022, arXiv:2203.08679, equation 7): tau^2 (alpha TCKD + beta NCKD).

    TCKD is the divergence between target and not target, NCKD that among the other classes, which plain `kl` weighs by
    1 - p_target. Both come from a log-sum over the other classes.

    Args:
        student: (B, C).
        teacher: (B, C).
        target: (B,) class numbers.
        alpha: of TCKD.
        beta: of NCKD.
        tau: temperature.
    """
    same_shape(student, teacher)
    s, t = wide(student) / tau, wide(teacher) / tau
    at_target = functional.one_hot(target, s.shape[-1]).bool()

    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        others = torch.logsumexp(x.masked_fill(at_target, -torch.inf), -1)
        own = x.masked_select(at_target)
        return torch.log_softmax(torch.stack([own, others], -1), -1), x - others[:, None]

    (own_s, rest_s), (own_t, rest_t) = split(s), split(t)
    tckd = _xlogx(own_t, own_s)
    terms = rest_t.exp() * (rest_t - rest_s)
    nckd = torch.where(at_target, 0.0, terms).sum(-1)
    return tau**2 * (alpha * tckd + beta * nckd)


def cross_entropy(student: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy against class numbers: the usual loss, one number a sample. At best 0, reached by certainty alone.

    Args:
        student: (B, ..., C).
        target: (B, ...) class numbers.
        mask: (B, ...).
    """
    values = functional.cross_entropy(wide(student).movedim(-1, 1), target, reduction="none")
    return mean_inside(values, mask, dims=values.ndim - 1)


def mixture(logits: Sequence[Tensor], weights: Sequence[float] | Tensor, *, tau: float = 1.0) -> Tensor:
    """Return logits whose softmax at temperature tau is the weighted mean of several teachers' probabilities.

    The weighted sum of `kl` to several teachers of one label space and temperature equals `kl` to this mixture plus a
    constant: the same gradient for the price of one.

    Args:
        logits: of each teacher, all (..., C).
        weights: of each, above 0; or (teachers, ...), of each at every place. Scaled to sum 1.
        tau: temperature of both.
    """
    parts = torch.stack([torch.log_softmax(wide(x) / tau, -1) for x in logits])
    given = torch.as_tensor(weights, dtype=parts.dtype, device=parts.device)
    if len(given) != len(parts):
        raise UsageError(f"{len(given)} weights were given for {len(parts)} teachers.", "Give one for each.")
    shares = (given / given.sum(0)).log()
    return torch.logsumexp(parts + shares.reshape(shares.shape + (1,) * (parts.ndim - shares.ndim)), dim=0) * tau


def confidence(logits: Sequence[Tensor]) -> Tensor:
    """Return weights (teachers, ...) for `mixture`: exp(-H) of each teacher's entropy H at a place, scaled to sum 1."""
    certain = [-torch.special.entr(torch.softmax(wide(x), -1)).sum(-1) for x in logits]
    return torch.softmax(torch.stack(certain), dim=0)


def mixture_kl(
    student: Tensor,
    teachers: Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    tau: float = 1.0,
    weights: Sequence[float] | Literal["confidence"] = "confidence",
) -> Tensor:
    """`kl` to the `mixture` of several teachers, weighted by hand or at every place by their `confidence`.

    Args:
        student: (B, ..., C).
        teachers: all of that shape.
        mask: (B, ...).
        tau: temperature.
        weights: one number a teacher, or confidence.
    """
    for teacher in teachers:
        same_shape(student, teacher)
    if isinstance(weights, str) and weights != "confidence":
        raise UsageError(f"weights={weights!r} is no way to weigh teachers.", "Give numbers, or confidence.")
    shares = confidence(teachers) if isinstance(weights, str) else weights
    return kl(student, mixture(teachers, shares, tau=tau), mask=mask, tau=tau)


def _kl(s: Tensor, t: Tensor) -> Tensor:
    return _xlogx(functional.log_softmax(t, -1), functional.log_softmax(s, -1))


def _xlogx(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Sum p (log p - log q), with 0 log 0 = 0 also where log p is -inf."""
    p = log_p.exp()
    # not p > 0: that would hide NaN
    return torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(-1)


def _places(
    divergence: Callable[[Tensor, Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    tau: float,
    chunk: int,
) -> Tensor:
    """Apply a divergence of (..., C) at every place and average inside the samples."""
    if tau <= 0:
        raise UsageError(f"The temperature is {tau}.", "Choose one above 0.")
    same_shape(student, teacher)
    classes = student.shape[-1]
    if chunk:
        s_parts, t_parts = (torch.split(x.reshape(-1, classes), chunk) for x in (student, teacher))
        parts = [divergence(wide(s) / tau, wide(t) / tau) for s, t in zip(s_parts, t_parts, strict=True)]
        values = torch.cat(parts).reshape(student.shape[:-1])
    else:
        values = divergence(wide(student) / tau, wide(teacher) / tau)
    return tau**2 * mean_inside(values, mask, dims=student.ndim - 2)
