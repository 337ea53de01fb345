"""1x1 convolution of several maps side by side, with a gate on their channels, LeakyReLU and residual, in one kernel.

Replaces, in IMDN, the concatenation, the product with the gates, the 1x1 convolution and the sum: one read of the
inputs, one write.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.kernels.pointwise import reference

torch.library.define(
    "zoo::pointwise",
    "(Tensor sources, Tensor weight, Tensor bias, Tensor(a!) out, Tensor? gate, Tensor? residual, float slope) -> ()",
)


torch.library.impl("zoo::pointwise", "CompositeExplicitAutograd", reference.pointwise)


@torch.library.impl("zoo::pointwise", "CUDA")
def _fused(
    sources: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    gate: Tensor | None,
    residual: Tensor | None,
    slope: float,
) -> None:
    from zoo_core.kernels.pointwise import triton

    triton.pointwise(sources, weight, bias, out, gate, residual, slope)


def _no_result(*_: object) -> None:
    """What an operator that writes into its arguments returns under torch.compile's and export's fake tensors."""


torch.library.register_fake("zoo::pointwise", _no_result)


def pointwise(
    sources: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    *,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    slope: float = 1.0,
) -> None:
    """Write out = LeakyReLU(concat(sources) * gate @ weight + bias) + residual, on the interior of `out`.

    Args:
        sources: G maps (G, H + 5, W + 2, D) (`zoo_core.kernels.maps`), channels in the order map 0, map 1, ...; fp16
            on CUDA, D a power of 2, G D a multiple of 64.
        weight: (G D, Cout); Cout a power of 2, at least 16, on CUDA.
        bias: (Cout,), fp32.
        out: map (H + 5, W + 2, Cout); its border is left alone. May be residual, must not overlap sources.
        gate: (G D,), fp32, or None: 1.
        residual: map like out, or None: 0.
        slope: of the LeakyReLU; 1 means none.
    """
    torch.ops.zoo.pointwise(sources, weight, bias, out, gate, residual, slope)
