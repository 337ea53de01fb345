"""IMDN cut into the stages between which its gates look at the whole image: the seam where faster engines go in.

All maps are (1, C, height, width) in channels_last. An engine replaces `Stages` by overriding any of its methods; the
sweep calls nothing else. What an engine owes: the value of a pixel depends on its surroundings only, not on the size or
the place of the tile it is computed in, so that tiles of any size give the same bits. PyTorch keeps that promise on CPU
in channels_last (measured: oneDNN 3.13 with AVX2, AVX-512 and its bf16; fp32, bf16 and fp16; one and two threads),
but inputs of up to 20480 numbers take another path, and so do other layouts; `least_pixels` keeps tiles above that.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from zoo_sr.imdn import IMDN, IMDN_AS, IMDN_RTC, IMDN_RTE, leaky

_SMALL_INPUT_NUMBERS = 20480  # ATen/native/Convolution.cpp, use_mkldnn: "for some case, native is faster"

BLOCK_HALO_PX = 4  # c1 to c4 of one block
HEAD_HALO_PX = 1  # one feature: 1 input pixel at stride 1; at stride 4 the two strided layers reach 3 of the 4 pixels
TAIL_HALO_PX = 2  # LR_conv and the upsampler


@dataclass(frozen=True)
class Geometry:
    """How the pixels of input, features and output lie on each other.

    Args:
        stride: input pixels to one feature pixel, a side.
        spread: output pixels to one feature pixel, a side.
        channels: feature maps.
        reach_px: feature pixels to each side that one output pixel depends on, apart from gates.
        peak: the input value of white that the network was trained with, 1 or 255; the output has the same.
    """

    stride: int
    spread: int
    channels: int
    reach_px: int
    peak: float = 1.0

    @classmethod
    def of(cls, network: nn.Module) -> Geometry:
        """Read it off a network of this package.

        Raises:
            TypeError: it is none of them.
        """
        match network:
            case IMDN():
                stride = 4 if isinstance(network, IMDN_AS) else 1
                blocks = network.blocks()
                reach = HEAD_HALO_PX + BLOCK_HALO_PX * len(blocks) + TAIL_HALO_PX
                return cls(stride, stride * network.scale, blocks[0].c1.in_channels, reach)
            case IMDN_RTC():
                body = cast(nn.Sequential, network.model[1].sub)
                head = cast(nn.Conv2d, network.model[0])
                return cls(1, network.scale, head.out_channels, HEAD_HALO_PX + BLOCK_HALO_PX * (len(body) - 1) + 1)
            case IMDN_RTE():
                reach = HEAD_HALO_PX + 6 * len(network.block_names) + 1
                return cls(2, 2 * network.scale, network.LR_conv.in_channels, reach, peak=255.0)
        raise TypeError(f"{type(network).__name__} is no network of zoo_sr")


def least_pixels(module: nn.Module) -> int:
    """Return how many pixels the 3x3 convolutions of a module must get for values that do not depend on the tile."""
    channels = [c.in_channels for c in module.modules() if isinstance(c, nn.Conv2d) and c.kernel_size != (1, 1)]
    return _SMALL_INPUT_NUMBERS // min(channels) + 1


class Stages:
    """IMDN in plain PyTorch, stage by stage.

    Args:
        network: IMDN or IMDN_AS, on the device and in the precision to compute with. It is not changed.
    """

    def __init__(self, network: IMDN) -> None:
        self.network = network
        self.blocks = network.blocks()
        self.geometry = Geometry.of(network)
        # Gates in float64: whatever the order in which tiles were summed, the gate rounds to the same number.
        self.gates = [copy.deepcopy(block.cca).double() for block in self.blocks]
        self.mixer = cast(nn.Conv2d, network.c[0])
        self.mixer_bias = cast(Tensor, self.mixer.bias)
        self.head_least_pixels = -(-_SMALL_INPUT_NUMBERS // (3 * self.geometry.stride**2)) + 1
        self.parts_least_pixels = least_pixels(self.blocks[0])
        self.tail_least_pixels = least_pixels(self.network.LR_conv)

    def head(self, image: Tensor) -> Tensor:
        """The first layer: (1, 3, stride h, stride w) in [0, 1] -> f0 (1, C, h, w)."""
        return cast(Tensor, self.network.fea_conv(image))

    def parts(self, i: int, h: Tensor) -> Tensor:
        """Block i up to its gate, u (1, C, h, w). Wrong within 4 pixels of an edge that is no border of the image."""
        return self.blocks[i].parts(h)

    def gate(self, i: int, mean: Tensor, variance: Tensor) -> Tensor:
        """The gates (C,) of block i, from the statistics (C,) in float64 of u over the whole image."""
        gate = self.gates[i].gate(mean[None], variance[None])[0]
        return gate.to(self.mixer.weight.dtype)

    def close(self, i: int, u: Tensor, gate: Tensor, h: Tensor) -> Tensor:
        """The rest of block i, pixel by pixel: c5(gate u) + h. The gates are folded into c5."""
        c5 = self.blocks[i].c5
        return functional.conv2d(u, c5.weight * gate[None, :, None, None], c5.bias).add_(h)

    def mix(self, i: int, h: Tensor, mixed: Tensor | None) -> Tensor:
        """What h of block i adds to the sum (1, C, h, w) of the 1x1 layer over all blocks' outputs, pixel by pixel.

        `mixed` is the sum so far, None for the first block; it is not changed. Bias and activation come in `tail`.
        """
        channels = self.geometry.channels
        added = functional.conv2d(h, self.mixer.weight[:, i * channels : (i + 1) * channels])
        return added if mixed is None else added.add_(mixed)

    def tail(self, mixed: Tensor, f0: Tensor) -> Tensor:
        """The last `mix` and f0 to the image (1, 3, spread h, spread w). Wrong within 2 pixels of an edge."""
        deep = self.network.LR_conv(leaky(mixed + self.mixer_bias[:, None, None])) + f0
        return cast(Tensor, self.network.upsampler(deep))
