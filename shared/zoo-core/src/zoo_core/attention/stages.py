"""The stages of an attention module that can be replaced one by one: what makes q, k, v, positions, heads, output.

A stage is a frozen value that says what it is (`describe`) and builds the part with the parameters. A paper's variant
is such a value in the paper's own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_core.attention.biases import Bias, Distance


class Sizes(NamedTuple):
    """Sizes of a module: model width, query and key heads, and widths of a head."""

    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int


class Projected(NamedTuple):
    """What a projection gives: q (B, Hq, Nq, d), k (B, Hk, Nk, d), v (B, Hv, Nk, dv), and who shares which head."""

    q: Tensor
    k: Tensor
    v: Tensor
    kv_map: tuple[tuple[int, ...], tuple[int, ...]] | None = None


class Combined(NamedTuple):
    """What a combination of heads gives: (B, N, width), and by name what it did besides, such as gates or a loss."""

    x: Tensor
    aux: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Stage:
    """Base of all stages."""

    def describe(self) -> dict[str, Any]:
        """Return its name and parameters as JSON has them."""
        return {"stage": type(self).__name__, **asdict(self)}


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads d) -> (B, heads, N, d)."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads d)."""
    return x.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Separate(Stage):
    """Three linear layers, `q`, `k` and `v`.

    Args:
        bias: whether they have one.
    """

    bias: bool = False

    def build(self, sizes: Sizes) -> nn.Module:
        """Return the layers."""
        return _Separate(sizes, bias=self.bias)


class _Separate(nn.Module):
    def __init__(self, sizes: Sizes, *, bias: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads = sizes.heads, sizes.kv_heads
        self.q = nn.Linear(sizes.dim, sizes.heads * sizes.head_dim, bias=bias)
        self.k = nn.Linear(sizes.dim, sizes.kv_heads * sizes.head_dim, bias=bias)
        self.v = nn.Linear(sizes.dim, sizes.kv_heads * sizes.v_head_dim, bias=bias)

    def forward(self, x: Tensor, context: Tensor) -> Projected:
        """Project queries from x, keys and values from context."""
        return Projected(
            split_heads(self.q(x), self.heads),
            split_heads(self.k(context), self.kv_heads),
            split_heads(self.v(context), self.kv_heads),
        )


@dataclass(frozen=True)
class Fused(Stage):
    """One linear layer `qkv` for self-attention: rows of q, then k, then v, each head by head.

    Args:
        bias: whether it has one.
    """

    bias: bool = True

    def build(self, sizes: Sizes) -> nn.Module:
        """Return the layer."""
        return _Fused(sizes, bias=self.bias)


class _Fused(nn.Module):
    def __init__(self, sizes: Sizes, *, bias: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads = sizes.heads, sizes.kv_heads
        self.widths = [sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim, sizes.kv_heads * sizes.v_head_dim]
        self.qkv = nn.Linear(sizes.dim, sum(self.widths), bias=bias)

    def forward(self, x: Tensor, context: Tensor) -> Projected:
        """Project all from x, which context must be."""
        if context is not x:
            raise ValueError("a fused projection is for self-attention; use Separate() where there is a context")
        q, k, v = self.qkv(x).split(self.widths, -1)
        return Projected(split_heads(q, self.heads), split_heads(k, self.kv_heads), split_heads(v, self.kv_heads))


@dataclass(frozen=True)
class Decay(Stage):
    """A learnt decay with distance for each head: lambda = softplus(rho), and an offset mu.

    Args:
        kind: laplace or gauss.
        first: first lambda of the heads, in turns.
        offset: whether mu is learnt, from 0.
    """

    kind: Literal["laplace", "gauss"] = "laplace"
    first: tuple[float, ...] = (0.5, 0.25, 0.125, 0.0625)
    offset: bool = True

    def build(self, sizes: Sizes) -> nn.Module:
        """Return the parameters."""
        return _Decay(self, sizes.heads)


class _Decay(nn.Module):
    def __init__(self, stage: Decay, heads: int) -> None:
        super().__init__()
        self.kind = stage.kind
        first = torch.tensor([stage.first[h % len(stage.first)] for h in range(heads)])
        self.rho = nn.Parameter(torch.log(torch.expm1(first)))
        self.mu = nn.Parameter(torch.zeros(heads)) if stage.offset else None

    def forward(self) -> Bias:
        """Return the bias."""
        return Distance(self.kind, functional.softplus(self.rho), self.mu)


@dataclass(frozen=True)
class Projection(Stage):
    """The linear layer after the heads.

    Args:
        bias: whether it has one.
    """

    bias: bool = False
