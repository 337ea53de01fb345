"""3x3 convolution of a map, with bias, LeakyReLU, residual, a split, statistics and gates, or a pixel shuffle.

Won on the profile of IMDN (zoo-sr): cuDNN's fp16 convolution with 64 channels runs at a fifth of the tensor cores' rate
because a 3x3 window is fetched nine times; here one fetched row of pixels serves three rows of outputs. And PyTorch's
var_mean of one map takes as long as two convolutions; here the statistics leave with the convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.kernels.conv3x3 import reference
from zoo_core.kernels.conv3x3.layout import NEIGHBOURS, programs

torch.library.define(
    "zoo::conv3x3",
    "(Tensor source, Tensor weight, Tensor bias, Tensor(a!) out, Tensor(b!)? rest, Tensor? residual, float slope,"
    " Tensor(c!)? moments) -> ()",
)
torch.library.define(
    "zoo::conv3x3_gate",
    "(Tensor source, Tensor weight, Tensor bias, Tensor(a!) out, Tensor weight1, Tensor bias1, Tensor weight2,"
    " Tensor bias2, Tensor(b!) gate, Tensor(c!) moments, Tensor(d!) tickets) -> ()",
)
torch.library.define(
    "zoo::conv3x3_shuffle", "(Tensor source, Tensor weight, Tensor bias, Tensor(a!) image, int scale) -> ()"
)


def _no_result(*_: object) -> None:
    """What an operator that writes into its arguments returns under torch.compile's and export's fake tensors."""


for _name in ("conv3x3", "conv3x3_gate", "conv3x3_shuffle"):
    torch.library.impl(f"zoo::{_name}", "CompositeExplicitAutograd", getattr(reference, _name))
    torch.library.register_fake(f"zoo::{_name}", _no_result)


@torch.library.impl("zoo::conv3x3", "CUDA")
def _conv3x3_cuda(
    source: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    rest: Tensor | None,
    residual: Tensor | None,
    slope: float,
    moments: Tensor | None,
) -> None:
    from zoo_core.kernels.conv3x3 import triton

    triton.conv3x3(source, weight, bias, out, rest, residual, slope, moments)


@torch.library.impl("zoo::conv3x3_gate", "CUDA")
def _conv3x3_gate_cuda(
    source: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    gate: Tensor,
    moments: Tensor,
    tickets: Tensor,
) -> None:
    from zoo_core.kernels.conv3x3 import triton

    triton.conv3x3_gate(source, weight, bias, out, weight1, bias1, weight2, bias2, gate, moments, tickets)


@torch.library.impl("zoo::conv3x3_shuffle", "CUDA")
def _conv3x3_shuffle_cuda(source: Tensor, weight: Tensor, bias: Tensor, image: Tensor, scale: int) -> None:
    from zoo_core.kernels.conv3x3 import triton

    triton.conv3x3_shuffle(source, weight, bias, image, scale)


def conv3x3(
    source: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    *,
    rest: Tensor | None = None,
    residual: Tensor | None = None,
    slope: float = 1.0,
    moments: Tensor | None = None,
) -> None:
    """LeakyReLU(conv(source) + bias) + residual, into the interior of `out`, or of `out` and `rest`.

    Args:
        source: map (H + 5, W + 2, Cin) with a zero border (`zoo_core.kernels.maps`); fp16 on CUDA, Cin a multiple of
            16.
        weight: (3, 3, Cin, Cout), as `pack` makes it; Cout a power of 2, at least 16, on CUDA.
        bias: (Cout,), fp32.
        out: map (H + 5, W + 2, Cout), or fewer channels: the first ones. Its border is left alone. Must not overlap
            source.
        rest: map of the other channels, or None.
        residual: map (H + 5, W + 2, Cout), or None.
        slope: of the LeakyReLU; 1 means none.
        moments: where to leave the statistics of the channels of `out` for a later `conv3x3_gate`: these channels
            (last dimension) of the moments of `new_scratch`. Not together with residual.
    """
    torch.ops.zoo.conv3x3(source, weight, bias, out, rest, residual, slope, moments)


def conv3x3_gate(
    source: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    attention: tuple[Tensor, Tensor, Tensor, Tensor],
    gate: Tensor,
    scratch: tuple[Tensor, Tensor],
) -> None:
    """Write out = conv(source) + bias, then the gates of contrast-aware attention over these and earlier channels.

    gate = sigmoid(W2 relu(W1 (mean + std) + b1) + b2), mean and (population) deviation of C channels over all pixels,
    in fp32: of the first C - Cout from the moments that earlier calls of `conv3x3` left in `scratch`, of the last
    Cout from this one.

    Args:
        source: map (H + 5, W + 2, Cin), as for `conv3x3`.
        weight: (3, 3, Cin, Cout).
        bias: (Cout,), fp32.
        out: map (H + 5, W + 2, Cout).
        attention: W1 (hidden, C), b1 (hidden,), W2 (C, hidden), b2 (C,), fp32; C and hidden powers of 2 on CUDA.
        gate: (C,), fp32: the result.
        scratch: of `new_scratch`; for one chain of calls at a time.
    """
    torch.ops.zoo.conv3x3_gate(source, weight, bias, out, *attention, gate, *scratch)


def conv3x3_shuffle(source: Tensor, weight: Tensor, bias: Tensor, image: Tensor, *, scale: int) -> None:
    """Write image = PixelShuffle(conv(source) + bias).

    Args:
        source: map (H + 5, W + 2, Cin), as for `conv3x3`.
        weight: (3, 3, Cin, P), with its bias as `pack_shuffle` makes them.
        bias: (P,), fp32.
        image: (3, scale H, scale W), contiguous: floating (not clamped) or uint8 (255 times, clamped, rounded half to
            even).
        scale: 2, 3 or 4; side of the block of pixels that one small pixel becomes.
    """
    torch.ops.zoo.conv3x3_shuffle(source, weight, bias, image, scale)


def new_scratch(
    height: int, width: int, channels: int, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return room for moments, and the counts of programs that have finished, which are zero between calls.

    Returns:
        moments (programs + neighbourhoods, 2, channels): mean and sum of squared deviations of every program's
        pixels; and tickets.
    """
    number = programs(height, width)
    neighbourhoods = -(-number // NEIGHBOURS)
    moments = torch.zeros(number + neighbourhoods, 2, channels, dtype=dtype, device=device)
    return moments, torch.zeros(1 + neighbourhoods, dtype=torch.int32, device=device)


def pack(weight: Tensor, *, inputs: int | None = None) -> Tensor:
    """Turn a Conv2d weight (Cout, Cin, 3, 3) into (3, 3, inputs, Cout), zero-padded where `inputs` is more than Cin."""
    packed = weight.permute(2, 3, 1, 0)
    return functional.pad(packed, (0, 0, 0, (inputs or packed.shape[2]) - packed.shape[2])).contiguous()


def pack_shuffle(weight: Tensor, bias: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Lay out the layer before a PixelShuffle so that what follows on a line of the image follows in the channels.

    Args:
        weight: (3 scale^2, Cin, 3, 3) of a Conv2d.
        bias: (3 scale^2,).
        scale: 2, 3 or 4.

    Returns:
        (3, 3, Cin, P) and (P,): channel (colour, a) scale + b goes to (colour, a) * block + b with block 2 or 4; P is
        16 or 64.
    """
    block = reference.block_of(scale)
    lines = 1 << (3 * scale - 1).bit_length()

    def padded(t: Tensor) -> Tensor:
        t = t.reshape(*t.shape[:-1], 3 * scale, scale)
        return functional.pad(t, (0, block - scale, 0, lines - 3 * scale)).flatten(-2).contiguous()

    return padded(pack(weight)), padded(bias)
