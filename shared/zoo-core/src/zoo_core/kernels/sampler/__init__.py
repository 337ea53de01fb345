"""Euler steps of a flow whose net is an MLP of residual blocks with modulated norms, all of them in one kernel.

A path stays with one program through all steps, where a CUDA graph launches some 25 kernels a step. Forward only.
Aurora takes it in half precision: `zoo bench aurora-base` times both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.kernels.sampler import reference

torch.library.define(
    "zoo::sampler",
    "(Tensor start, Tensor modulations, Tensor w_in, Tensor b_in, Tensor w, Tensor b, Tensor w_out, bool official)"
    " -> Tensor",
)
torch.library.impl("zoo::sampler", "CompositeExplicitAutograd", reference.sampler)


@torch.library.impl("zoo::sampler", "CUDA")
def _fused(
    start: Tensor, modulations: Tensor, w_in: Tensor, b_in: Tensor, w: Tensor, b: Tensor, w_out: Tensor, official: bool
) -> Tensor:
    from zoo_core.kernels.sampler import triton

    return triton.sampler(start, modulations, w_in, b_in, w, b, w_out, official)


def _like_start(start: Tensor, *_: object) -> Tensor:
    return torch.empty_like(start, memory_format=torch.contiguous_format)


torch.library.register_fake("zoo::sampler", _like_start)


def sampler(
    start: Tensor,
    modulations: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w: Tensor,
    b: Tensor,
    w_out: Tensor,
    *,
    official: bool = False,
) -> Tensor:
    """Return clean tokens (S, N, p) of S samples of N tokens, fp32.

    A step goes x <- x + (f(x) - x) / (steps - index) or, officially, x <- x + (f(x) - start) / steps, with
    h = W_in x + b_in, blocks h <- h + gate (W_2 SiLU(W_1 (LN(h) factor + shift) + b_1) + b_2), and
    f(x) = W_out (LN(h) factor + shift).

    Args:
        start: (S, N, p), fp32 (on a CPU any type).
        modulations: (3 B + 2, steps, N, d), shared by the samples of a token: factor, shift and gate of each of the B
            blocks, then factor and shift of the last layer.
        w_in: (d, p), of the weights' type, which is bf16 or fp16 on CUDA, as all that follow and the modulations.
        b_in: (d,).
        w: (2 B, d, d), W_1 and W_2 of each block in turn; d a power of 2 from 16 to 256 on CUDA.
        b: (2 B, d).
        w_out: (p, d).
        official: which step.
    """
    out: Tensor = torch.ops.zoo.sampler(start, modulations, w_in, b_in, w, b, w_out, official)
    return out
