"""DMD and Phased DMD: a sampler of few steps from a flow model, by matching distributions instead of samples.

Yin et al., CVPR 2024, arXiv:2311.18828 (and arXiv:2405.14867 for several steps); Phased DMD, arXiv:2510.27684. Flow
convention: x_t = (1 - t) x_0 + t e, velocity v = e - x_0, so x_0 = x_t - t v and e = x_t + (1 - t) v.

A generator makes x; x is noised to x_t; where the critic, which follows the generator's own distribution, expects
another clean sample than the teacher does, x is pushed from the one to the other (`generator_loss`). The critic learns
from the generator's samples (`critic_loss`), several times for each step of the generator.

Phased: [0, 1] is cut at 1 = t_0 > t_1 > ... > 0, and the expert of phase k maps samples at t_(k-1) to samples at
s = t_k, which are noisy themselves. From x_s, a sample at t > s is a x_s + b e (`noised`); the critic then learns the
noise that is added, in the form in which its minimum is the score of p_t and its weight stays finite as t falls to s:
|| (b / t) e_hat(x_t, t) - e ||^2. Taking x_s for a clean sample instead learns the score of another distribution.

Nothing here is a training loop: `zoo_core.distill.stages.Players` lets critic and generator take turns, and
`tools/distill_flow.py` shows all of it on points in a plane.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.distill.losses.distribution import with_gradient
from zoo_core.distill.losses.reduce import wide
from zoo_core.errors import UsageError

FLOOR = 1e-3  # of the distance by which a direction is divided


def times(samples: int, *, after: float = 0.0, draws: torch.Generator | None = None) -> Tensor:
    """Draw times (B,) uniformly from (s + 0.02 (1 - s), s + 0.98 (1 - s)): neither all noise nor none.

    Args:
        samples: B.
        after: s, where the phase ends.
        draws: the generator of the draws.
    """
    return after + (1 - after) * (0.02 + 0.96 * torch.rand(samples, generator=draws))


def coefficients(t: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """Return a and b with x_t = a x_s + b e: a = (1 - t) / (1 - s), b = sqrt(t^2 - a^2 s^2).

    Args:
        t: times in [s, 1].
        s: in [0, 1).

    Raises:
        UsageError: s is outside, or a time is before it.
    """
    if not 0 <= s < 1 or not bool(((t >= s) & (t <= 1)).all()):
        raise UsageError(
            f"Samples at s={s} cannot be noised to t from {float(t.min()):g} to {float(t.max()):g}.",
            "Times run from s to 1.",
        )
    a = (1 - t) / (1 - s)
    return a, (t.square() - (a * s).square()).clamp(min=0).sqrt()


def noised(x_s: Tensor, e: Tensor, t: Tensor, s: float = 0.0) -> Tensor:
    """Return samples at t from samples at s (0: clean ones).

    Args:
        x_s: (B, ...).
        e: noise of the same shape.
        t: (B,).
        s: in [0, 1).
    """
    a, b = (_over(c, x_s) for c in coefficients(t, s))
    return a * x_s + b * e


def clean(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Return the clean sample x_t - t v that a velocity means."""
    return x_t - _over(t, x_t) * v


def generator_loss(x: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Loss whose gradient is (fake - real) / mean |x - real|, the mean over each sample (DMD, equations 7 and 8).

    Args:
        x: (B, ...) what the generator made.
        real: the clean samples that the teacher expects behind the noised x.
        fake: those that the critic expects.

    Returns:
        (B,), summed inside the samples.
    """
    x, real, fake = wide(x), wide(real).detach(), wide(fake).detach()
    size = (x.detach() - real).abs().flatten(1).mean(1)
    return with_gradient(x, (fake - real) / _over(size + FLOOR, x))


def critic_loss(v: Tensor, x_s: Tensor, e: Tensor, t: Tensor, s: float = 0.0) -> Tensor:
    """Loss of the critic on samples of the generator: its minimum is the velocity of their distribution.

    Args:
        v: (B, ...) the critic's velocity at `noised(x_s, e, t, s)` and t.
        x_s: the generator's samples; no gradient flows into them.
        e: the noise.
        t: (B,).
        s: at which time the samples are.

    Returns:
        (B,), summed inside the samples: || v - (e - x_0) ||^2 for s = 0, else || (b / t) e_hat - e ||^2.
    """
    v, x_s, e = wide(v), wide(x_s).detach(), wide(e)
    if s == 0:
        return (v - (e - x_s)).square().flatten(1).sum(1)
    _, b = coefficients(t, s)
    e_hat = noised(x_s, e, t, s) + _over(1 - t, v) * v
    return (_over(b / t, v) * e_hat - e).square().flatten(1).sum(1)


def _over(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...) over another tensor."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))
