"""Divergence between attention-like maps of student and teacher, without storing the maps (distill spec 4.3).

For x, y in {q, k, v}, per head: S = x y^T / sqrt(d), R = softmax(S) over keys, and KL(R_T || R_S), row by row. With
a = 1 / sqrt(d_T), b = 1 / sqrt(d_S) and attn(x, y; z) = softmax(x y^T / sqrt(d)) z,

    KL_i = a x_T,i . attn(x_T, y_T; y_T)_i - lse_T,i - b x_S,i . attn(x_T, y_T; y_S)_i + lse_S,i
    dKL/dx_S = b (attn(x_S, y_S; y_S) - attn(x_T, y_T; y_S)) = b (R_S - R_T) y_S
    dKL/dy_S = b (R_S - R_T)^T x_S

so the gradient needs the difference of two maps only, applied to something narrow. Three ways, one result:

- `explicit`: the definition, by autograd; keeps B H N N numbers several times. Unlike the others, it multiplies in TF32
  where a run allows that.
- `blocks`: rows in blocks, the difference of the maps formed before it is applied, so nothing cancels.
- `fused`: stock fused attention calls; memory O(N d), and where student and teacher are close the two outputs cancel,
  which single precision survives and half does not (so all ways compute in float32).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from zoo_core.distill.losses.reduce import wide
from zoo_core.errors import UsageError
from zoo_core.nn.number_format import number_format

Way = Literal["auto", "explicit", "blocks", "fused"]
Pair = tuple[Tensor, Tensor]
SMALL = 256  # up to so many tokens the explicit form is faster


def relation_kl(
    student: Pair, teacher: Pair, *, mask: Tensor | None = None, way: Way = "auto", block: int = 256
) -> Tensor:
    """Mean over heads and valid rows of KL(R_T || R_S).

    Args:
        student: x (B, H, N, d_S) and y, the same shape (or with fewer heads that are shared by groups of x's).
        teacher: x and y, (B, H, N, d_T); the widths may differ, so no adapter is needed.
        mask: (B, N), True on tokens; others are neither rows nor keys. At least one a sample.
        way: see the module; auto is explicit for small N without TF32, else blocks.
        block: rows at a time, for `blocks`.

    Returns:
        (B,).
    """
    (x_s, y_s), (x_t, y_t) = (_as_many_heads(wide(x), wide(y)) for x, y in (student, teacher))
    if x_s.shape[:3] != x_t.shape[:3]:
        raise UsageError(
            f"Relations of the student are over (batch, heads, tokens) {tuple(x_s.shape[:3])}, of the teacher over "
            f"{tuple(x_t.shape[:3])}.",
            "Regroup both to as many relation heads (MiniLMv2), and give both the same tokens.",
        )
    batch, heads, tokens, _ = x_s.shape
    rows = torch.ones(batch, tokens, device=x_s.device) if mask is None else mask
    rows = rows.to(x_s.dtype)
    weight = rows / (heads * rows.sum(1, keepdim=True).clamp(min=1))
    keys = None if mask is None else mask.bool()
    if way == "auto":
        coarse = x_s.is_cuda and torch.backends.cuda.matmul.allow_tf32
        way = "explicit" if tokens <= SMALL and not coarse else "blocks"
    if way == "explicit":
        return _explicit(x_s, y_s, x_t.detach(), y_t.detach(), keys, weight)
    result: Tensor = _Relation.apply(x_s, y_s, x_t.detach(), y_t.detach(), keys, weight, way == "fused", block)
    return result


def _explicit(x_s: Tensor, y_s: Tensor, x_t: Tensor, y_t: Tensor, keys: Tensor | None, weight: Tensor) -> Tensor:
    log_s, log_t = _log_map(x_s, y_s, keys), _log_map(x_t, y_t, keys)
    return (_rows_kl(log_t, log_s) * weight[:, None]).sum((1, 2))


def _log_map(x: Tensor, y: Tensor, keys: Tensor | None) -> Tensor:
    scores = x @ y.mT * x.shape[-1] ** -0.5
    if keys is not None:
        scores = scores.masked_fill(~keys[:, None, None], -torch.inf)
    return torch.log_softmax(scores, -1)


def _rows_kl(log_t: Tensor, log_s: Tensor) -> Tensor:
    r_t = log_t.exp()
    return torch.where(r_t == 0, 0.0, r_t * (log_t - log_s)).sum(-1)


class _Relation(torch.autograd.Function):
    """The value, and the gradient with respect to the student's pair alone."""

    @staticmethod
    def forward(
        ctx: Any, x_s: Tensor, y_s: Tensor, x_t: Tensor, y_t: Tensor, keys: Tensor | None, weight: Tensor,
        fused: bool, block: int,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x_s, y_s, x_t, y_t, keys, weight)
        ctx.fused, ctx.block = fused, block
        with number_format("fp32"):
            if fused:
                rows = _fused_rows(x_s, y_s, x_t, y_t, keys, block)
            else:
                parts = [
                    _rows_kl(
                        _log_map(x_t[:, :, i : i + block], y_t, keys), _log_map(x_s[:, :, i : i + block], y_s, keys)
                    )
                    for i in range(0, x_s.shape[2], block)
                ]
                rows = torch.cat(parts, -1)
            return (rows * weight[:, None]).sum((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x_s, y_s, x_t, y_t, keys, weight = ctx.saved_tensors
        scaled = (weight * gradient[:, None])[:, None, :, None] * x_s.shape[-1] ** -0.5
        with number_format("fp32"):
            if ctx.fused:
                dx, dy = _fused_gradient(x_s, y_s, x_t, y_t, keys, scaled)
            else:
                dx, dy = _block_gradient(x_s, y_s, x_t, y_t, keys, scaled, ctx.block)
        return dx, dy, None, None, None, None, None, None


def _block_gradient(
    x_s: Tensor, y_s: Tensor, x_t: Tensor, y_t: Tensor, keys: Tensor | None, scaled: Tensor, block: int
) -> Pair:
    dx, dy = torch.empty_like(x_s), torch.zeros_like(y_s)
    for i in range(0, x_s.shape[2], block):
        rows = slice(i, i + block)
        difference = _log_map(x_s[:, :, rows], y_s, keys).exp() - _log_map(x_t[:, :, rows], y_t, keys).exp()
        dx[:, :, rows] = difference @ y_s * scaled[:, :, rows]
        dy += difference.mT @ (x_s[:, :, rows] * scaled[:, :, rows])
    return dx, dy


def _attend(x: Tensor, y: Tensor, z: Tensor, keys: Tensor | None) -> Tensor:
    allowed = None if keys is None else keys[:, None, None].expand(-1, 1, x.shape[2], -1)
    return functional.scaled_dot_product_attention(x, y, z, attn_mask=allowed, scale=x.shape[-1] ** -0.5)


def _fused_rows(x_s: Tensor, y_s: Tensor, x_t: Tensor, y_t: Tensor, keys: Tensor | None, block: int) -> Tensor:
    a, b = x_t.shape[-1] ** -0.5, x_s.shape[-1] ** -0.5
    attended = _attend(x_t, y_t, torch.cat([y_t, y_s], -1), keys)
    of_t, of_s = attended[..., : y_t.shape[-1]], attended[..., y_t.shape[-1] :]
    teacher: Tensor = a * (x_t * of_t).sum(-1) - _lse(x_t, y_t, keys, block)
    student: Tensor = b * (x_s * of_s).sum(-1) - _lse(x_s, y_s, keys, block)
    return teacher - student


def _lse(x: Tensor, y: Tensor, keys: Tensor | None, block: int) -> Tensor:
    parts = []
    for i in range(0, x.shape[2], block):
        scores = x[:, :, i : i + block] @ y.mT * x.shape[-1] ** -0.5
        if keys is not None:
            scores = scores.masked_fill(~keys[:, None, None], -torch.inf)
        parts.append(torch.logsumexp(scores, -1))
    return torch.cat(parts, -1)


def _fused_gradient(x_s: Tensor, y_s: Tensor, x_t: Tensor, y_t: Tensor, keys: Tensor | None, scaled: Tensor) -> Pair:
    """R^T z is the gradient of a fused call with respect to its values, for the upstream gradient z."""
    upstream = x_s * scaled
    outputs, transposed = [], []
    for x, y in ((x_s, y_s), (x_t, y_t)):
        values = y_s.detach().requires_grad_()
        with torch.enable_grad():
            output = _attend(x, y, values, keys)
        outputs.append(output.detach())
        transposed.append(torch.autograd.grad(output, values, upstream)[0])
    return (outputs[0] - outputs[1]) * scaled, transposed[0] - transposed[1]


def _as_many_heads(x: Tensor, y: Tensor) -> Pair:
    if x.ndim != 4 or y.ndim != 4:
        raise UsageError(f"Relations are between (B, H, N, d) tensors, got {tuple(x.shape)} and {tuple(y.shape)}.")
    return x, (y if x.shape[1] == y.shape[1] else y.repeat_interleave(x.shape[1] // y.shape[1], dim=1))
