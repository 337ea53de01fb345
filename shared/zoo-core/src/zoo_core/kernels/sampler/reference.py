"""Euler steps of a flow in plain PyTorch: the formula, in fp32 or wider."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

EPSILON = 1e-6  # of the norms


def sampler(
    start: Tensor, modulations: Tensor, w_in: Tensor, b_in: Tensor, w: Tensor, b: Tensor, w_out: Tensor, official: bool
) -> Tensor:
    """See `zoo_core.kernels.sampler.sampler`."""
    wide = torch.promote_types(w.dtype, torch.float32)
    modulations, w_in, b_in, w, b, w_out = (t.to(wide) for t in (modulations, w_in, b_in, w, b, w_out))
    blocks, width, steps = len(w) // 2, w.shape[-1:], modulations.shape[1]
    first = x = start.to(wide)
    for index in range(steps):
        vectors = modulations[:, index]
        h = linear(x, w_in, b_in)
        for block in range(blocks):
            factor, shift, gate = vectors[3 * block : 3 * block + 3]
            a = silu(linear(layer_norm(h, width, eps=EPSILON) * factor + shift, w[2 * block], b[2 * block]))
            h = h + gate * linear(a, w[2 * block + 1], b[2 * block + 1])
        factor, shift = vectors[3 * blocks :]
        clean = linear(layer_norm(h, width, eps=EPSILON) * factor + shift, w_out)
        x = x + ((clean - first) / steps if official else (clean - x) / (steps - index))
    return x.to(start.dtype)
