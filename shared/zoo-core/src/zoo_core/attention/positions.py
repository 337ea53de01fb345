"""Positions that act on q and k (rotary) or add a bias (relative, as in Transformer-XL)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo_core.attention.biases import DenseBias

Pairing = Literal["half", "interleaved"]


@dataclass(frozen=True)
class RoPE:
    """Rotary positions (Su et al., arXiv:2104.09864): pair f of a head turns by position * base^(-2 f / dims).

    Args:
        base: of the frequencies.
        pairing: half pairs entry f with f + dims / 2 (Llama), interleaved 2 f with 2 f + 1 (GPT-J, Aurora, MLA).
        dims: how many first entries of a head turn, an even number; None means all.

    Raises:
        ValueError: dims is odd, or the pairing is another.
    """

    base: float = 10000.0
    pairing: Pairing = "half"
    dims: int | None = None

    def __post_init__(self) -> None:
        if self.pairing not in ("half", "interleaved"):
            raise ValueError(f"RoPE: pairing is {self.pairing!r}, but must be 'half' or 'interleaved'")
        if self.dims is not None and self.dims % 2:
            raise ValueError(f"RoPE: dims is {self.dims}, but entries turn in pairs: give an even number")

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn x (B, H, N, d), or (..., N, d), whose tokens stand at positions (N,) or (B, 1, N)."""
        dims = self.dims or x.shape[-1]
        wide = torch.promote_types(x.dtype, torch.float32)
        exponents = torch.arange(0, dims, 2, device=x.device, dtype=wide) / dims
        angles = positions.to(x.device, wide)[..., None] * self.base**-exponents
        cos, sin = angles.cos(), angles.sin()
        turning, rest = x[..., :dims].to(wide), x[..., dims:]
        if self.pairing == "half":
            a, b = turning.chunk(2, -1)
            turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        else:
            a, b = turning[..., ::2], turning[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
        return torch.cat([turned.to(x.dtype), rest], -1)


def repair(weight: Tensor, heads: int, source: Pairing, target: Pairing) -> Tensor:
    """Return the weight (or bias) of q or k for another pairing: scores stay the same.

    Args:
        weight: (heads * d, ...) rows head by head, for `source`.
        heads: of q or of k.
        source: pairing for which the weight was made.
        target: pairing with which it will be used.
    """
    if source == target:
        return weight.clone()
    rows = weight.reshape(heads, -1, *weight.shape[1:])
    half = rows.shape[1] // 2
    if source == "half":
        moved = torch.stack([rows[:, :half], rows[:, half:]], 2).flatten(1, 2)
    else:
        moved = torch.cat([rows[:, ::2], rows[:, 1::2]], 1)
    return moved.flatten(0, 1)


def relative_bias(q: Tensor, table: Tensor, *, keys: int, scale: float | None = None) -> DenseBias:
    """Return the positional term of Transformer-XL (Dai et al., arXiv:1901.02860): scale q_i . r_(i-j).

    Args:
        q: (B, H, Nq, d), with the positional query bias already added.
        table: (H, 2 R + 1, d): r of distances i - j from -R to R; larger ones count as R.
        keys: Nk; queries end where keys end.
        scale: default d^-1/2.
    """
    reach = table.shape[1] // 2
    scores = (q @ table.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)  # (B, H, Nq, 2 R + 1)
    i = torch.arange(keys - q.shape[2], keys, device=q.device)
    distance = (i[:, None] - torch.arange(keys, device=q.device)).clamp(-reach, reach) + reach
    return DenseBias(scores.gather(-1, distance.expand(*q.shape[:2], -1, -1)))
