"""Grouped differential attention (Motif Technologies, arXiv:2510.06949): few noise heads serve many signal heads.

G groups of g signal heads and one noise head; a group has a signal key, a noise key and a value of width 2 d:

    out[group, m] = softmax(q_signal k_signal^T) V - lambda softmax(q_noise k_noise^T) V
    out = RMSNorm(out) (1 - lambda_init)                      over the 2 d entries of a head, learnt weight
    lambda = exp(l_q1 . l_k1) - exp(l_q2 . l_k2) + lambda_init,  lambda_init = 0.8 - 0.6 exp(-0.3 (layer - 1))

Both products are linear in V, so all of it is one call of `attend` in which heads share keys and values, and a
difference. g = 1 is the differential transformer. The layer is counted from 1, as in that paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo_core.attention.dispatch import attend
from zoo_core.attention.masks import Mask
from zoo_core.attention.stages import Combined, Projected, Sizes, Stage, merge_heads, split_heads
from zoo_core.attention.taps import Taps

EPS = 1e-5


def lambda_init(layer: int) -> float:
    """Return the first lambda of a layer, counted from 1."""
    return 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))


def sharing(groups: int, signal: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return key and value head of each query head: in a group signal, then noise; of keys all signal ones first."""
    keys = tuple(group + (groups if m == signal else 0) for group in range(groups) for m in range(signal + 1))
    return keys, tuple(group for group in range(groups) for _ in range(signal + 1))


def subtract(head_out: Tensor, signal: int, lam: Tensor) -> Tensor:
    """Return signal minus lambda noise, (B, G g, N, dv), of heads (B, G (g + 1), N, dv)."""
    grouped = head_out.reshape(head_out.shape[0], -1, signal + 1, *head_out.shape[2:])
    return (grouped[:, :, :signal] - lam * grouped[:, :, signal:]).flatten(1, 2)


def grouped_differential(
    q_signal: Tensor,
    q_noise: Tensor,
    k_signal: Tensor,
    k_noise: Tensor,
    v: Tensor,
    lam: Tensor,
    *,
    mask: Mask | None = None,
) -> Tensor:
    """Return the difference before its norm, (B, G g, N, dv).

    Args:
        q_signal: (B, G g, N, d), group by group.
        q_noise: (B, G, N, d).
        k_signal: (B, G, N, d).
        k_noise: (B, G, N, d).
        v: (B, G, N, dv).
        lam: lambda, a number.
        mask: as for `zoo_core.attention.attend`.
    """
    groups = v.shape[1]
    signal = q_signal.shape[1] // groups
    by_group = q_signal.reshape(q_signal.shape[0], groups, signal, *q_signal.shape[2:])
    q = torch.cat([by_group, q_noise[:, :, None]], 2).flatten(1, 2)
    k = torch.cat([k_signal, k_noise], 1)
    return subtract(attend(q, k, v, mask=mask, kv_map=sharing(groups, signal)).out, signal, lam)


@dataclass(frozen=True)
class DifferentialProjection(Stage):
    """For an `Attention` with heads = G (g + 1), kv_heads = G, v_head_dim = 2 d: 2 G key heads, G value heads.

    Args:
        signal: g.
        bias: whether the layers have one.
    """

    signal: int
    bias: bool = False

    def build(self, sizes: Sizes) -> nn.Module:
        """Return the layers.

        Raises:
            ValueError: the heads are not G (g + 1).
        """
        if sizes.heads != sizes.kv_heads * (self.signal + 1):
            raise ValueError(
                f"{sizes.kv_heads} groups of {self.signal} signal heads and a noise head make "
                f"{sizes.kv_heads * (self.signal + 1)} query heads, not {sizes.heads}"
            )
        return _Projection(self, sizes)


class _Projection(nn.Module):
    def __init__(self, stage: DifferentialProjection, sizes: Sizes) -> None:
        super().__init__()
        self.signal, self.heads, self.groups = stage.signal, sizes.heads, sizes.kv_heads
        self.q = nn.Linear(sizes.dim, sizes.heads * sizes.head_dim, bias=stage.bias)
        self.k = nn.Linear(sizes.dim, 2 * sizes.kv_heads * sizes.head_dim, bias=stage.bias)
        self.v = nn.Linear(sizes.dim, sizes.kv_heads * sizes.v_head_dim, bias=stage.bias)

    def forward(self, x: Tensor, context: Tensor) -> Projected:
        """Project queries from x, keys and values from context."""
        q, k, v = self.q(x), self.k(context), self.v(context)
        return Projected(
            split_heads(q, self.heads),
            split_heads(k, 2 * self.groups),
            split_heads(v, self.groups),
            sharing(self.groups, self.signal),
        )


@dataclass(frozen=True)
class Difference(Stage):
    """Subtracts noise from signal, normalises each head.

    Args:
        signal: g.
        layer: number of the layer, from 1: decides lambda_init.

    Raises:
        ValueError: the layer is counted from 0.
    """

    signal: int
    layer: int

    def __post_init__(self) -> None:
        if self.layer < 1:
            raise ValueError(f"Difference: layer is {self.layer}, but layers are counted from 1")

    def width(self, sizes: Sizes) -> int:
        """Return the width after it: G g dv."""
        return sizes.kv_heads * self.signal * sizes.v_head_dim

    def build(self, sizes: Sizes) -> nn.Module:
        """Return the parameters of lambda and the norm."""
        return _Difference(self, sizes)


class _Difference(nn.Module):
    def __init__(self, stage: Difference, sizes: Sizes) -> None:
        super().__init__()
        self.signal, self.first = stage.signal, lambda_init(stage.layer)
        first = 0.1 * torch.randn(4, sizes.head_dim)
        self.lambda_q1, self.lambda_k1 = nn.Parameter(first[0]), nn.Parameter(first[1])
        self.lambda_q2, self.lambda_k2 = nn.Parameter(first[2]), nn.Parameter(first[3])
        self.subln = nn.RMSNorm(sizes.v_head_dim, eps=EPS)

    def lam(self) -> Tensor:
        """Return lambda in fp32 or wider."""
        vectors = (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2)
        q1, k1, q2, k2 = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in vectors)
        return (q1 @ k1).exp() - (q2 @ k2).exp() + self.first

    def forward(self, head_out: Tensor, x: Tensor, taps: Taps) -> Combined:
        """Combine heads (B, G (g + 1), N, dv)."""
        lam = self.lam()
        normed = self.subln(subtract(head_out, self.signal, lam.to(head_out.dtype))) * (1 - self.first)
        return Combined(merge_heads(normed), {"lambda": lam})


def grow(state: dict[str, Tensor], groups: int, signal: int, times: int) -> dict[str, Tensor]:
    """Return the state of an `Attention` with `times` as many signal heads, each a copy: the function stays the same.

    Args:
        state: of an `Attention` with `DifferentialProjection(signal)` and `Difference(signal, ...)`; stays untouched.
        groups: G.
        signal: g before.
        times: how many copies of every signal head there are afterwards; the output layer is divided among them.
    """

    def copied(rows: Tensor) -> Tensor:
        grouped = rows.reshape(groups, signal + 1, -1, *rows.shape[1:])
        return torch.cat([grouped[:, :signal].repeat_interleave(times, 1), grouped[:, signal:]], 1).flatten(0, 2)

    grown = {name: x.clone() for name, x in state.items()}
    for name in ("project.q.weight", "project.q.bias"):
        if name in state:
            grown[name] = copied(state[name])
    columns = state["output.weight"].reshape(len(state["output.weight"]), groups * signal, -1)
    grown["output.weight"] = (columns.repeat_interleave(times, 1) / times).flatten(1)
    return grown
