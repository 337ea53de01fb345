"""One call of attention, checked and in the form in which all backends take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zoo_core.attention.atoms import Causal
from zoo_core.attention.biases import Bias, as_bias
from zoo_core.attention.masks import And, Mask, as_mask
from zoo_core.attention.values import ANY, Pairs

Normalise = Literal["softmax", "none"]
Edit = Callable[[Tensor], Tensor]
NEEDS = ("out", "lse", "weights")


class Result(NamedTuple):
    """What attention gives.

    Args:
        out: (B, Hq, Nq, dv) of v's type; 0 in rows without a key.
        lse: (B, Hq, Nq) fp32 (fp64 for fp64), natural logarithm of the sum of exp(scores); -inf in rows without a key;
            None if not asked for.
        aux: what else was asked for, by name: `weights` (B, Hq, Nq, Nk), and what taps captured.
    """

    out: Tensor
    lse: Tensor | None = None
    aux: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Call:
    """A checked call; see `zoo_core.attention.attend` for the meaning of what was given.

    Args:
        q: as given, like all others up to `need`.
        k: as given.
        v: as given.
        scale: of the products.
        mask: a value, or None.
        bias: a value, or None.
        key_heads: key head of every query head.
        value_heads: value head of every query head.
        normalise: softmax or none.
        need: what the result must have.
        device: where it is computed.
        grad: whether gradients will be asked for.
        edits: functions of all scores (`score`) or all weights (`weight`), which only the reference has.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    mask: Mask | None
    bias: Bias | None
    key_heads: tuple[int, ...]
    value_heads: tuple[int, ...]
    normalise: Normalise
    need: frozenset[str]
    device: torch.device
    grad: bool
    edits: Mapping[str, Edit] = field(default_factory=dict)

    @property
    def shift(self) -> int:
        """Position of query 0."""
        return self.k.shape[2] - self.q.shape[2]

    @property
    def wide(self) -> torch.dtype:
        """The type of scores: fp32, or fp64 for fp64."""
        return torch.promote_types(self.q.dtype, torch.float32)

    @property
    def pairs(self) -> Pairs:
        """All pairs; made anew each time, as torch.compile cannot look into a cached property's lock."""
        return self.pairs_of(torch.arange(self.q.shape[2], device=self.q.device))

    def pairs_of(self, queries: Tensor) -> Pairs:
        """Return the pairs of some queries, given by index, with all keys."""
        return Pairs.grid(
            queries,
            self.k.shape[2],
            batch=self.q.shape[0],
            heads=self.q.shape[1],
            shift=self.shift,
            device=self.q.device,
        )

    @property
    def causal(self) -> bool:
        """Whether the mask is Causal() and nothing else, for as many queries as keys."""
        return self.mask == Causal() and self.shift == 0

    @property
    def never_ahead(self) -> bool:
        """Whether the mask surely has no key behind its query."""

        def behind(mask: Mask | None) -> bool:
            if isinstance(mask, And):
                return behind(mask.left) or behind(mask.right)
            return isinstance(mask, Causal) and mask.offset <= 0

        return behind(self.mask)

    def unfused(self) -> str:
        """Return why no fused kernel can run it, or ""."""
        if self.normalise != "softmax":
            return "it always normalises by a softmax"
        if "weights" in self.need or self.edits:
            return "its scores and weights exist only inside the kernel"
        if 0 in (*self.q.shape, *self.k.shape, *self.v.shape):
            return "a size is 0"
        return ""

    def per_query_head(self) -> tuple[Tensor, Tensor]:
        """Return keys and values with one head for each query head."""
        return _heads(self.k, self.key_heads), _heads(self.v, self.value_heads)

    def within_reach(self) -> Call:
        """Return the call without the first keys, where a window leaves them behind: a view, and less to read."""
        first = self.mask.first_key(self.shift) if self.mask is not None else None
        if not first or (self.bias is not None and not self.bias.relative):
            return self
        return replace(self, k=self.k[:, :, first:], v=self.v[:, :, first:])

    def without_dead_keys(self) -> Call:
        """Return the call with zeros where no query may look: 0 times NaN would be NaN."""
        live = self.mask.live(self.pairs) if self.mask is not None and self.q.shape[2] else None
        if live is None:
            return self

        def cleaned(x: Tensor, heads: tuple[int, ...]) -> Tensor:
            seen = live
            if live.shape[1] > 1:  # a key head is read by all query heads that share it
                readers = [[h for h, shared in enumerate(heads) if shared == head] for head in range(x.shape[1])]
                nobody = torch.zeros_like(live[:, 0])
                seen = torch.stack([live[:, members].any(1) if members else nobody for members in readers], 1)
            return x.masked_fill(~seen[..., None], 0)

        return replace(self, k=cleaned(self.k, self.key_heads), v=cleaned(self.v, self.value_heads))


def grouped(queries: int, count: int) -> tuple[int, ...]:
    """Return the head that each query head shares when neighbours share."""
    return tuple(h * count // queries for h in range(queries))


def _heads(x: Tensor, heads: tuple[int, ...]) -> Tensor:
    count = x.shape[1]
    if heads == tuple(range(count)):
        return x
    if len(heads) % count == 0 and heads == grouped(len(heads), count):
        return x.repeat_interleave(len(heads) // count, dim=1)
    return x[:, list(heads)]


def make_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None,
    mask: Mask | Tensor | None,
    bias: Bias | Tensor | None,
    kv_map: tuple[tuple[int, ...], tuple[int, ...]] | None,
    normalise: Normalise,
    need: tuple[str, ...],
) -> Call:
    """Check what a caller gave.

    Raises:
        ValueError: shapes that do not fit, or an unknown word.
        TypeError: a mask or bias of the wrong kind, or tensors of different types.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, but must be (batch, heads, tokens, width)")
    if not q.shape[0] == k.shape[0] == v.shape[0] or k.shape[2] != v.shape[2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not fit: all have one batch, q and k "
            "one width, k and v as many tokens"
        )
    if not q.dtype == k.dtype == v.dtype or not q.is_floating_point():
        raise TypeError(f"q is {q.dtype}, k {k.dtype}, v {v.dtype}: all must be of one floating type")
    if unknown := set(need) - set(NEEDS):
        raise ValueError(f"need has {sorted(unknown)}; known are {', '.join(NEEDS)}")
    if normalise not in ("softmax", "none"):
        raise ValueError(f"normalise is {normalise!r}, but must be 'softmax' or 'none'")
    if normalise != "softmax" and "lse" in need:
        raise ValueError("lse is of a softmax; leave it out of need where scores are not normalised")
    key_heads, value_heads = kv_map or _maps(q.shape[1], k.shape[1], v.shape[1])
    for name, heads, count in (("keys", key_heads, k.shape[1]), ("values", value_heads, v.shape[1])):
        if len(heads) != q.shape[1] or not all(0 <= h < count for h in heads):
            raise ValueError(f"kv_map for {name} must have {q.shape[1]} entries from 0 to {count - 1}, not {heads}")
    mask, bias = as_mask(mask), as_bias(bias)
    wanted = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    for name, shape in (("mask", mask.shape if mask else ANY), ("bias", bias.shape if bias else ANY)):
        if any(have not in (1, want) for have, want in zip(shape, wanted, strict=True)):
            raise ValueError(f"the {name} is for {shape}, which does not broadcast to {wanted}, (B, Hq, Nq, Nk)")
    return Call(
        q,
        k,
        v,
        q.shape[3] ** -0.5 if scale is None else scale,
        mask,
        bias,
        tuple(key_heads),
        tuple(value_heads),
        normalise,
        frozenset(need),
        q.device,
        torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, *(bias.tensors() if bias else ()))),
    )


def _maps(queries: int, keys: int, values: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if queries % max(keys, 1) or queries % max(values, 1):
        raise ValueError(
            f"{queries} query heads cannot share {keys} key heads and {values} value heads evenly; give kv_map"
        )
    return grouped(queries, keys), grouped(queries, values)
