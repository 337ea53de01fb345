"""Attention in a band with a decay for each head, softmax(scale q k^T - lambda |j - i - mu|) v, forward and backward.

For long sequences: a tile reads only the keys of its band, and the decay is computed where scores are, so that nothing
of size N x N exists; lambda and mu get gradients, which FlexAttention does not give. Below about a thousand tokens
torch's SDPA with a table is faster. `tools/bench_gpu_attention.py` measures all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.kernels.band import reference

torch.library.define(
    "zoo::band",
    "(Tensor q, Tensor k, Tensor v, Tensor lam, Tensor mu, Tensor lengths, float scale, int left, int right)"
    " -> (Tensor, Tensor)",
)
torch.library.define(
    "zoo::band_backward",
    "(Tensor d_out, Tensor d_lse, Tensor q, Tensor k, Tensor v, Tensor lam, Tensor mu, Tensor lengths, Tensor out,"
    " Tensor lse, float scale, int left, int right) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("zoo::band", "CPU", reference.band)
torch.library.impl("zoo::band_backward", "CPU", reference.band_backward)


@torch.library.impl("zoo::band", "CUDA")
def _band_cuda(
    q: Tensor, k: Tensor, v: Tensor, lam: Tensor, mu: Tensor, lengths: Tensor, scale: float, left: int, right: int
) -> tuple[Tensor, Tensor]:
    from zoo_core.kernels.band import triton

    return triton.band(q, k, v, lam, mu, lengths, scale, left, right)


@torch.library.impl("zoo::band_backward", "CUDA")
def _band_backward_cuda(
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
    from zoo_core.kernels.band import triton

    return triton.band_backward(d_out, d_lse, q, k, v, lam, mu, lengths, out, lse, scale, left, right)


def _band_fake(
    q: Tensor, k: Tensor, v: Tensor, lam: Tensor, mu: Tensor, lengths: Tensor, scale: float, left: int, right: int
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(*q.shape[:3], v.shape[3], dtype=v.dtype), q.new_empty(q.shape[:3], dtype=wide)


def _band_backward_fake(
    d_out: Tensor, d_lse: Tensor, q: Tensor, k: Tensor, v: Tensor, lam: Tensor, mu: Tensor, *_: object
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v, lam, mu))


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6], *output)  # type: ignore[arg-type]
    ctx.numbers = inputs[6:]  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, lam, mu, lengths, out, lse = ctx.saved_tensors  # type: ignore[attr-defined]
    numbers = ctx.numbers  # type: ignore[attr-defined]
    gradients = torch.ops.zoo.band_backward(d_out, d_lse, q, k, v, lam, mu, lengths, out, lse, *numbers)
    return (*gradients, None, None, None, None)


torch.library.register_fake("zoo::band", _band_fake)
torch.library.register_fake("zoo::band_backward", _band_backward_fake)
torch.library.register_autograd("zoo::band", _backward, setup_context=_setup)


def band(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor,
    mu: Tensor | None = None,
    *,
    left: int,
    right: int,
    lengths: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return out (B, H, N, dv) of v's type and lse (B, H, N) in fp32 (fp64 for fp64); rows without a key: 0 and -inf.

    Args:
        q: (B, H, N, d), d up to 256; fp32, bf16 or fp16 on CUDA.
        k: (B, Hk, N, d); Hk divides H, neighbouring query heads share.
        v: (B, Hk, N, dv).
        lam: (H,), 0 or more; gets a gradient.
        mu: (H,) or None: 0; gets a gradient.
        left: how many keys before the query are seen.
        right: how many after it.
        lengths: (B,) keys that are there, or None: all; what stands behind them is not read.
        scale: default d^-1/2.

    Raises:
        ValueError: shapes do not fit.
    """
    if q.ndim != 4 or k.shape[:2] != v.shape[:2] or k.shape[2] != q.shape[2] or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: all need N tokens and Hk dividing H"
        )
    if lam.shape != (q.shape[1],) or (mu is not None and mu.shape != lam.shape):
        raise ValueError(f"lam and mu must have shape ({q.shape[1]},), one number a query head")
    if lengths is None:
        lengths = torch.full((len(q),), q.shape[2], device=q.device)
    mu = torch.zeros_like(lam) if mu is None else mu
    scale = q.shape[3] ** -0.5 if scale is None else scale
    out, lse = torch.ops.zoo.band(q, k, v, lam, mu, lengths.to(torch.int32), scale, left, right)
    return out, lse
