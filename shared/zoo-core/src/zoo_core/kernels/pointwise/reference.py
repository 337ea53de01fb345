"""Gated 1x1 convolution of maps in plain PyTorch: the formula, in fp32 or wider."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.kernels.maps import interior


def pointwise(
    sources: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    gate: Tensor | None,
    residual: Tensor | None,
    slope: float,
) -> None:
    """See `zoo_core.kernels.pointwise.pointwise`."""
    wide = torch.promote_types(sources.dtype, torch.float32)
    u = torch.cat(list(interior(sources)), dim=-1).to(wide)
    if gate is not None:
        u = u * gate.to(wide)
    y = functional.leaky_relu(u @ weight.to(wide) + bias.to(wide), slope)
    interior(out).copy_(y if residual is None else y + interior(residual).to(wide))
