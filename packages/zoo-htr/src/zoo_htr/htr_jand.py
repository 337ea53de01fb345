"""HTR-JAND (Hamdan, Rahiche, Cheriet, arXiv:2412.18524): a line of handwriting -> logits of symbols a frame, for CTC.

The authors' code and weights are not to be had, and the paper does not define its "Proxima attention" in what we could
read. This is a reconstruction: gated convolutions with squeeze-and-excitation as in HTR-Flor, then blocks in which
multi-head self-attention and a locality-biased attention run side by side and are mixed by a gate.

Notation: B lines, H height, W width in pixels, n a line's own width, C channels, T = ceil(ceil(W/2)/2) frames, d width
of a frame's vector, V symbols with the blank at index 0.

No line sees its batch mates: whatever stands right of column n is set to zero before every convolution, as the border
padding of a line that is alone; means count valid columns only; attention has no padded keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_core.attention import Distance, Padding, attend
from zoo_core.attention.masks import Mask
from zoo_core.nn.squeeze import SqueezeExcitation
from zoo_htr.alphabet import BLANK, Alphabet

STRIDES = ((2, 2), (1, 1), (2, 2), (1, 1), (2, 1), (2, 1))  # (height, width) of the six stages
HEIGHT_OVER = 16  # input height over that of the last stage
DECAYS = (0.5, 0.25, 0.125, 0.0625)  # first lambda of the heads: weights halve within 1.4 to 11 frames


class Frames(NamedTuple):
    """What the network gives: logits (B, T, V), and how many of the T frames are a line's own, (B,) int64."""

    logits: Tensor
    lengths: Tensor


class Features(NamedTuple):
    """What the convolutions give: (B, T, 4 C6) channel-major (index 4 c + h), and the lines' own frames (B,)."""

    frames: Tensor
    lengths: Tensor


def frame_counts(widths: Tensor) -> Tensor:
    """Return how many frames lines of these widths in pixels have: halved twice, rounded up (L2, L7)."""
    return ((widths + 1) // 2 + 1) // 2


def valid_columns(lengths: Tensor, width: int) -> Tensor:
    """Return (B, width) bool: True for the first lengths[b] columns."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics count valid columns only (L5).

    Otherwise the share of padding would change them, and training would differ from evaluation. `frozen` keeps the
    running statistics and uses them in training too, for fine-tuning on few lines.
    """

    frozen = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise x (B, C, H, W); mask (B, 1, 1, W), 1 at valid columns, 0 elsewhere, needed in training."""
        if self.frozen or not self.training:
            return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if mask is None:
            raise ValueError("batch statistics need the mask of the valid columns")
        assert self.running_mean is not None  # noqa: S101 (for mypy: track_running_stats is on)
        assert self.running_var is not None  # noqa: S101
        assert self.num_batches_tracked is not None  # noqa: S101
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        valid = mask.to(wide.dtype)
        count = valid.sum() * x.shape[2]
        mean = (wide * valid).sum(dim=(0, 2, 3)) / count
        centred = (wide - mean[:, None, None]) * valid
        variance = centred.square().sum(dim=(0, 2, 3)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * (count / (count - 1).clamp_min(1)), self.momentum or 0.0)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return ((wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class FullGatedConv2d(nn.Module):
    """y = a sigmoid(b), (a, b) = conv 3x3 of x: the linear half first (HTR-Flor's FullGatedConv2D).

    Args:
        channels: C, in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate x (B, C, H, W)."""
        linear, gate = self.conv(x).chunk(2, dim=1)
        gated: Tensor = linear * torch.sigmoid(gate)
        return gated


class Stage(nn.Module):
    """Convolution 3x3, batch norm, PReLU, and in all stages but the last a gate and squeeze-and-excitation.

    Args:
        inputs: channels before.
        channels: channels after.
        stride: (height, width).
        gated: whether gate and squeeze-and-excitation follow.
        dropout: share of channels that are dropped in training.
    """

    def __init__(self, inputs: int, channels: int, stride: tuple[int, int], *, gated: bool, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False)
        self.bn = MaskedBatchNorm2d(channels, eps=1e-3, momentum=0.1)
        self.act = nn.PReLU(channels)
        self.gate = FullGatedConv2d(channels) if gated else None
        self.se = SqueezeExcitation(channels) if gated else None
        self.drop = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return (B, C, H', W'), zero where mask (B, 1, 1, W') is (L2): biases and shifts make padding non-zero."""
        x = self.act(self.bn(self.conv(x), mask)) * mask
        if self.gate is not None and self.se is not None:
            x = self.se(self.gate(x), mask) * mask
        dropped: Tensor = self.drop(x)
        return dropped


class SelfAttention(nn.Module):
    """Multi-head self-attention over a line's own frames, without positions (spec: branch A).

    Args:
        width: d.
        heads: how many; they divide d.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, y: Tensor, frames: Mask | None) -> Tensor:
        """Mix the frames y (B, T, d); `frames` says which of them are a line's own (L4)."""
        q, k, v = self.project(y)
        mixed: Tensor = self.out(attend(q, k, v, mask=frames).out.transpose(1, 2).flatten(2))
        return mixed

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, T, d / heads)."""
        q, k, v = self.qkv(y).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v


class ProximaAttention(SelfAttention):
    """Self-attention that prefers near frames: a reconstruction, as no source defines the paper's Proxima attention.

    Logits g_h q_i.k_j / sqrt(d_h) - lambda_h |(j - i) - mu_h| with lambda_h = softplus(rho_h): the decay lambda_h, the
    offset mu_h in frames and the gain g_h are learnt for each head. Distances, not absolute positions (L8).

    Args:
        width: d.
        heads: how many; they divide d.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        decays = torch.tensor([DECAYS[h % len(DECAYS)] for h in range(heads)])
        self.rho = nn.Parameter(torch.log(torch.expm1(decays)))
        self.mu = nn.Parameter(torch.zeros(heads))
        self.gain = nn.Parameter(torch.ones(heads))

    def forward(self, y: Tensor, frames: Mask | None) -> Tensor:
        """As `SelfAttention.forward`."""
        q, k, v = self.project(y)
        q = q * self.gain[:, None, None].to(q.dtype)
        near = Distance("laplace", functional.softplus(self.rho), self.mu)
        mixed: Tensor = self.out(attend(q, k, v, mask=frames, bias=near).out.transpose(1, 2).flatten(2))
        return mixed


class JointBlock(nn.Module):
    """Both attentions side by side, mixed by a gate a channel, then a feed-forward layer; pre-norm, residual.

    Args:
        width: d.
        heads: of each attention.
        feed_forward: width of the hidden layer.
        dropout: in training, of both residual branches.
        branches: which attentions run; with one of them there is no gate (for ablations).
    """

    def __init__(self, width: int, heads: int, feed_forward: int, *, dropout: float, branches: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mhsa = SelfAttention(width, heads) if branches != "proxima" else None
        self.proxima = ProximaAttention(width, heads) if branches != "mhsa" else None
        self.fuse = nn.Linear(2 * width, width) if branches == "both" else None
        self.ff1, self.ff2 = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, frames: Mask, mask: Tensor) -> Tensor:
        """Return x (B, T, d) after the block, zero where mask (B, T, 1) is; frames as in `SelfAttention.forward`."""
        y = self.norm1(x)
        mixed = [branch(y, frames) for branch in (self.mhsa, self.proxima) if branch is not None]
        if self.fuse is not None:
            gate = torch.sigmoid(self.fuse(torch.cat(mixed, dim=2)))
            joint = gate * mixed[0] + (1 - gate) * mixed[1]
        else:
            joint = mixed[0]
        x = x + self.drop(joint)
        x = x + self.drop(self.ff2(functional.silu(self.ff1(self.norm2(x)))))
        masked: Tensor = x * mask
        return masked


class HTRJAND(nn.Module):
    """The whole network.

    Args:
        alphabet: the symbols, "" (the blank) first.
        channels: of the six stages.
        width: d.
        heads: of each of a block's two attentions.
        feed_forward: width of the blocks' hidden layers.
        blocks: how many.
        height: of the lines in pixels, a multiple of 16.
        branches: `both`, or for ablations `mhsa` or `proxima` alone.
        dropouts: in training: channels after stages 3 to 5, blocks, before the output layer.

    Raises:
        ValueError: heads do not divide the width, or the height is no multiple of 16.
        UsageError: the alphabet is none.
    """

    def __init__(
        self,
        alphabet: Sequence[str],
        *,
        channels: Sequence[int],
        width: int,
        heads: int,
        feed_forward: int,
        blocks: int,
        height: int = 64,
        branches: str = "both",
        dropouts: tuple[float, float, float] = (0.1, 0.1, 0.2),
    ) -> None:
        super().__init__()
        if len(channels) != len(STRIDES) or width % heads or height % HEIGHT_OVER:
            raise ValueError(f"six channels, heads that divide width={width}, height={height} a multiple of 16")
        if branches not in ("both", "mhsa", "proxima"):
            raise ValueError(f"branches is both, mhsa or proxima, not {branches}")
        self.alphabet, self.height = Alphabet(tuple(alphabet)), height
        last = len(STRIDES) - 1
        self.stages = nn.ModuleList(
            Stage(before, after, stride, gated=i < last, dropout=dropouts[0] if 2 <= i < last else 0.0)
            for i, (before, after, stride) in enumerate(zip((1, *channels), channels, STRIDES, strict=False))
        )
        self.feature_width = channels[-1] * (height // HEIGHT_OVER)
        self.proj, self.proj_norm = nn.Linear(self.feature_width, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            JointBlock(width, heads, feed_forward, dropout=dropouts[1], branches=branches) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropouts[2])
        self.head = nn.Linear(width, len(self.alphabet))
        self.reset_parameters()

    def forward(self, lines: Tensor, widths: Tensor | None = None) -> Frames:
        """Read lines.

        Args:
            lines: (B, 1, H, W) as `zoo_htr.normalise` gives them: ink positive, paper about 0.
            widths: (B,) int64, how many columns of W are a line's own; all by default. What stands right of them is
                never looked at.

        Returns:
            logits (B, T, V), whose log-softmax is what CTC takes, zero in padding; and the lines' own frames.
        """
        return self.read(*self.encode(lines, widths))

    def encode(self, lines: Tensor, widths: Tensor | None = None) -> Features:
        """Run the convolutions; see `forward`."""
        if widths is None:
            widths = torch.full((len(lines),), lines.shape[3], device=lines.device)
        # where, not times: garbage may be inf or NaN
        x = torch.where(valid_columns(widths, lines.shape[3])[:, None, None], lines, 0)
        for stage, (_, across) in zip(self.stages, STRIDES, strict=True):
            if across == 2:
                widths = (widths + 1) // 2
            columns = (x.shape[3] + across - 1) // across
            x = stage(x, valid_columns(widths, columns)[:, None, None].to(x.dtype))
        return Features(x.flatten(1, 2).transpose(1, 2), widths)

    def read(self, features: Tensor, lengths: Tensor) -> Frames:
        """Run the blocks and the output layer on what `encode` gave."""
        frames = Padding(lengths)
        x = self.proj_norm(self.proj(features))
        mask = valid_columns(lengths, features.shape[1])[:, :, None].to(x.dtype)
        x = x * mask
        for block in self.blocks:
            x = block(x, frames, mask)
        logits = self.head(self.drop(self.norm(x)))
        return Frames(logits * mask.to(logits.dtype), lengths)

    def parts(self) -> list[nn.Module]:
        """Return what repeats, and is worth compiling by itself: the stages and the blocks."""
        return [*self.stages, *self.blocks]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw fresh weights: He for convolutions, Glorot for gates and linear layers, residual outputs scaled down."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        for stage in self.stages:
            gate = stage.gate
            if isinstance(gate, FullGatedConv2d):
                nn.init.xavier_uniform_(gate.conv.weight)
                assert gate.conv.bias is not None  # noqa: S101 (for mypy)
                linear, opening = gate.conv.bias.chunk(2)
                linear.zero_()
                opening.fill_(1.0)  # sigmoid(1): 73 % of the signal passes at the start
        for block in self.blocks:
            outs = [getattr(block, name) for name in ("mhsa", "proxima") if getattr(block, name) is not None]
            for layer in (*(attention.out for attention in outs), block.ff2):
                layer.weight.div_(math.sqrt(2 * len(self.blocks)))
        # The output layer stays Glorot like the others: with a deviation of 0.02 what it sends back is so little beside
        # what the second head does that the network reads nothing but blanks for several times as many steps.

    def freeze_statistics(self) -> None:
        """Keep the running statistics of all batch norms from now on, and use them in training too."""
        for module in self.modules():
            if isinstance(module, MaskedBatchNorm2d):
                module.frozen = True


class Shortcut(nn.Module):
    """A second CTC head on the convolutions' features, for training only: it shortens the way to the loss.

    After Retsinas et al., "Best practices for a handwritten text recognition system" (2022).

    Args:
        features: width of the features.
        symbols: V.
    """

    def __init__(self, features: int, symbols: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(features, symbols, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, T, V) for features (B, T, F)."""
        logits: Tensor = self.conv(features.transpose(1, 2)).transpose(1, 2)
        return logits


__all__ = ["BLANK", "DECAYS", "HTRJAND", "Features", "Frames", "Shortcut", "frame_counts", "valid_columns"]
