"""IMDN in half precision on CUDA: fused kernels, statistics in fp32, one CUDA graph per image size that comes twice.

The network in 34 launches on channel-last fp16 maps with a zero border (`zoo_core.kernels`). A convolution writes its
distilled channels to their place in u and the others to a map of their own, the last one of a block also computes the
gates, which are folded into the weight of the layer after them; activations and residuals happen before a result
leaves its kernel. Every sum is fp32.

A graph belongs to one size. Capturing it launches every kernel once more, so it saves nothing on the image that it is
captured for. The first image of a size is therefore launched kernel by kernel, and a graph is captured when a second
one comes: a folder of pictures of many sizes captures nothing; frames, and pictures of one camera, are replayed. Both
give the same bits: the kernels are the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from zoo_core.errors import UsageError
from zoo_core.kernels.conv3x3 import conv3x3, conv3x3_gate, conv3x3_shuffle, new_scratch, pack, pack_shuffle
from zoo_core.kernels.maps import COLUMNS_EXTRA, ELEMENTS_LIMIT, ROWS_EXTRA, interior, new_maps
from zoo_core.kernels.pointwise import pointwise
from zoo_core.nn.graphs import captured
from zoo_sr.imdn import IMDB, IMDN, SLOPE

_Size: TypeAlias = tuple[int, int, torch.dtype]  # height and width of the input, and its type

CHANNELS = 64  # what the kernels' tiles are made for
KEPT = CHANNELS // 4  # distilled by each of a block's convolutions
PIXEL_CHANNELS = 16  # the three colours, padded to one step of the tensor cores


@dataclass(frozen=True)
class _Layer:
    """A packed weight and its bias."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _Block:
    """The packed layers of an information multi-distillation block."""

    refine: tuple[_Layer, _Layer, _Layer, _Layer]  # c1..c4
    fuse: _Layer  # c5
    attention: tuple[Tensor, Tensor, Tensor, Tensor]  # W1, b1, W2, b2


@dataclass(frozen=True)
class Plan:
    """Everything that a pass over one image size reads and writes; `FusedIMDN.plan` adds how to run it."""

    image: Tensor  # (3, H, W): the input
    pixels: Tensor  # map of 16 channels: the input, padded
    hidden: Tensor  # 1 + blocks maps of 64 channels: h_0, h_1, ...
    u: Tensor  # map of 64 channels: the four distilled parts of a block
    rest: Tensor  # 2 maps of 48 channels: what the next convolution refines
    deep: Tensor  # map of 64 channels: the output of LR_conv
    gate: Tensor  # (64,)
    scratch: tuple[Tensor, Tensor]
    output: Tensor  # (3, scale H, scale W)


class FusedIMDN:
    """Runs an IMDN fast, for inference only; image by image, so that statistics are per image whatever the batch.

    The weights are copied at construction; later changes of the module have no effect. Not for several threads at once.

    Args:
        module: IMDN with 64 channels, any scale and number of blocks.
        device: a CUDA device; on the CPU the kernels' plain references run (slow: for tests).
        dtype: of maps and weights; float16 on CUDA. Biases, sums, statistics and gates are at least fp32.
        output: float16, float32 (not clamped) or uint8 (clamped and rounded).
        sizes: for how many image sizes buffers and graphs are kept (1.5 kB a pixel of the input); the oldest goes
            first.

    Raises:
        UsageError: the module is a variant that the kernels do not fit.
    """

    def __init__(
        self,
        module: IMDN,
        *,
        device: torch.device | str = "cuda",
        dtype: torch.dtype = torch.float16,
        output: torch.dtype = torch.float16,
        sizes: int = 4,
    ) -> None:
        head, tail = module.fea_conv, cast(nn.Conv2d, module.upsampler[0])
        if not isinstance(head, nn.Conv2d) or head.out_channels != CHANNELS:
            raise UsageError(
                f"The fused engine runs IMDN with {CHANNELS} channels, not this {type(module).__name__}.",
                "Run the module itself, compiled or not.",
            )
        self.device, self.dtype, self.output = torch.device(device), dtype, output
        self.scale = module.scale
        self._sizes = sizes
        self._kept: OrderedDict[_Size, tuple[Plan, Callable[[], None] | None]] = OrderedDict()
        self._head = self._packed(head, inputs=PIXEL_CHANNELS)
        self._blocks = [self._block(block) for block in module.blocks()]
        self._collect = self._pointwise(cast(nn.Conv2d, module.c[0]))
        self._last = self._packed(module.LR_conv)
        weight, bias = pack_shuffle(tail.weight.detach(), cast(Tensor, tail.bias).detach(), self.scale)
        self._tail = _Layer(weight.to(self.device, self.dtype), self._wide(bias))

    def __call__(self, images: Tensor) -> Tensor:
        """Enlarge a batch.

        Args:
            images: (N, 3, H, W) in [0, 1], float16 or float32, or uint8 in 0..255; any device.

        Returns:
            (N, 3, scale H, scale W) of the type `output`, on the engine's device.
        """
        count, _, height, width = images.shape
        size = (height, width, images.dtype)
        if count > 1 or size in self._kept:
            plan, run = self.plan(*size)
        else:
            plan = self._buffers(*size)
            run = partial(self._launch, plan)
        results = torch.empty(count, *plan.output.shape, dtype=self.output, device=self.device)
        for image, result in zip(images, results, strict=True):
            plan.image.copy_(image)
            run()
            result.copy_(plan.output)
        return results

    def fits(self, height: int, width: int) -> bool:
        """Whether the kernels can address maps of this size; whether memory suffices is another question."""
        return (height + ROWS_EXTRA) * (width + COLUMNS_EXTRA) * CHANNELS < ELEMENTS_LIMIT

    def forget(self) -> None:
        """Give the memory of all sizes back."""
        self._kept.clear()

    def plan(self, height: int, width: int, dtype: torch.dtype) -> tuple[Plan, Callable[[], None]]:
        """Return the buffers of an image size, and what fills `output` from `image`: on CUDA the replay of a graph.

        The graph is captured at the first call for a size, which also compiles the kernels: seconds the first time on
        a machine.
        """
        plan = self._buffers(height, width, dtype)
        run = self._kept[height, width, dtype][1]
        if run is None:
            if self.device.type == "cuda":
                run = captured(partial(self._run, plan), self.device)[0].replay
            else:
                run = partial(self._launch, plan)
            self._kept[height, width, dtype] = plan, run
        return plan, run

    def _buffers(self, *size: *_Size) -> Plan:
        """Return the buffers of a size, which is now the last one to be forgotten."""
        if size not in self._kept:
            while len(self._kept) >= self._sizes:
                self._kept.popitem(last=False)
            self._kept[size] = self._allocated(*size), None
        self._kept.move_to_end(size)
        return self._kept[size][0]

    def _launch(self, plan: Plan) -> None:
        """Launch the network once on the engine's device, which need not be the current one."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            self._run(plan)

    def _run(self, b: Plan) -> None:
        """IMDN.forward, layer by layer, on the buffers."""
        colours = interior(b.pixels)[..., :3]
        if b.image.dtype == torch.uint8:
            torch.div(b.image.permute(1, 2, 0), 255, out=colours)
        else:
            colours.copy_(b.image.permute(1, 2, 0))
        conv3x3(b.pixels, self._head.weight, self._head.bias, b.hidden[0])
        for i, block in enumerate(self._blocks):
            x, (c1, c2, c3, c4) = b.hidden[i], block.refine
            d1, d2, d3, d4 = torch.chunk(b.u, 4, dim=-1)
            s1, s2, s3, _ = torch.chunk(b.scratch[0], 4, dim=-1)
            conv3x3(x, c1.weight, c1.bias, d1, rest=b.rest[0], slope=SLOPE, moments=s1)
            conv3x3(b.rest[0], c2.weight, c2.bias, d2, rest=b.rest[1], slope=SLOPE, moments=s2)
            conv3x3(b.rest[1], c3.weight, c3.bias, d3, rest=b.rest[0], slope=SLOPE, moments=s3)
            conv3x3_gate(b.rest[0], c4.weight, c4.bias, d4, block.attention, b.gate, b.scratch)
            c5, out = block.fuse, b.hidden[i + 1]
            pointwise(b.u[None], c5.weight, c5.bias, out, gate=b.gate, residual=x)
        pointwise(b.hidden[1:], self._collect.weight, self._collect.bias, b.u, slope=SLOPE)
        conv3x3(b.u, self._last.weight, self._last.bias, b.deep, residual=b.hidden[0])
        conv3x3_shuffle(b.deep, self._tail.weight, self._tail.bias, b.output, scale=self.scale)

    def _allocated(self, height: int, width: int, dtype: torch.dtype) -> Plan:
        def maps(count: int, channels: int) -> Tensor:
            return new_maps(count, height, width, channels, dtype=self.dtype, device=self.device)

        return Plan(
            image=torch.zeros(3, height, width, dtype=dtype, device=self.device),
            pixels=maps(1, PIXEL_CHANNELS)[0],
            hidden=maps(1 + len(self._blocks), CHANNELS),
            u=maps(1, CHANNELS)[0],
            rest=maps(2, CHANNELS - KEPT),
            deep=maps(1, CHANNELS)[0],
            gate=torch.zeros(CHANNELS, dtype=torch.promote_types(self.dtype, torch.float32), device=self.device),
            scratch=new_scratch(height, width, CHANNELS, self.device, torch.promote_types(self.dtype, torch.float32)),
            output=torch.zeros(3, self.scale * height, self.scale * width, dtype=self.output, device=self.device),
        )

    def _block(self, block: IMDB) -> _Block:
        narrow, wide = cast(nn.Conv2d, block.cca.conv_du[0]), cast(nn.Conv2d, block.cca.conv_du[2])
        gate = [
            self._wide(t)
            for t in (
                narrow.weight[:, :, 0, 0],
                cast(Tensor, narrow.bias),
                wide.weight[:, :, 0, 0],
                cast(Tensor, wide.bias),
            )
        ]
        refine = [self._packed(layer) for layer in (block.c1, block.c2, block.c3, block.c4)]
        return _Block(
            refine=(refine[0], refine[1], refine[2], refine[3]),
            fuse=self._pointwise(block.c5),
            attention=(gate[0], gate[1], gate[2], gate[3]),
        )

    def _packed(self, layer: nn.Conv2d, *, inputs: int | None = None) -> _Layer:
        weight = pack(layer.weight.detach(), inputs=inputs).to(self.device, self.dtype)
        return _Layer(weight, self._wide(cast(Tensor, layer.bias)))

    def _pointwise(self, layer: nn.Conv2d) -> _Layer:
        weight = layer.weight.detach()[:, :, 0, 0].T.contiguous().to(self.device, self.dtype)
        return _Layer(weight, self._wide(cast(Tensor, layer.bias)))

    def _wide(self, tensor: Tensor) -> Tensor:
        """Copy to the device in fp32, or fp64 for a float64 engine."""
        return tensor.detach().to(self.device, torch.promote_types(self.dtype, torch.float32)).contiguous()
