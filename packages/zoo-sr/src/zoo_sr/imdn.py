"""IMDN: lightweight super-resolution with an information multi-distillation network.

Hui, Gao, Yang, Wang, ACM MM 2019, arXiv 1909.11856. Attribute names are the key names of the authors' checkpoints, so
that their tensors load one to one. Images are RGB in [0, 1], NCHW; outputs are not clamped; nothing is added to the
output (no bicubic skip). Receptive field: 27 pixels of the small image to each side, apart from the gates, which pool
over all of it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_core.nn.contrast import ContrastAwareAttention

SLOPE = 0.05


def conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution whose zero padding keeps the size (at stride 1)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=bias)


def leaky(x: Tensor) -> Tensor:
    """The network's only non-linearity outside the gates, a LeakyReLU of slope 0.05."""
    return functional.leaky_relu(x, SLOPE)


class IMDB(nn.Module):
    """Information multi-distillation block (section 3.2, figure 3): refine, keep a quarter, refine the rest.

    Args:
        channels: C; each step distils C/4 channels and hands on the other 3C/4.
        attention: whether the contrast-aware attention stands before the last layer.
    """

    def __init__(self, channels: int = 64, *, attention: bool = True) -> None:
        super().__init__()
        self.distilled = channels // 4
        self.remaining = channels - self.distilled
        self.c1 = conv(channels, channels, 3)
        self.c2 = conv(self.remaining, channels, 3)
        self.c3 = conv(self.remaining, channels, 3)
        self.c4 = conv(self.remaining, self.distilled, 3)
        self.c5 = conv(channels, channels, 1)
        if attention:
            self.cca = ContrastAwareAttention(channels)

    def parts(self, x: Tensor) -> Tensor:
        """The progressive refinement: (N, C, H, W) -> the four distilled parts, (N, C, H, W). Reach: 4 pixels."""
        sizes = [self.distilled, self.remaining]
        kept1, rest = torch.split(leaky(self.c1(x)), sizes, dim=1)  # split after the activation
        kept2, rest = torch.split(leaky(self.c2(rest)), sizes, dim=1)
        kept3, rest = torch.split(leaky(self.c3(rest)), sizes, dim=1)
        return torch.cat([kept1, kept2, kept3, self.c4(rest)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        u = self.parts(x)
        if hasattr(self, "cca"):
            u = self.cca(u)
        return cast(Tensor, self.c5(u)) + x


class IMDN(nn.Module):
    """The network of the paper: (N, 3, H, W) in [0, 1] -> (N, 3, scale H, scale W).

    Args:
        scale: 2, 3 or 4.
        channels: width of the maps (64 in the paper).
        blocks: number of blocks (6 in the paper, 4 in its ablation).
    """

    def __init__(self, scale: int = 4, channels: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.scale = scale
        self.fea_conv: nn.Module = conv(3, channels, 3)
        for i in range(1, blocks + 1):
            self.add_module(f"IMDB{i}", IMDB(channels))
        self.c = nn.Sequential(conv(channels * blocks, channels, 1), nn.LeakyReLU(SLOPE))  # "IIC" in the paper
        self.LR_conv = conv(channels, channels, 3)
        self.upsampler = nn.Sequential(conv(channels, 3 * scale**2, 3), nn.PixelShuffle(scale))

    def blocks(self) -> list[IMDB]:
        """The blocks in the order in which they run."""
        return [cast(IMDB, module) for name, module in self.named_children() if name.startswith("IMDB")]

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a batch of images of one size."""
        shallow = self.fea_conv(x)
        h, outputs = shallow, []
        for block in self.blocks():
            h = block(h)
            outputs.append(h)
        deep = self.LR_conv(self.c(torch.cat(outputs, dim=1))) + shallow
        return cast(Tensor, self.upsampler(deep))


class IMDN_AS(IMDN):
    """IMDN for any scale: restores an image that is already at its final size; sides must be multiples of 4.

    Two strided layers bring it down by 4, both 3x3 as in the authors' code; the paper's figure draws the second as 1x1.
    """

    def __init__(self, channels: int = 64, blocks: int = 6) -> None:
        super().__init__(scale=4, channels=channels, blocks=blocks)
        self.scale = 1
        self.fea_conv = nn.Sequential(
            conv(3, channels, 3, stride=2), nn.LeakyReLU(SLOPE), conv(channels, channels, 3, stride=2)
        )


class _Residual(nn.Module):
    """x + sub(x), with the authors' key `sub`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.sub = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.sub(x))


class IMDN_RTC(nn.Module):
    """The 20 k parameter network of the AI in RTC 2019 challenge: narrow blocks without attention, scale 2."""

    def __init__(self, scale: int = 2, channels: int = 12, blocks: int = 5) -> None:
        super().__init__()
        self.scale = scale
        self.model = nn.Sequential(
            conv(3, channels, 3),
            _Residual(*(IMDB(channels, attention=False) for _ in range(blocks)), conv(channels, channels, 1)),
            conv(channels, 3 * scale**2, 3),
            nn.PixelShuffle(scale),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 3, scale H, scale W)."""
        return cast(Tensor, self.model(x))


class LargeBlock(nn.Module):
    """Block of IMDN_RTE: five distillation steps with ReLU, no biases; each keeps a quarter of the block's channels."""

    def __init__(self, channels: int = 20) -> None:
        super().__init__()
        kept = channels // 4
        self.kept = kept
        self.c1 = conv(channels, channels, 3, bias=False)
        self.c2 = conv(channels - kept, channels, 3, bias=False)
        self.c3 = conv(channels - kept, channels, 3, bias=False)
        self.c4 = conv(channels - kept, channels - kept, 3, bias=False)
        self.c5 = conv(channels - 2 * kept, channels - 2 * kept, 3, bias=False)
        self.c6 = conv(channels - 3 * kept, kept, 3, bias=False)
        self.c7 = conv(6 * kept, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        rest, parts = x, []
        for layer in (self.c1, self.c2, self.c3, self.c4, self.c5):
            y = torch.relu(layer(rest))
            parts.append(y[:, : self.kept])
            rest = y[:, self.kept :]
        parts.append(torch.relu(self.c6(rest)))
        return cast(Tensor, self.c7(torch.cat(parts, dim=1))) + x


class IMDN_RTE(nn.Module):
    """The real-time enhancement network of the same challenge, scale 2. Works in 0..255; sides must be multiples of 2.

    The authors' checkpoint expects 0..255 although nothing says so: on [0, 1] its output has little in common with the
    bicubic enlargement, on 255 times that nearly everything.
    """

    def __init__(self, channels: int = 20, blocks: int = 6) -> None:
        super().__init__()
        self.scale = 2
        self.fea_conv = nn.Sequential(
            conv(3, channels, 3), nn.ReLU(), conv(channels, channels, 3, stride=2, bias=False)
        )
        self.block_names = [f"block{i}" for i in range(1, blocks + 1)]
        for name in self.block_names:
            self.add_module(name, LargeBlock(channels))
        self.LR_conv = conv(channels, channels, 1, bias=False)
        self.upsampler = nn.Sequential(conv(channels, 48, 3), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 255] -> (N, 3, 2 H, 2 W) in about [0, 255]."""
        shallow = self.fea_conv(x)
        h = shallow
        for name in self.block_names:
            h = self.get_submodule(name)(h)
        return cast(Tensor, self.upsampler(self.LR_conv(h) + shallow))
