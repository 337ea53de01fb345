"""Faster engines for IMDN, and which of them is the default: the fastest that is there and agrees.

On a CPU it is `Packed`, for any build of PyTorch with oneDNN: it needs no warm-up and nothing installed. Engines that
convert the network first (openvino, onnxruntime, inductor) are ways of `zoo bench` only. They take seconds before the
first image and know nothing of tiles; OpenVINO runs the same oneDNN convolutions, so stage by stage, as tiles need it,
it is slower than `Packed`: every stage copies its maps in and out. `tools/bench_stages.py` measures that, and
docs/benchmarks.md has the figures of whole images.

On CUDA in fp16 an image that is one tile goes through `FusedIMDN`; everything else is plain PyTorch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from zoo_sr.gpu import FusedIMDN
from zoo_sr.imdn import IMDN, SLOPE
from zoo_sr.stages import Stages

_LEAKY = ("leaky_relu", [SLOPE])
_NOTHING: tuple[str, list[float]] = ("none", [])
_TYPICAL_SIZE = [180, 320]  # oneDNN arranges a weight for a size; at another it rearranges it, in microseconds
# Largest difference from plain PyTorch on the check image, in parts of the largest value: another order of rounding.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
_SIZES = 2  # landscape and portrait; each holds 1.6 kB a pixel of the input


@dataclass(frozen=True)
class PackedConvolution:
    """A convolution with its weight in oneDNN's own order; what follows it is done before the result leaves the cache.

    Args:
        weight: opaque to everything but oneDNN.
        bias: (O,) or None.
        padding: zeros on every side.
        after: name and arguments of the activation.
    """

    weight: Tensor
    bias: Tensor | None
    padding: int
    after: tuple[str, list[float]] = _NOTHING

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, *, after: tuple[str, list[float]] = _NOTHING) -> PackedConvolution:
        """Pack a weight (O, I, k, k), stride 1, padded so that the size stays."""
        padding = weight.shape[-1] // 2
        packed = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
            weight.detach().contiguous().to_mkldnn(),
            [padding, padding],
            [1, 1],
            [1, 1],
            1,
            [1, weight.shape[1], *_TYPICAL_SIZE],
        )
        return cls(packed, None if bias is None else bias.detach(), padding, after)

    def __call__(self, x: Tensor) -> Tensor:
        """(1, I, h, w) -> (1, O, h, w), both channels_last."""
        name, values = self.after
        padding = [self.padding, self.padding]
        return cast(
            Tensor,
            torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, padding, [1, 1], [1, 1], 1, name, values, ""
            ),
        )

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the convolution of x plus a map (1, O, h, w), added in fp32 before rounding."""
        padding = [self.padding, self.padding]
        return cast(
            Tensor,
            torch.ops.mkldnn._convolution_pointwise.binary(
                x, other, self.weight, self.bias, padding, [1, 1], [1, 1], 1, "add", 1.0, None, [], ""
            ),
        )


class Packed(Stages):
    """The stages with weights packed once for oneDNN, and activations and sums inside the convolutions.

    Like `Stages` it gives the same bits whatever the tile.

    The operators are those that PyTorch's own compiler emits for CPUs. `fits` says whether this build has them.

    Args:
        network: IMDN or IMDN_AS on the CPU, float32 or bfloat16. Its weights are copied.
    """

    def __init__(self, network: IMDN) -> None:
        super().__init__(network)
        self._refine = [
            [_packed(layer, after=_LEAKY) for layer in (block.c1, block.c2, block.c3)] for block in self.blocks
        ]
        self._last = [_packed(block.c4) for block in self.blocks]
        channels = self.geometry.channels
        self._mix = [
            PackedConvolution.of(self.mixer.weight[:, first : first + channels], None)
            for first in range(0, self.mixer.in_channels, channels)
        ]
        self._deep = _packed(network.LR_conv)
        self._up = _packed(cast(nn.Conv2d, network.upsampler[0]))
        self._shuffle = network.upsampler[1]

    def parts(self, i: int, h: Tensor) -> Tensor:
        """See `Stages.parts`."""
        kept, distilled = self.blocks[i].distilled, []
        for layer in self._refine[i]:
            refined = layer(h)
            distilled.append(refined[:, :kept])
            h = refined[:, kept:]
        return torch.cat([*distilled, self._last[i](h)], dim=1)

    def close(self, i: int, u: Tensor, gate: Tensor, h: Tensor) -> Tensor:
        """See `Stages.close`."""
        c5 = self.blocks[i].c5
        return PackedConvolution.of(c5.weight * gate[None, :, None, None], c5.bias).plus(u, h)

    def mix(self, i: int, h: Tensor, mixed: Tensor | None) -> Tensor:
        """See `Stages.mix`."""
        return self._mix[i](h) if mixed is None else self._mix[i].plus(h, mixed)

    def tail(self, mixed: Tensor, f0: Tensor) -> Tensor:
        """See `Stages.tail`."""
        bias = cast(Tensor, self.mixer.bias)
        hidden = (mixed + bias[:, None, None]).contiguous(memory_format=torch.channels_last)
        deep = self._deep.plus(nn.functional.leaky_relu_(hidden, SLOPE), f0)
        return cast(Tensor, self._shuffle(self._up(deep)))


def _packed(layer: nn.Conv2d, *, after: tuple[str, list[float]] = _NOTHING) -> PackedConvolution:
    return PackedConvolution.of(layer.weight, layer.bias, after=after)


def fits(network: IMDN) -> bool:
    """Whether `Packed` can run this network here: on the CPU, in a type that oneDNN computes in on this processor."""
    parameter = next(network.parameters())
    if parameter.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    if parameter.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return parameter.dtype == torch.float32


def fastest(network: IMDN) -> Stages:
    """Return the fastest engine for the stages that is there and agrees with plain PyTorch on one block.

    The check takes a few milliseconds. It is there because `Packed` calls operators that PyTorch does not document: if
    a later release changes them, results stay right and only the speed is lost.
    """
    plain = Stages(network)
    if not fits(network):
        return plain
    try:
        packed = Packed(network)
        agrees = _agree(plain, packed, next(network.parameters()))
    except (RuntimeError, TypeError, AttributeError):  # an operator that is gone, or takes other arguments
        return plain
    return packed if agrees else plain


def whole_image(network: IMDN, precision: str) -> FusedIMDN | None:
    """Return the fused engine for images of one tile if this is its place (CUDA, fp16) and it agrees; else None.

    It compiles its kernels here, to compare: seconds the first time on a machine, which Triton's cache on disk spares
    the next time. Ask when there is an image for it.

    Args:
        network: in fp32, on the device to compute on. Its weights are copied.
        precision: that was asked for; the engine is for "fp16".
    """
    device = next(network.parameters()).device
    if device.type != "cuda" or precision != "fp16":
        return None
    return fused_if_right(network, device, torch.float16)


def fused_if_right(network: IMDN, device: torch.device, dtype: torch.dtype) -> FusedIMDN | None:
    """Return the fused engine if it fits the network and runs and agrees here; else None.

    Older GPUs lack what Triton or the kernels' tiles need, and say so in errors of many types.

    Args:
        network: in fp32.
        device: to compute on; the kernels' plain references run on a CPU.
        dtype: of maps and weights.
    """
    image = torch.linspace(0, 40, 3 * 48 * 40).sin().mul(0.5).add(0.5).view(1, 3, 48, 40)
    try:
        engine = FusedIMDN(network, device=device, dtype=dtype, output=torch.float32, sizes=_SIZES)
        with torch.inference_mode():
            result = engine(image.to(dtype)).cpu()
            expected = copy.deepcopy(network).cpu()(image)
    except Exception:
        return None
    engine.forget()
    agrees = (result - expected).abs().max() <= _TOLERANCE[dtype] * expected.abs().max()
    return engine if bool(agrees) else None


def _agree(plain: Stages, other: Stages, like: Tensor) -> bool:
    """Compare two engines on the first block and the tail, with a fixed image of 48 x 40 pixels."""
    with torch.inference_mode():
        channels = plain.geometry.channels
        ramp = torch.linspace(0, 60, channels * 48 * 40).sin()
        h = ramp.view(1, channels, 48, 40).to(like.dtype).contiguous(memory_format=torch.channels_last)
        gate = torch.linspace(0.1, 1, channels).to(like.dtype)
        for stages in (plain, other):
            u = stages.parts(0, h)
            closed = stages.close(0, u, gate, h)
            result = stages.tail(stages.mix(0, closed, h), h).float()
            if stages is plain:
                expected = result
        scale = expected.abs().max()
        return bool((result - expected).abs().max() <= _TOLERANCE[like.dtype] * scale)
