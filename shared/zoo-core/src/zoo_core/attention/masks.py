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

from zoo_core.attention.values import ANY, Frozen, Pairs, Shape, merged, pick

Intervals: TypeAlias = list[tuple[int, int]]
EMPTY, PARTIAL, FULL = 0, 1, 2
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

    def live(self, pairs: Pairs) -> Tensor | None:
        """Return which keys (b, Nk) some query may see, or None for all; what is False is never read.

        Used to keep NaN in padding out of sums; "True" is always a safe answer.
        """
        return None

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
        return And(self, other)

    def __or__(self, other: Mask) -> Mask:
        return Or(self, other)

    def __invert__(self) -> Mask:
        return Not(self)


def _three_valued(none: Tensor, all_: Tensor) -> Tensor:
    """Return tiles (1, 1, ...) from where no pair, and where every pair, exists."""
    state = torch.where(all_, FULL, torch.where(none, EMPTY, PARTIAL)).to(torch.int8)
    return state[(None,) * (4 - state.ndim)]


@dataclass(frozen=True)
class And(Mask):
    """Pairs of both."""

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

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        left, right = self.left.live(pairs), self.right.live(pairs)
        if left is None or right is None:
            return right if left is None else left
        return left & right


@dataclass(frozen=True)
class Or(Mask):
    """Pairs of either."""

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
class Causal(Mask):
    """Keys up to the query's own position plus `offset`."""

    offset: int = 0

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return pairs.key <= pairs.position + self.offset

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        return _three_valued(
            tiles.first_key > tiles.last_query + self.offset, tiles.last_key <= tiles.first_query + self.offset
        )

    def rows(self, position: int, keys: int) -> Intervals | None:
        """See `Mask.rows`."""
        return _clipped(0, position + self.offset + 1, keys)


@dataclass(frozen=True)
class Window(Mask):
    """At most `left` keys before the query's position and `right` after it; None means any number.

    Raises:
        ValueError: a bound is negative.
    """

    left: int | None
    right: int | None

    def __post_init__(self) -> None:
        if min(self.left or 0, self.right or 0) < 0:
            raise ValueError(f"Window({self.left}, {self.right}): bounds are numbers of keys, 0 or more, or None")

    def _bounds(self) -> tuple[int, int]:
        far = 1 << 40
        return -(far if self.left is None else self.left), far if self.right is None else self.right

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        low, high = self._bounds()
        distance = pairs.key - pairs.position
        return (distance >= low) & (distance <= high)

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        low, high = self._bounds()
        nearest, farthest = tiles.first_key - tiles.last_query, tiles.last_key - tiles.first_query
        return _three_valued((farthest < low) | (nearest > high), (nearest >= low) & (farthest <= high))

    def rows(self, position: int, keys: int) -> Intervals | None:
        """See `Mask.rows`."""
        low, high = self._bounds()
        return _clipped(position + low, position + high + 1, keys)


@dataclass(frozen=True)
class Sink(Mask):
    """The first `count` keys, for every query."""

    count: int

    @property
    def keys_only(self) -> bool:
        """See `Mask.keys_only`."""
        return True

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return pairs.key < self.count

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        everywhere = torch.zeros_like(tiles.first_query, dtype=torch.bool)
        return _three_valued((tiles.first_key >= self.count) | everywhere, (tiles.last_key < self.count) | everywhere)

    def rows(self, position: int, keys: int) -> Intervals | None:
        """See `Mask.rows`."""
        return _clipped(0, self.count, keys)


@dataclass(frozen=True)
class Prefix(Mask):
    """The first `count` tokens among themselves: `Causal() | Prefix(n)` is a prefix language model."""

    count: int

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return (pairs.key < self.count) & (pairs.position < self.count)

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        return _three_valued(
            (tiles.first_key >= self.count) | (tiles.first_query >= self.count),
            (tiles.last_key < self.count) & (tiles.last_query < self.count),
        )

    def rows(self, position: int, keys: int) -> Intervals | None:
        """See `Mask.rows`."""
        return _clipped(0, self.count if position < self.count else 0, keys)


@dataclass(frozen=True)
class Padding(Mask):
    """The first lengths[b] keys of example b.

    Queries that are padding themselves are computed like others: nobody reads them.

    Args:
        lengths: (B,) integers; a tensor on the device that computes is used without a copy to the host.
    """

    lengths: Frozen

    def __init__(self, lengths: Tensor | Sequence[int] | Frozen) -> None:
        object.__setattr__(self, "lengths", Frozen(lengths, torch.int64))

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        return (len(self.lengths.on(None)), 1, 1, 1)

    @property
    def keys_only(self) -> bool:
        """See `Mask.keys_only`."""
        return True

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return pairs.key < pick(self.lengths.on(pairs.key.device), pairs.batch)

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        length = self.lengths.on(torch.device("cpu"))[:, None, None, None]
        everywhere = torch.zeros_like(tiles.first_query, dtype=torch.bool)
        return _three_valued((tiles.first_key >= length) | everywhere, (tiles.last_key < length) | everywhere)

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        return pairs.key < self.lengths.on(pairs.key.device)[:, None]


@dataclass(frozen=True)
class Document(Mask):
    """Pairs within one document of a packed sequence.

    Args:
        ids: (N,) or (B, N) integers: the document of every token.
    """

    ids: Frozen

    def __init__(self, ids: Tensor | Sequence[int] | Frozen) -> None:
        kept = Frozen(ids, torch.int64)
        object.__setattr__(self, "ids", Frozen(kept.on(None)[None]) if kept.on(None).ndim == 1 else kept)

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        return (self.ids.on(None).shape[0], 1, 1, self.ids.on(None).shape[1])

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        ids = self.ids.on(pairs.key.device)
        if len(ids) == 1:
            return ids[0][pairs.position] == ids[0][pairs.key]
        return ids[pairs.batch, pairs.position] == ids[pairs.batch, pairs.key]

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        ids = self.ids.on(torch.device("cpu"))

        def spans(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
            pairs = list(zip(first.flatten().tolist(), last.flatten().tolist(), strict=True))
            lows = [ids[:, a : b + 1].amin(1) for a, b in pairs]
            highs = [ids[:, a : b + 1].amax(1) for a, b in pairs]
            return torch.stack(lows, 1), torch.stack(highs, 1)

        low_q, high_q = (x[:, None, :, None] for x in spans(tiles.first_query, tiles.last_query))
        low_k, high_k = (x[:, None, None, :] for x in spans(tiles.first_key, tiles.last_key))
        return _three_valued(
            (high_q < low_k) | (high_k < low_q), (low_q == high_q) & (low_k == high_k) & (low_q == low_k)
        )


@dataclass(frozen=True)
class PerHead(Mask):
    """Another mask for every query head.

    Args:
        masks: one a head; equal masks are evaluated once.
    """

    masks: tuple[Mask, ...]

    def __init__(self, masks: Sequence[Mask]) -> None:
        object.__setattr__(self, "masks", tuple(masks))

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
        if held is None:
            raise ValueError("PerHead has no masks")
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
        parts = [mask.live(pairs) for mask in dict.fromkeys(self.masks)]
        held = parts[0]
        for part in parts[1:]:
            held = None if held is None or part is None else held | part
        return held


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
        device = pairs.key.device
        return pairs._replace(query=self.queries.on(device)[pairs.query], key=self.keys.on(device)[pairs.key], shift=0)

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


def _clipped(begin: int, end: int, keys: int) -> Intervals:
    begin, end = max(begin, 0), min(end, keys)
    return [(begin, end)] if begin < end else []


def as_mask(mask: Mask | Tensor | None) -> Mask | None:
    """Return a mask for what a caller gave.

    Raises:
        TypeError: a tensor that is not bool.
    """
    if mask is None or isinstance(mask, Mask):
        return mask
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        from zoo_core.attention.blockwise import Dense

        return Dense(mask)
    kind = f"a tensor of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
    raise TypeError(
        f"the mask is {kind}: give a zoo_core.attention mask or a bool tensor, True = may attend. "
        "Numbers that are added to the scores are a bias."
    )
