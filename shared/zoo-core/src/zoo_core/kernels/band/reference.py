"""Attention in a band with decay, and its gradients, in plain PyTorch: the formulas, in fp32 or wider.

Notation: t_ij = j - i - mu, S_ij = scale q_i . k_j - lambda |t_ij| where -left <= j - i <= right and j < length, else
-inf; P = softmax(S), O = P V, lse = log sum_j exp(S_ij).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _grouped(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[1], 1)


def _scores(
    q: Tensor, k: Tensor, lam: Tensor, mu: Tensor, lengths: Tensor, scale: float, left: int, right: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return S (B, H, N, N), t (H, N, N) and which pairs exist (B, 1, N, N)."""
    wide = torch.promote_types(q.dtype, torch.float32)
    place = torch.arange(q.shape[2], device=q.device)
    apart = place[None, :] - place[:, None]
    t = apart - mu.to(wide)[:, None, None]
    seen = ((apart >= -left) & (apart <= right))[None, None] & (place < lengths[:, None])[:, None, None]
    s = scale * q.to(wide) @ _grouped(k.to(wide), q.shape[1]).mT - lam.to(wide)[:, None, None] * t.abs()
    return s.masked_fill(~seen, float("-inf")), t, seen


def _live(x: Tensor, lengths: Tensor) -> Tensor:
    """Return keys or values with zeros in the padding, where NaN may stand."""
    dead = torch.arange(x.shape[2], device=x.device) >= lengths[:, None]
    return x.masked_fill(dead[:, None, :, None], 0)


def band(
    q: Tensor, k: Tensor, v: Tensor, lam: Tensor, mu: Tensor, lengths: Tensor, scale: float, left: int, right: int
) -> tuple[Tensor, Tensor]:
    """See `zoo_core.kernels.band.band`."""
    k, v = _live(k, lengths), _live(v, lengths)
    s, _, _ = _scores(q, k, lam, mu, lengths, scale, left, right)
    empty = s.isneginf().all(-1)
    lse = torch.where(empty, 0.0, torch.where(empty[..., None], 0.0, s).logsumexp(-1))
    p = (s - lse[..., None]).exp()
    out = p @ _grouped(v.to(p.dtype), q.shape[1])
    return out.to(v.dtype), lse.masked_fill(empty, float("-inf"))


def band_backward(
    d_out: Tensor,
    d_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor,
    mu: Tensor,
    lengths: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    left: int,
    right: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v, lambda and mu.

    dS = P (dP - delta), dP = dO V^T, delta = dO . O - dlse; dlambda = -sum dS |t|, dmu = sum dS lambda sign(t).
    """
    heads, groups = q.shape[1], k.shape[1]
    k, v = _live(k, lengths), _live(v, lengths)
    s, t, _ = _scores(q, k, lam, mu, lengths, scale, left, right)
    p = (s - lse.masked_fill(lse.isneginf(), 0)[..., None]).exp()
    wide_out = d_out.to(p.dtype)
    delta = (wide_out * out.to(p.dtype)).sum(-1) - d_lse
    ds = p * (wide_out @ _grouped(v.to(p.dtype), heads).mT - delta[..., None])

    def shared(x: Tensor) -> Tensor:
        return x.reshape(len(x), groups, heads // groups, *x.shape[2:]).sum(2)

    return (
        (scale * ds @ _grouped(k.to(p.dtype), heads)).to(q.dtype),
        shared(scale * ds.mT @ q.to(p.dtype)).to(k.dtype),
        shared(p.mT @ wide_out).to(v.dtype),
        -(ds * t.abs()).sum((0, 2, 3)).to(lam.dtype),
        (ds.sum(0) * lam.to(p.dtype)[:, None, None] * t.sign()).sum((1, 2)).to(mu.dtype),
    )
