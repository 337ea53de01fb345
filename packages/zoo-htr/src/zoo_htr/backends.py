"""The engine that reads lines on a CPU: the function of `htr_jand`, in fewer and cheaper operations.

A line is computed alone, at its own width rounded up, by one thread; several lines run beside each other. So there is
hardly any padding to compute or to mask, maps stay in a core's cache, threads never wait for each other within a line,
and a line gives the same bits whatever is read with it.

What `Folded` changes, with nothing but the order of sums in the result:

- batch norm goes into the weights of the convolution before it, and the gates of squeeze-and-excitation into those of
  the convolution behind, as they scale its input;
- maps are channels_last, for which oneDNN's convolutions need no reordering;
- both attentions project with one matrix; the gain, the scale 1 / sqrt(d_h) and the output projections are merged
  into their neighbours.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_core.errors import UsageError
from zoo_core.nn.squeeze import SqueezeExcitation
from zoo_htr.htr_jand import HEIGHT_OVER, HTRJAND, JointBlock, SelfAttention, Stage

STEP = 64  # canvases are multiples of it: oneDNN prepares every convolution once a width, which takes as long as a line
_AT_ONCE = 32
_BLOCK_BYTES = 31 << 20  # glibc learns nothing from 32 MiB and more
_LAST = torch.channels_last


class Convolution:
    """A convolution 3x3 with padding 1.

    Args:
        weight: (O, I, 3, 3).
        bias: (O,).
        stride: (height, width).
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: tuple[int, int]) -> None:
        self.weight, self.bias, self.stride = weight.contiguous(memory_format=_LAST), bias, stride

    def __call__(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """(1, I, H, W) times scale (I,) -> (1, O, H', W'), both channels_last."""
        # scaling the few weights instead of the map gives the same sums
        weight = self.weight if scale is None else self.weight * scale[:, None, None]
        return functional.conv2d(x, weight, self.bias, self.stride, padding=1)


Bounds: TypeAlias = Mapping[str, tuple[float, float]]
Make: TypeAlias = Callable[[Tensor, Tensor, tuple[int, int]], Convolution]


@dataclass(frozen=True)
class FoldedStage:
    """A stage of the convolutions.

    Args:
        conv: with batch norm in it.
        slope: (O,) of PReLU.
        gate: the gate's convolution, None in the last stage.
        squeeze: squeeze-and-excitation, None in the last stage.
    """

    conv: Convolution
    slope: Tensor
    gate: Convolution | None
    squeeze: SqueezeExcitation | None

    @classmethod
    def of(cls, stage: Stage, make: Make) -> FoldedStage:
        """Fold a stage in evaluation mode."""
        bn = stage.bn
        assert bn.running_mean is not None  # noqa: S101 (for mypy: track_running_stats is on)
        assert bn.running_var is not None  # noqa: S101
        scale = bn.weight.double() * (bn.running_var.double() + bn.eps).rsqrt()
        weight = (stage.conv.weight * scale[:, None, None, None]).float()
        bias = (bn.bias - bn.running_mean * scale).float()
        conv = make(weight, bias, cast(tuple[int, int], stage.conv.stride))
        if stage.gate is None:
            return cls(conv, stage.act.weight, None, None)
        gate = stage.gate.conv
        assert gate.bias is not None  # noqa: S101 (for mypy)
        return cls(conv, stage.act.weight, make(gate.weight, gate.bias, (1, 1)), stage.se)

    def __call__(self, x: Tensor, columns: int, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run the stage on one line.

        Args:
            x: (1, I, H, W) channels_last, zero right of the line's own columns.
            columns: how many of the result are the line's own.
            scale: (I,) by which the channels of x still have to be multiplied; None: by nothing.

        Returns:
            (1, O, H', W') likewise, and the scale of its channels, None in the last stage.
        """
        x = functional.prelu(self.conv(x, scale), self.slope)
        x[..., columns:] = 0
        if self.gate is None or self.squeeze is None:
            return x, None
        z, channels = self.gate(x), x.shape[1]
        # PyTorch's loops take 32 numbers at once and the rest of a pixel's one by one: so rather some of `linear` too
        opened = z[:, max(0, 2 * channels - -(-channels // _AT_ONCE) * _AT_ONCE) :].sigmoid()
        x = z[:, :channels] * opened[:, -channels:]
        x[..., columns:] = 0
        means = x.sum(dim=(2, 3)) / (x.shape[2] * max(columns, 1))
        return x, self.squeeze.gate(means)[0]


@dataclass(frozen=True)
class FoldedBlock:
    """A joint block; h heads of each attention, mhsa's before proxima's.

    Args:
        norm1: before the attentions.
        norm2: before the feed-forward layer.
        ff1: feed-forward, in.
        ff2: feed-forward, out.
        qkv_weight: (6 d, d) of both attentions: queries, keys, values. Queries are scaled.
        qkv_bias: (6 d,).
        out_weight: (3 d, 2 d) from both attentions to P, A - P and what the sigmoid of the gate is taken of.
        out_bias: (3 d,).
        decay: (h, 1, 1) lambda of proxima's heads.
        offset: (h, 1, 1) mu.
    """

    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    ff1: nn.Linear
    ff2: nn.Linear
    qkv_weight: Tensor
    qkv_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    decay: Tensor
    offset: Tensor

    @classmethod
    def of(cls, block: JointBlock) -> FoldedBlock:
        """Fold a block that has both attentions."""
        a, p, fuse = block.mhsa, block.proxima, block.fuse
        assert a is not None  # noqa: S101 (for mypy: `fits` has looked)
        assert p is not None  # noqa: S101
        assert fuse is not None  # noqa: S101
        gains = (torch.ones(a.heads), p.gain)
        weights, biases = zip(*map(_scaled_qkv, (a, p), gains), strict=True)
        # from [a; p] to A = Wa a + ba and P = Wp p + bp, in float64, as products of weights follow
        a_weight = functional.pad(a.out.weight.double(), (0, a.out.in_features))
        p_weight = functional.pad(p.out.weight.double(), (p.out.in_features, 0))
        a_bias, p_bias = a.out.bias.double(), p.out.bias.double()
        gate = fuse.weight.double()
        gate_weight = gate @ torch.cat([a_weight, p_weight])
        gate_bias = gate @ torch.cat([a_bias, p_bias]) + fuse.bias
        return cls(
            block.norm1,
            block.norm2,
            block.ff1,
            block.ff2,
            torch.cat(weights, dim=1).flatten(0, 2).contiguous(),
            torch.cat(biases, dim=1).flatten().contiguous(),
            torch.cat([p_weight, a_weight - p_weight, gate_weight]).float(),
            torch.cat([p_bias, a_bias - p_bias, gate_bias]).float(),
            functional.softplus(p.rho)[:, None, None],
            p.mu[:, None, None],
        )

    def __call__(self, x: Tensor, distance: Tensor) -> Tensor:
        """Return the frames x (T, d) of one line after the block; distance (T, T) is j - i."""
        heads = len(self.decay)
        y = self.norm1(x)
        q, k, v = functional.linear(y, self.qkv_weight, self.qkv_bias).view(len(x), 3, 2 * heads, -1).unbind(1)
        logits = torch.bmm(q.transpose(0, 1), k.permute(1, 2, 0))
        logits[heads:] -= self.decay * (distance - self.offset).abs()
        mixed = torch.bmm(logits.softmax(2), v.transpose(0, 1)).transpose(0, 1).flatten(1)
        p, difference, gate = functional.linear(mixed, self.out_weight, self.out_bias).chunk(3, dim=1)
        # G A + (1 - G) P
        x = torch.addcmul(x + p, difference, gate.sigmoid())
        forward: Tensor = self.ff2(functional.silu(self.ff1(self.norm2(x)), inplace=True))
        return x + forward


class Folded:
    """The whole network for one line at a time.

    Args:
        network: in evaluation mode, float32, on the CPU, with both attentions; see `fits`. Its weights are copied.
        make: makes the convolutions; `zoo_htr.int8.convolution` makes them approximate.
    """

    @torch.no_grad()
    def __init__(self, network: HTRJAND, make: Make = Convolution) -> None:
        # Until it has seen a block of such a size freed, glibc returns the memory of every map to the system and takes
        # it anew, page by page: a tenth of the time. The block itself is never touched.
        torch.empty(_BLOCK_BYTES, dtype=torch.uint8)
        network = copy.deepcopy(network)
        self.stages = [FoldedStage.of(cast(Stage, stage), make) for stage in network.stages]
        # the last stage's maps are (row, column, channel) here, and channel after channel in the network
        weight = network.proj.weight
        rows = weight.view(len(weight), -1, network.height // HEIGHT_OVER).transpose(1, 2)
        self.proj_weight, self.proj_bias = rows.flatten(1).contiguous(), network.proj.bias
        self.proj_norm, self.norm, self.head = network.proj_norm, network.norm, network.head
        self.blocks = [FoldedBlock.of(cast(JointBlock, block)) for block in network.blocks]

    @property
    def described(self) -> str:
        """The engine in words."""
        eight = any(type(stage.conv) is not Convolution for stage in self.stages)
        return "PyTorch, convolutions in 8 bits" if eight else "PyTorch"

    @torch.inference_mode()
    def __call__(self, line: Tensor) -> Tensor:
        """Read a line.

        Args:
            line: (H, W) float32, as `zoo_htr.normalise.standardise` gives it.

        Returns:
            logits (T, V).
        """
        columns = line.shape[1]
        x = functional.pad(line, (0, -columns % STEP))[None, None]
        scale: Tensor | None = None
        for stage in self.stages:
            columns = -(-columns // stage.conv.stride[1])
            x, scale = stage(x, columns, scale)
        # (1, C, rows, W) -> (T, rows C)
        frames = x[0, :, :, :columns].permute(2, 1, 0).flatten(1)
        x = self.proj_norm(functional.linear(frames, self.proj_weight, self.proj_bias))
        places = torch.arange(columns, dtype=x.dtype)
        distance = places - places[:, None]
        for block in self.blocks:
            x = block(x, distance)
        logits: Tensor = self.head(self.norm(x))
        return logits


class Engine(Protocol):
    """Reads one line at a time; several threads may call it."""

    @property
    def described(self) -> str:
        """The engine in words."""

    def __call__(self, line: Tensor) -> Tensor:
        """See `Folded.__call__`."""


def fits(network: HTRJAND) -> bool:
    """Whether `Folded` can run this network: float32 on the CPU, evaluation mode, both attentions in its blocks."""
    weight = network.head.weight
    both = all(getattr(block, "fuse", None) is not None for block in network.blocks)
    return both and weight.device.type == "cpu" and weight.dtype == torch.float32 and not network.training


def fastest(network: HTRJAND, precision: str = "fp32", bounds: Bounds | None = None) -> Engine | None:
    """Return the engine for a network here; None where the network itself, in batches, is the fastest there is.

    Args:
        network: in evaluation mode, where it is to run; in float32 for int8.
        precision: int8 for 8 bits; others are those of the network.
        bounds: of the numbers in this network, for int8; see `zoo_htr.graph8`. Without them, or without OpenVINO, only
            convolutions are in 8 bits.

    Raises:
        UsageError: this machine cannot compute in int8.
    """
    if precision != "int8":
        return Folded(network) if fits(network) else None
    from zoo_htr.int8 import convolution, supported

    if not fits(network) or not supported():
        raise UsageError("int8 runs on CPUs that have VNNI instructions.", "Use --precision fp32, or --device cpu.")
    if bounds and importlib.util.find_spec("openvino") is not None:
        from zoo_htr.graph8 import Graph8

        return Graph8(network, bounds, threads=torch.get_num_threads())
    return Folded(network, convolution)


def _scaled_qkv(attention: SelfAttention, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight (3, h, d_h, d) and bias (3, h, d_h) of an attention, the queries times gain / sqrt(d_h)."""
    heads = attention.heads
    width = attention.qkv.in_features
    weight = attention.qkv.weight.view(3, heads, -1, width).clone()
    bias = attention.qkv.bias.view(3, heads, -1).clone()
    scale = gain / math.sqrt(weight.shape[2])
    weight[0] *= scale[:, None, None]
    bias[0] *= scale[:, None]
    return weight, bias
