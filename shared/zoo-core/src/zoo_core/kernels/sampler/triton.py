"""Euler steps of a flow on tensor cores: a program takes some samples of one token through all steps.

Matrices are (channels, samples), so that a modulation is one number a row. A block is computed as attention is, with
SiLU for the softmax: a = SiLU(W_1 u + b_1) and y += W_2 a for HIDDEN channels at a time, so that the hidden layer never
is there as a whole. Weights stream from the L2 cache. Sums, norms and the state x are fp32.

Two tiles in fp32, h and what a block adds to it, would not fit into registers. So there is one: it begins as h / gate,
the block's product is added, and it is multiplied by the gate.
"""

# Triton's language has no type annotations of its own for what a kernel takes.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zoo_core.kernels.sampler.reference import EPSILON

CHANNELS = (16, 32, 64, 128, 256)
WIDTHS = (16, 32, 64)  # samples of a program; 128 would not fit into registers
HIDDEN, WARPS = 128, 8  # Triton gives each warp 16 rows: with fewer, warps would do the same work twice
LEAST = tl.constexpr(1e-12)  # gate that is divided by


@triton.jit
def _vector(at, c):
    return tl.load(at + c).to(tl.float32)[:, None]


@triton.jit
def _normed(h, factor, shift, D: tl.constexpr, EPSILON: tl.constexpr):
    """LN(h) factor + shift over channels, the vectors given by where they lie."""
    c = tl.arange(0, D)
    h -= tl.sum(h, 0)[None, :] * (1 / D)
    h *= tl.rsqrt(tl.sum(h * h, 0) * (1 / D) + EPSILON)[None, :]
    return h * _vector(factor, c) + _vector(shift, c)


@triton.jit
def _kernel(
    START, MODULATIONS, W_IN, B_IN, W, B, W_OUT, OUT, samples, tokens, steps,
    POINTS: tl.constexpr, P: tl.constexpr, D: tl.constexpr, BLOCKS: tl.constexpr, OFFICIAL: tl.constexpr,
    EPSILON: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr,
):  # fmt: skip
    kind = W.dtype.element_ty
    token = tl.program_id(0)
    s = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    p, c, n = tl.arange(0, P), tl.arange(0, D), tl.arange(0, HIDDEN)
    at = (s[None, :] * tokens + token) * POINTS + p[:, None]
    inside = (s < samples)[None, :] & (p < POINTS)[:, None]
    apart = steps * tokens * D  # from one kind of modulation to the next
    for index in range(steps):
        m = MODULATIONS + (index * tokens + token) * D
        x = tl.load(OUT + at, mask=inside, other=0.0)  # OUT holds x between steps
        w_in = tl.load(W_IN + c[:, None] * POINTS + p[None, :], mask=(p < POINTS)[None, :], other=0.0)
        h = tl.dot(w_in, x.to(kind), input_precision="ieee") + _vector(B_IN, c)
        for block in range(BLOCKS):
            w1, b1 = W + 2 * block * D * D, B + 2 * block * D
            w2, b2 = w1 + D * D, b1 + D
            first = tl.load(w1 + n[:, None] * D + c[None, :])
            u = _normed(h, m, m + apart, D, EPSILON).to(kind)
            gate = _vector(m + 2 * apart, c)
            gate = tl.where(tl.abs(gate) < LEAST, LEAST, gate)
            y = h * (1 / gate)
            for start in tl.range(0, D, HIDDEN, num_stages=1):
                now = start + n
                # each weight is on its way while the other is multiplied
                second = tl.load(w2 + c[:, None] * D + now[None, :])
                a = tl.dot(first, u, input_precision="ieee") + _vector(b1, now)
                first = tl.load(w1 + (now + HIDDEN)[:, None] * D + c[None, :], mask=start + HIDDEN < D)
                a *= tl.sigmoid(a)
                y = tl.dot(second, a.to(kind), y, input_precision="ieee")
            h = (y + _vector(b2, c)) * gate
            m += 3 * apart
        w_out = tl.load(W_OUT + p[:, None] * D + c[None, :], mask=(p < POINTS)[:, None], other=0.0)
        clean = tl.dot(w_out, _normed(h, m, m + apart, D, EPSILON).to(kind), input_precision="ieee")
        x = tl.load(OUT + at, mask=inside, other=0.0)
        if OFFICIAL:
            x += (clean - tl.load(START + at, mask=inside, other=0.0)) / steps
        else:
            x += (clean - x) / (steps - index)
        tl.store(OUT + at, x, mask=inside)
        tl.debug_barrier()  # other threads read it


def sampler(
    start: Tensor,
    modulations: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w: Tensor,
    b: Tensor,
    w_out: Tensor,
    official: bool,
    *,
    width: int | None = None,
) -> Tensor:
    """See `zoo_core.kernels.sampler.sampler`; `width` is how many samples a program takes.

    Raises:
        ValueError: the net has another number of channels, or another type, than this kernel has room for.
    """
    samples, tokens, points = start.shape
    channels = w.shape[-1]
    if channels not in CHANNELS:
        raise ValueError(f"the net has {channels} channels: this kernel needs a power of 2 from 16 to 256")
    if start.is_cuda and (start.dtype != torch.float32 or w.element_size() != 2):
        raise ValueError(f"start is {start.dtype}, weights are {w.dtype}: this kernel needs float32, and bf16 or fp16")
    start, modulations = start.contiguous(), modulations.contiguous()
    out = start.clone()
    width = width or _width(samples, tokens, start.device)
    _kernel[(tokens, triton.cdiv(samples, width))](
        start, modulations, *(weight.contiguous() for weight in (w_in, b_in, w, b, w_out)), out,
        samples, tokens, modulations.shape[1],
        POINTS=points, P=max(16, triton.next_power_of_2(points)), D=channels, BLOCKS=len(w) // 2, OFFICIAL=official,
        EPSILON=EPSILON, WIDTH=width, HIDDEN=min(HIDDEN, channels), num_warps=WARPS,
    )  # fmt: skip
    return out


def _width(samples: int, tokens: int, device: torch.device) -> int:
    """Return the smallest width with which all programs run at once: a program's time grows less than its width."""
    if device.type != "cuda":
        return WIDTHS[0]
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return next((width for width in WIDTHS if tokens * triton.cdiv(samples, width) <= processors), WIDTHS[-1])
