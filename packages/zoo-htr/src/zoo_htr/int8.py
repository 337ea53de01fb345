"""Convolutions in 8 bits, for CPUs: an approximation, which `--precision int8` asks for.

Weights are rounded to 8 bits once, a scale an output channel. Maps are rounded when they come, by the extremes that
they have in this line: nothing has to be calibrated, and a line does not depend on others. Sums are exact integers; all
else stays float32.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from zoo_htr.backends import Convolution

_LEAST_WORK = 250  # products a number of the map, below which rounding it costs more than it saves
_LEVELS = 254  # one fewer than there are steps, so that no rounding leaves them


class Convolution8(Convolution):
    """See `Convolution`; its result differs from that by what rounding to 8 bits changes."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: tuple[int, int]) -> None:
        super().__init__(weight, bias, stride)
        self.steps = (weight.detach().abs().amax((1, 2, 3)) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        levels = (weight.detach() / self.steps[:, None, None, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qconv_prepack(levels, self.steps, 1.0, 128, stride, [1, 1], [1, 1], 1, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """See `Convolution.__call__`."""
        if scale is not None:
            x = x * scale[:, None, None]
        low, high = (float(v) for v in torch.aminmax(x.permute(0, 2, 3, 1)))
        step = max(high - min(low, 0.0), -low, 1e-30) / _LEVELS
        zero = round(-min(low, 0.0) / step)
        # + 1/2: the cast to whole numbers cuts off
        levels = torch.add(torch.tensor(zero + 0.5), x, alpha=1 / step).to(torch.uint8)
        return cast(
            Tensor,
            torch.ops.onednn.qconv2d_pointwise(
                levels,
                step,
                zero,
                self.packed,
                self.steps,
                self.zeros,
                self.bias,
                self.stride,
                [1, 1],
                [1, 1],
                1,
                1.0,
                0,
                torch.float32,
                "none",
                [],
                "",
            ),
        )


def convolution(weight: Tensor, bias: Tensor, stride: tuple[int, int]) -> Convolution:
    """Return the convolution in 8 bits where that is faster, else in float32."""
    products = weight.shape[0] * 9 / (stride[0] * stride[1])
    return (Convolution8 if products >= _LEAST_WORK else Convolution)(weight, bias, stride)


def supported() -> bool:
    """Whether this processor multiplies bytes without overflow, and this PyTorch has the operators."""
    has_operators = hasattr(torch.ops.onednn, "qconv2d_pointwise") and hasattr(torch.ops.onednn, "qconv_prepack")
    return has_operators and torch.cpu._is_vnni_supported()
