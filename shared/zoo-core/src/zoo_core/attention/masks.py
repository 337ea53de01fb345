"""Which pairs of query and key exist: immutable, hashable values that compose with `&`, `|` and `~`.

True means "may attend", as in torch's scaled_dot_product_attention. A query stands at position i + Nk - Nq: queries end
where keys end, so a mask means the same in training and in decoding with a cache. Every mask answers for index tensors
(`at`) and, where tiles of a kernel are concerned, by arithmetic on the tiles' corners (`tiles`), never through an
Nq x Nk tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from zoo_core.attention.values import ANY, Frozen, Pairs, Shape, merged

Intervals: TypeAlias = list[tuple[int, int]]
EMPTY, PARTIAL, FULL = 0, 1, 2
BLOCK = 256  # queries that are asked about at a time
TILE = 128  # tokens along both sides of the tiles that kernels skip


class Tiles(NamedTuple):
    """First and last positions of tiles of queries and of keys, both inclusive: (Gq, 1) and (Gk,)."""

    first_query: Tensor
    last_query: Tensor
    first_key: Tensor
    last_key: Tensor


class Mask:
    """Base of all masks. A subclass is a frozen dataclass with `at`, and `tiles` if it can do better than "partial"."""

    def at(self, pairs: Pairs) -> Tensor:
        """Return whether these pairs exist: bool, of a shape that broadcasts to that of the pairs."""
        raise NotImplementedError

    @property
    def shape(self) -> Shape:
        """The sizes (B, H, Nq, Nk) it is for, 1 where it fits any."""
        return ANY

    @property
    def keys_only(self) -> bool:
        """Whether all queries may see the same keys."""
        return False

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """Return 0 (no pair), 1 (maybe some) or 2 (all pairs) for every tile: int8 (b, h, Gq, Gk)."""
        return torch.full((1, 1, len(tiles.first_query), len(tiles.first_key)), PARTIAL, dtype=torch.int8)

    def rows(self, position: int, keys: int) -> Intervals | None:
        """Return the keys of one query as sorted disjoint intervals [begin, end), or None where that is not known."""
        return None

    @property
    def reflexive(self) -> bool:
        """Whether every token surely may see itself."""
        return False

    def first_key(self, shift: int) -> int | None:
        """Return the first key that some query may see, or None where more than key - position decides.

        Where nothing else decides, the keys before it can be left out, and the mask still means the same.

        Args:
            shift: position of query 0.
        """
        return None

    def live(self, pairs: Pairs) -> Tensor | None:
        """Return which keys (b, h, Nk) some query may see, or None for all; what is False is never read.

        Used to keep NaN that nobody may see out of sums. Masks joined by & may call a key live that no query sees. This
        one asks about all pairs, a block of queries at a time, where the mask does not say that it need not.
        """
        if self.reflexive and pairs.shift <= 0:
            return None  # every key has its own query
        count = min(1, len(pairs.query)) if self.keys_only else len(pairs.query)
        seen = None
        for begin in range(0, count, BLOCK):
            held = self.at(pairs._replace(query=pairs.query[begin : min(begin + BLOCK, count)]))
            held = rows_as_keys(held)
            seen = held if seen is None else seen | held
        return None if seen is None else seen.expand(-1, -1, len(pairs.key))

    def dense(
        self,
        queries: int,
        keys: int,
        *,
        batch: int = 1,
        heads: int = 1,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return all pairs as bool (b, h, Nq, Nk); b and h are 1 where the mask does not depend on them."""
        held = self.at(Pairs.grid(queries, keys, batch=batch, heads=heads, device=device))
        held = held[(None,) * (4 - held.ndim)]
        return held.expand(held.shape[0], held.shape[1], queries, keys)

    def grid(self, queries: int, keys: int, block_queries: int, block_keys: int) -> Tensor:
        """Return 0, 1 or 2 for every tile, as `tiles`, for tiles of this size from the top left; the last are cut."""
        shift = keys - queries
        i = torch.arange(0, queries, block_queries)[:, None]
        j = torch.arange(0, keys, block_keys)
        last_i = (i + block_queries).clamp(max=queries) - 1
        last_j = (j + block_keys).clamp(max=keys) - 1
        return self.tiles(Tiles(i + shift, last_i + shift, j, last_j), shift)

    def __and__(self, other: Mask) -> Mask:
        return And(self, other) if isinstance(other, Mask) else NotImplemented

    def __or__(self, other: Mask) -> Mask:
        return Or(self, other) if isinstance(other, Mask) else NotImplemented

    def __invert__(self) -> Mask:
        return Not(self)


def three_valued(none: Tensor, all_: Tensor) -> Tensor:
    """Return tiles (1, 1, ...) from where no pair, and where every pair, exists."""
    state = torch.where(all_, FULL, torch.where(none, EMPTY, PARTIAL)).to(torch.int8)
    return state[(None,) * (4 - state.ndim)]


@dataclass(frozen=True)
class Joined(Mask):
    """Two masks together."""

    left: Mask
    right: Mask

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        return merged(self.left.shape, self.right.shape)

    @property
    def keys_only(self) -> bool:
        """See `Mask.keys_only`."""
        return self.left.keys_only and self.right.keys_only


@dataclass(frozen=True)
class And(Joined):
    """Pairs of both."""

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return self.left.at(pairs) & self.right.at(pairs)

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        return torch.minimum(self.left.tiles(tiles, shift), self.right.tiles(tiles, shift))

    def rows(self, position: int, keys: int) -> Intervals | None:
        """See `Mask.rows`."""
        left, right = self.left.rows(position, keys), self.right.rows(position, keys)
        if left is None or right is None:
            return None
        met = [(max(a, c), min(b, d)) for a, b in left for c, d in right]
        return sorted((a, b) for a, b in met if a < b)

    def first_key(self, shift: int) -> int | None:
        """See `Mask.first_key`."""
        left, right = self.left.first_key(shift), self.right.first_key(shift)
        return None if left is None or right is None else max(left, right)

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        left, right = self.left.live(pairs), self.right.live(pairs)
        if left is None or right is None:
            return right if left is None else left
        return left & right


@dataclass(frozen=True)
class Or(Joined):
    """Pairs of either."""

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return self.left.at(pairs) | self.right.at(pairs)

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        return torch.maximum(self.left.tiles(tiles, shift), self.right.tiles(tiles, shift))

    def rows(self, position: int, keys: int) -> Intervals | None:
        """See `Mask.rows`."""
        left, right = self.left.rows(position, keys), self.right.rows(position, keys)
        if left is None or right is None:
            return None
        merged: Intervals = []
        for begin, end in sorted(left + right):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        return merged

    def first_key(self, shift: int) -> int | None:
        """See `Mask.first_key`."""
        left, right = self.left.first_key(shift), self.right.first_key(shift)
        return None if left is None or right is None else min(left, right)

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        left, right = self.left.live(pairs), self.right.live(pairs)
        return None if left is None or right is None else left | right


@dataclass(frozen=True)
class Not(Mask):
    """Pairs that the other lacks."""

    of: Mask

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        return self.of.shape

    @property
    def keys_only(self) -> bool:
        """See `Mask.keys_only`."""
        return self.of.keys_only

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return ~self.of.at(pairs)

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        return FULL - self.of.tiles(tiles, shift)

    def rows(self, position: int, keys: int) -> Intervals | None:
        """See `Mask.rows`."""
        held = self.of.rows(position, keys)
        if held is None:
            return None
        edges = [0, *(edge for interval in held for edge in interval), keys]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


@dataclass(frozen=True)
class PerHead(Mask):
    """Another mask for every query head.

    Args:
        masks: one a head; equal masks are evaluated once.
    """

    masks: tuple[Mask, ...]

    def __init__(self, masks: Sequence[Mask]) -> None:
        object.__setattr__(self, "masks", tuple(masks))
        if not self.masks:
            raise ValueError("PerHead: give a mask for every query head")

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        return merged((1, len(self.masks), 1, 1), *(mask.shape for mask in self.masks))

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        held = None
        for mask in dict.fromkeys(self.masks):
            heads = [number for number, other in enumerate(self.masks) if other == mask]
            mine = pairs.head == heads[0]
            for number in heads[1:]:
                mine = mine | (pairs.head == number)
            seen = mine & mask.at(pairs)
            held = seen if held is None else held | seen
        assert held is not None  # noqa: S101 - for mypy: there is a mask
        return held

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        parts = [mask.tiles(tiles, shift) for mask in self.masks]
        if any(part.shape[1] != 1 for part in parts):
            parts = [part[:, number : number + 1] if part.shape[1] > 1 else part for number, part in enumerate(parts)]
        batch = max(part.shape[0] for part in parts)
        return torch.cat([part.expand(batch, -1, -1, -1) for part in parts], dim=1)

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        parts = {mask: mask.live(pairs) for mask in dict.fromkeys(self.masks)}
        if all(part is None for part in parts.values()):
            return None
        whole = torch.ones(1, 1, len(pairs.key), dtype=torch.bool, device=pairs.key.device)
        rows = [whole if (part := parts[mask]) is None else part for mask in self.masks]
        batch = max(len(row) for row in rows)
        # a part may differ by head itself
        own = [row[:, head : head + 1] if row.shape[1] > 1 else row for head, row in enumerate(rows)]
        return torch.cat([row.expand(batch, -1, -1) for row in own], 1)


@dataclass(frozen=True)
class Restricted(Mask):
    """A mask on tokens that are not all there: query i and key j of a call stand at these positions of the sequence.

    Args:
        of: the mask on the whole sequence.
        queries: (Nq,) positions.
        keys: (Nk,) positions.
    """

    of: Mask
    queries: Frozen
    keys: Frozen

    def __init__(self, of: Mask, queries: Tensor | Frozen, keys: Tensor | Frozen) -> None:
        object.__setattr__(self, "of", of)
        object.__setattr__(self, "queries", Frozen(queries, torch.int64))
        object.__setattr__(self, "keys", Frozen(keys, torch.int64))

    def _moved(self, pairs: Pairs) -> Pairs:
        return pairs.placed(self.queries.on(pairs.key.device), self.keys.on(pairs.key.device))

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        return (self.of.shape[0], self.of.shape[1], len(self.queries.on(None)), len(self.keys.on(None)))

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return self.of.at(self._moved(pairs))

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        return self.of.live(self._moved(pairs))


def rows_as_keys(held: Tensor) -> Tensor:
    """Return which keys (b, h, Nk) occur in pairs (b, h, Nq, Nk) or of fewer dimensions."""
    return held[(None,) * (4 - held.ndim)].any(2)


def as_mask(mask: Mask | Tensor | None) -> Mask | None:
    """Return a mask for what a caller gave.

    Raises:
        TypeError: a tensor that is not bool.
    """
    if mask is None or isinstance(mask, Mask):
        return mask
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim <= 4:
        from zoo_core.attention.blockwise import Dense

        return Dense(mask)
    kind = f"a tensor {tuple(mask.shape)} of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
    raise TypeError(
        f"the mask is {kind}: give a zoo_core.attention mask or a bool tensor (B, Hq, Nq, Nk), True = may attend. "
        "Numbers that are added to the scores are a bias."
    )
