"""3x3 convolution of a map, and what follows it, in plain PyTorch: the formulas, in fp32 or wider."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.kernels.conv3x3.layout import COLUMNS, ROWS
from zoo_core.kernels.maps import ROWS_BELOW, interior


def _convolve(source: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Sum of nine shifted products: (H + 5, W + 2, Cin) -> (H, W, Cout), in fp32 or fp64."""
    wide = torch.promote_types(source.dtype, torch.float32)
    bordered = source[: source.shape[0] - ROWS_BELOW + 1].to(wide)  # (H + 2, W + 2, Cin)
    height, width = bordered.shape[0] - 2, bordered.shape[1] - 2
    total = bias.to(wide).expand(height, width, -1)
    for dy in range(3):
        for dx in range(3):
            total = total + bordered[dy : dy + height, dx : dx + width] @ weight[dy, dx].to(wide)
    return total


def _program_of(height: int, width: int, device: torch.device) -> Tensor:
    """Return the number of the program that holds each pixel, (H W,): see `layout.programs`."""
    i = torch.arange(height, device=device)[:, None]
    j = torch.arange(width, device=device)
    return ((i // ROWS * width + j) // COLUMNS).flatten()


def _leave_moments(y: Tensor, moments: Tensor) -> None:
    """Write mean and sum of squared deviations per program of y (H, W, C) into the first rows of moments (.., 2, C)."""
    height, width, channels = y.shape
    program = _program_of(height, width, y.device)
    count = torch.bincount(program).to(y.dtype)[:, None]
    flat = y.reshape(-1, channels)
    zero = flat.new_zeros(len(count), channels)
    mean = zero.index_add(0, program, flat) / count
    moments[: len(count), 0] = mean
    moments[: len(count), 1] = zero.index_add(0, program, (flat - mean[program]).square())


def conv3x3(
    source: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    rest: Tensor | None,
    residual: Tensor | None,
    slope: float,
    moments: Tensor | None,
) -> None:
    """See `zoo_core.kernels.conv3x3.conv3x3`."""
    first = out.shape[-1]
    y = functional.leaky_relu(_convolve(source, weight, bias), slope)
    if moments is not None:
        _leave_moments(y[..., :first], moments)
    if residual is not None:
        y = y + interior(residual).to(y.dtype)
    interior(out).copy_(y[..., :first])
    if rest is not None:
        interior(rest).copy_(y[..., first:])


def conv3x3_gate(
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
    """See `zoo_core.kernels.conv3x3.conv3x3_gate`."""
    y = _convolve(source, weight, bias)
    _leave_moments(y, moments[..., moments.shape[-1] - y.shape[-1] :])
    interior(out).copy_(y)
    count = torch.bincount(_program_of(y.shape[0], y.shape[1], y.device)).to(y.dtype)[:, None]
    means, spreads = moments[: len(count)].to(y.dtype).unbind(1)
    mean = (means * count).sum(0) / count.sum()
    variance = (spreads + (means - mean).square() * count).sum(0) / count.sum()  # E[u^2] - mean^2 would cancel
    hidden = torch.relu(weight1.to(y.dtype) @ (mean + variance.sqrt()) + bias1.to(y.dtype))
    gate.copy_(torch.sigmoid(weight2.to(y.dtype) @ hidden + bias2.to(y.dtype)))


def conv3x3_shuffle(source: Tensor, weight: Tensor, bias: Tensor, image: Tensor, scale: int) -> None:
    """See `zoo_core.kernels.conv3x3.conv3x3_shuffle`."""
    y = _convolve(source, weight, bias)
    y = y.reshape(*y.shape[:2], -1, block_of(scale))[:, :, : 3 * scale, :scale].flatten(2)  # without the padding
    y = functional.pixel_shuffle(y.permute(2, 0, 1), scale)
    image.copy_((y * 255).clamp(0, 255).round() if image.dtype == torch.uint8 else y)


def block_of(scale: int) -> int:
    """Length to which `pack_shuffle` pads the pixels of one line of a block: a power of 2."""
    return 2 if scale == 2 else 4
