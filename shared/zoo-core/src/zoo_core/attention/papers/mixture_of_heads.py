"""MoH: multi-head attention as mixture-of-head attention (Jin and others, arXiv:2410.11842, code SkyworkAI/MoH).

y = sum_h g_h(x_t) A_h v_h W_o,h: every token weighs S shared heads and its k best of E = H - S routed heads.

    routed gates: softmax(x W_g^T) over E, the k largest kept and scaled to sum to k
    shared gates: S softmax(x W_1^T)
    both times a = 2 softmax(x W_0^T), for shared (first) and routed heads
    load balance: E sum_e mean_t(softmax_e) mean_t(active_e), k when balanced

Keys and values of all heads are needed by all tokens; only queries can be left out (`gathered`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo_core.attention.blockwise import Dense
from zoo_core.attention.dispatch import attend
from zoo_core.attention.masks import Mask
from zoo_core.attention.stages import Combined, Sizes, Stage, merge_heads
from zoo_core.attention.taps import Taps
from zoo_core.attention.values import Pairs


def largest(x: Tensor, count: int) -> Tensor:
    """Return which `count` entries of the last dimension are largest, the first of equals: bool like x."""
    order = x.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order, True)


def norm_router(q: Tensor, shared: int, active: int) -> Tensor:
    """Return the heads (B, N, H) that MoH-LLaMA's router without parameters takes: bool.

    Routed heads are ranked by the norm of their query before rotary positions (divided by the deviation over heads,
    which changes no rank).

    Args:
        q: (B, H, N, d) before positions.
        shared: S first heads that are always taken.
        active: k.
    """
    norms = q.norm(dim=-1).transpose(1, 2)
    chosen = largest(norms[..., shared:], active)
    return torch.cat([torch.ones_like(norms[..., :shared], dtype=torch.bool), chosen], -1)


@dataclass(frozen=True)
class MixtureOfHeads(Stage):
    """Combines heads by gates of each token.

    Args:
        shared: S, heads that every token uses.
        active: k, routed heads that a token uses.
    """

    shared: int
    active: int

    def width(self, sizes: Sizes) -> int:
        """Return the width after it: H dv."""
        return sizes.heads * sizes.v_head_dim

    def build(self, sizes: Sizes) -> nn.Module:
        """Return the routers.

        Raises:
            ValueError: there are not so many routed heads.
        """
        routed = sizes.heads - self.shared
        if not 0 < self.active <= routed or self.shared < 0:
            raise ValueError(
                f"MixtureOfHeads: {self.active} active of {routed} routed heads ({self.shared} are shared)"
            )
        return _Gates(self, sizes, routed)


class _Gates(nn.Module):
    def __init__(self, stage: MixtureOfHeads, sizes: Sizes, routed: int) -> None:
        super().__init__()
        self.shared, self.active, self.routed = stage.shared, stage.active, routed
        self.wg = nn.Linear(sizes.dim, routed, bias=False)
        if stage.shared:
            self.wg_0 = nn.Linear(sizes.dim, 2, bias=False)
            self.wg_1 = nn.Linear(sizes.dim, stage.shared, bias=False)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return gates (B, N, H), shared heads first, and the load balance, for tokens x (B, N, D)."""
        chance = self.wg(x).softmax(-1)
        chosen = largest(chance, self.active)
        kept = chance * chosen
        routed = self.active * kept / kept.sum(-1, keepdim=True)
        flat = tuple(range(x.ndim - 1))
        balance = self.routed * (chance.mean(flat) * chosen.to(chance.dtype).mean(flat)).sum()
        if not self.shared:
            return routed, balance
        a = 2 * self.wg_0(x).softmax(-1)
        shared = self.shared * self.wg_1(x).softmax(-1)
        return torch.cat([a[..., :1] * shared, a[..., 1:] * routed], -1), balance

    def forward(self, head_out: Tensor, x: Tensor, taps: Taps) -> Combined:
        """Weigh heads (B, H, N, dv) of tokens x (B, N, D)."""
        gates, balance = self.gates(x)
        gates = taps.edited("gate", gates)
        weighed = head_out * gates.transpose(1, 2)[..., None].to(head_out.dtype)
        aux = {"load_balance": balance}
        if taps.wants("gate"):
            aux["gate"] = gates
        return Combined(merge_heads(weighed), aux)


def gathered(q: Tensor, k: Tensor, v: Tensor, used: Tensor, *, mask: Mask | None = None) -> Tensor:
    """Return attention (B, H, N, dv) of the tokens that use a head, 0 elsewhere; other queries are not computed.

    Args:
        q: (B, H, N, d).
        k: (B, H, M, d).
        v: (B, H, M, dv).
        used: (B, N, H) bool.
        mask: as for `attend`.
    """
    batch, heads, queries, _ = q.shape
    out = torch.zeros(batch, heads, queries, v.shape[-1], dtype=v.dtype, device=v.device)
    for head in range(heads):
        mine = used[:, :, head]
        count = int(mine.sum(1).max())
        rows = mine.sort(dim=1, descending=True, stable=True).indices[:, :count]  # (B, R), users first
        at = rows[:, None, :, None]
        one_mask = None
        if mask is not None:
            pairs = Pairs.grid(queries, k.shape[2], batch=batch, heads=heads, device=q.device)
            held = mask.at(pairs._replace(query=at, head=pairs.head[:, head : head + 1]))
            one_mask = Dense(held.expand(batch, 1, count, -1))
        few = q[:, head : head + 1].gather(2, at.expand(-1, -1, -1, q.shape[-1]))
        seen = attend(few, k[:, head : head + 1], v[:, head : head + 1], mask=one_mask).out
        users = mine.gather(1, rows)[:, None, :, None]
        out[:, head : head + 1] = out[:, head : head + 1].scatter(2, at.expand_as(seen), torch.where(users, seen, 0))
    return out
