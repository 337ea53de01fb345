"""Attention in a band with decay on tensor cores: a program makes the rows (or, backward, the keys) of one tile.

Tiles of keys outside the band are never read. Sums of the backward pass are left tile by tile and added in a fixed
order: no atomics, the same input gives the same bits.
"""

# Triton's language has no type annotations of its own for what a kernel takes.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Shape of a program: queries, keys, pipeline depth, warps."""

    queries: int = 64
    keys: int = 64
    stages: int = 2
    warps: int = 4


@triton.jit
def _tile(base, at, inside, width, WIDTH: tl.constexpr):
    """Load rows `at` of a matrix with `width` columns, zero where not inside."""
    c = tl.arange(0, WIDTH)
    return tl.load(base + at[:, None] * width + c[None, :], mask=inside[:, None] & (c < width)[None, :], other=0.0)


@triton.jit
def _scores(q, k, i, j, lam, mu, length, N, scale, left, right, PRECISION: tl.constexpr):
    """Scores, -inf where there is no pair, and the signed distances from the peak."""
    apart = j[None, :] - i[:, None]
    t = apart.to(tl.float32) - mu
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale - lam * tl.abs(t)
    seen = (apart >= -left) & (apart <= right) & (j < length)[None, :] & (i < N)[:, None]
    return tl.where(seen, s, float("-inf")), t


@triton.jit
def _forward(
    Q, K, V, LAM, MU, LENGTHS, OUT, LSE, N, D, DV, scale, left, right, H, SHARE,
    BM: tl.constexpr, BN: tl.constexpr, WD: tl.constexpr, WV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)  # example and query head
    head = row % H
    keys = (row // H) * (H // SHARE) + head // SHARE
    length = tl.load(LENGTHS + row // H)
    lam, mu = tl.load(LAM + head), tl.load(MU + head)
    begin = tl.program_id(0) * BM
    i = begin + tl.arange(0, BM)
    q = _tile(Q + row.to(tl.int64) * N * D, i, i < N, D, WD)
    top = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, WV), tl.float32)
    first = tl.maximum(begin - left, 0) // BN * BN
    last = tl.minimum(begin + BM + right, length)
    for start in tl.range(first, last, BN, num_stages=STAGES):
        j = start + tl.arange(0, BN)
        k = _tile(K + keys.to(tl.int64) * N * D, j, j < length, D, WD)
        v = _tile(V + keys.to(tl.int64) * N * DV, j, j < length, DV, WV)
        s, _ = _scores(q, k, i, j, lam, mu, length, N, scale, left, right, PRECISION)
        higher = tl.maximum(top, tl.max(s, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp(s - safe[:, None])
        shrink = tl.exp(top - safe)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        top = higher
    some = total > 0
    out = acc / tl.where(some, total, 1.0)[:, None]
    lse = tl.where(some, top + tl.log(tl.where(some, total, 1.0)), float("-inf"))
    c = tl.arange(0, WV)
    at = OUT + row.to(tl.int64) * N * DV + i[:, None] * DV + c[None, :]
    tl.store(at, out.to(OUT.dtype.element_ty), mask=(i < N)[:, None] & (c < DV)[None, :])
    tl.store(LSE + row.to(tl.int64) * N + i, lse, mask=i < N)


@triton.jit
def _probabilities(s, lse):
    """exp(s - lse), zero in rows without a key."""
    return tl.exp(s - tl.where(lse == float("-inf"), 0.0, lse)[:, None])


@triton.jit
def _backward_queries(
    Q, K, V, LAM, MU, LENGTHS, DOUT, LSE, DELTA, DLSE, DQ, PARTIAL, N, D, DV, scale, left, right, H, SHARE,
    BM: tl.constexpr, BN: tl.constexpr, WD: tl.constexpr, WV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)
    head = row % H
    keys = (row // H) * (H // SHARE) + head // SHARE
    length = tl.load(LENGTHS + row // H)
    lam, mu = tl.load(LAM + head), tl.load(MU + head)
    begin = tl.program_id(0) * BM
    i = begin + tl.arange(0, BM)
    q = _tile(Q + row.to(tl.int64) * N * D, i, i < N, D, WD)
    d_out = _tile(DOUT + row.to(tl.int64) * N * DV, i, i < N, DV, WV)
    lse = tl.load(LSE + row.to(tl.int64) * N + i, mask=i < N, other=float("-inf"))
    delta = tl.load(DELTA + row.to(tl.int64) * N + i, mask=i < N, other=0.0)
    d_lse = tl.load(DLSE + row.to(tl.int64) * N + i, mask=i < N, other=0.0)
    dq = tl.zeros((BM, WD), tl.float32)
    d_lam = tl.zeros((BM,), tl.float32)
    d_mu = tl.zeros((BM,), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    distance = tl.zeros((BM,), tl.float32)
    side = tl.zeros((BM,), tl.float32)
    first = tl.maximum(begin - left, 0) // BN * BN
    last = tl.minimum(begin + BM + right, length)
    for start in tl.range(first, last, BN, num_stages=STAGES):
        j = start + tl.arange(0, BN)
        k = _tile(K + keys.to(tl.int64) * N * D, j, j < length, D, WD)
        v = _tile(V + keys.to(tl.int64) * N * DV, j, j < length, DV, WV)
        s, t = _scores(q, k, i, j, lam, mu, length, N, scale, left, right, PRECISION)
        p = _probabilities(s, lse)
        ds = p * (tl.dot(d_out, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
        sign = tl.where(t > 0, 1.0, tl.where(t < 0, -1.0, 0.0))
        d_lam -= tl.sum(ds * tl.abs(t), 1)
        d_mu += tl.sum(ds * sign, 1)
        total += tl.sum(ds, 1)
        distance += tl.sum(p * tl.abs(t), 1)
        side += tl.sum(p * sign, 1)
    # A row of dS adds up to dlse. What is missing is the error of delta, made from an output rounded to half precision:
    # small beside dS, but not beside the sums over all rows, where dS cancels.
    missing = d_lse - total
    d_lam -= missing * distance
    d_mu += missing * side
    c = tl.arange(0, WD)
    at = DQ + row.to(tl.int64) * N * D + i[:, None] * D + c[None, :]
    tl.store(at, (dq * scale).to(DQ.dtype.element_ty), mask=(i < N)[:, None] & (c < D)[None, :])
    place = PARTIAL + (row * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(place, tl.sum(d_lam, 0))
    tl.store(place + 1, tl.sum(d_mu, 0) * lam)


@triton.jit
def _backward_keys(
    Q, K, V, LAM, MU, LENGTHS, DOUT, LSE, DELTA, DK, DVALUE, N, D, DV, scale, left, right, H, SHARE,
    BM: tl.constexpr, BN: tl.constexpr, WD: tl.constexpr, WV: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1)  # example and key head: queries of all heads that share it are added here
    key_heads = H // SHARE
    length = tl.load(LENGTHS + row // key_heads)
    begin = tl.program_id(0) * BN
    j = begin + tl.arange(0, BN)
    k = _tile(K + row.to(tl.int64) * N * D, j, j < length, D, WD)
    v = _tile(V + row.to(tl.int64) * N * DV, j, j < length, DV, WV)
    dk = tl.zeros((BN, WD), tl.float32)
    dv = tl.zeros((BN, WV), tl.float32)
    first = tl.maximum(begin - right, 0) // BM * BM
    last = tl.where(begin < length, tl.minimum(begin + BN + left, N), 0)
    for member in range(SHARE):
        head = row % key_heads * SHARE + member
        lam, mu = tl.load(LAM + head), tl.load(MU + head)
        queries = ((row // key_heads) * H + head).to(tl.int64) * N
        for start in tl.range(first, last, BM, num_stages=STAGES):
            i = start + tl.arange(0, BM)
            q = _tile(Q + queries * D, i, i < N, D, WD)
            d_out = _tile(DOUT + queries * DV, i, i < N, DV, WV)
            lse = tl.load(LSE + queries + i, mask=i < N, other=float("-inf"))
            delta = tl.load(DELTA + queries + i, mask=i < N, other=0.0)
            s, _ = _scores(q, k, i, j, lam, mu, length, N, scale, left, right, PRECISION)
            p = _probabilities(s, lse)
            ds = p * (tl.dot(d_out, tl.trans(v), input_precision=PRECISION) - delta[:, None])
            dv += tl.dot(tl.trans(p.to(d_out.dtype)), d_out, input_precision=PRECISION)
            dk += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision=PRECISION)
    c, e = tl.arange(0, WD), tl.arange(0, WV)
    at = row.to(tl.int64) * N + j
    inside = (j < N)[:, None]
    tl.store(DK + at[:, None] * D + c[None, :], (dk * scale).to(DK.dtype.element_ty), mask=inside & (c < D)[None, :])
    tl.store(DVALUE + at[:, None] * DV + e[None, :], dv.to(DVALUE.dtype.element_ty), mask=inside & (e < DV)[None, :])


def _sizes(q: Tensor, v: Tensor, k: Tensor, tile: Tile) -> dict[str, object]:
    """Return what all three kernels take alike; fp32 is multiplied as such, not as TF32."""
    return {
        "N": q.shape[2],
        "D": q.shape[3],
        "DV": v.shape[3],
        "H": q.shape[1],
        "SHARE": q.shape[1] // k.shape[1],
        "BM": tile.queries,
        "BN": tile.keys,
        "WD": max(16, triton.next_power_of_2(q.shape[3])),
        "WV": max(16, triton.next_power_of_2(v.shape[3])),
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "STAGES": tile.stages,
    }


def band(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor,
    mu: Tensor,
    lengths: Tensor,
    scale: float,
    left: int,
    right: int,
    *,
    tile: Tile = Tile(),
) -> tuple[Tensor, Tensor]:
    """See `zoo_core.kernels.band.band`; `tile` is the shape of a program."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    batch, heads, tokens, _ = q.shape
    out = q.new_empty(batch, heads, tokens, v.shape[3], dtype=v.dtype)
    lse = q.new_empty(batch, heads, tokens, dtype=torch.float32)
    grid = (triton.cdiv(tokens, tile.queries), batch * heads)
    _forward[grid](
        q, k, v, lam.float(), mu.float(), lengths, out, lse,
        scale=scale, left=left, right=right, num_warps=tile.warps, **_sizes(q, v, k, tile),
    )  # fmt: skip
    return out, lse


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
    *,
    tile: Tile = Tile(),
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `zoo_core.kernels.band.reference.band_backward`."""
    q, k, v, d_out = q.contiguous(), k.contiguous(), v.contiguous(), d_out.contiguous()
    batch, heads, tokens, _ = q.shape
    d_lse = d_lse.float().contiguous()
    delta = (d_out.float() * out.float()).sum(-1) - d_lse
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    tiles = triton.cdiv(tokens, tile.queries)
    partial = q.new_empty(batch, heads, tiles, 2, dtype=torch.float32)
    same = {"scale": scale, "left": left, "right": right, "num_warps": tile.warps, **_sizes(q, v, k, tile)}
    inputs = (q, k, v, lam.float(), mu.float(), lengths, d_out, lse, delta.contiguous())
    _backward_queries[(tiles, batch * heads)](*inputs, d_lse, dq, partial, **same)
    _backward_keys[(triton.cdiv(tokens, tile.keys), batch * k.shape[1])](*inputs, dk, dv, **same)
    d_lam, d_mu = partial.sum((0, 2)).unbind(-1)
    return dq, dk, dv, d_lam.to(lam.dtype), d_mu.to(mu.dtype)
