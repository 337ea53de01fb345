"""The masks that others are composed of: by position, by length, by document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo_core.attention.masks import Intervals, Mask, Tiles, rows_as_keys, three_valued
from zoo_core.attention.values import Frozen, Pairs, Shape, pick, whole_numbers


@dataclass(frozen=True)
class Causal(Mask):
    """Keys up to the query's own position plus `offset`."""

    offset: int = 0

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return pairs.key <= pairs.position + self.offset

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        return three_valued(
            tiles.first_key > tiles.last_query + self.offset, tiles.last_key <= tiles.first_query + self.offset
        )

    def first_key(self, shift: int) -> int | None:
        """See `Mask.first_key`."""
        return 0

    @property
    def reflexive(self) -> bool:
        """See `Mask.reflexive`."""
        return self.offset >= 0

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`: the last query stands at the last key and sees what any other sees."""
        return None if self.reflexive else (pairs.key <= pairs.position.max() + self.offset)[None, None]

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
        return three_valued((farthest < low) | (nearest > high), (nearest >= low) & (farthest <= high))

    def first_key(self, shift: int) -> int | None:
        """See `Mask.first_key`."""
        return max(0, shift + self._bounds()[0])

    @property
    def reflexive(self) -> bool:
        """See `Mask.reflexive`."""
        return True

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        low, high = self._bounds()
        if pairs.shift + low <= 0:
            return None  # nothing lies before the first query's window, and queries end where keys end
        position = pairs.position
        return ((pairs.key >= position.min() + low) & (pairs.key <= position.max() + high))[None, None]

    def rows(self, position: int, keys: int) -> Intervals | None:
        """See `Mask.rows`."""
        low, high = self._bounds()
        return _clipped(position + low, position + high + 1, keys)


@dataclass(frozen=True)
class Sink(Mask):
    """The first `count` keys, for every query."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"{self}: the number of keys is 0 or more")

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
        return three_valued((tiles.first_key >= self.count) | everywhere, (tiles.last_key < self.count) | everywhere)

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        return (pairs.key < self.count)[None, None]

    def rows(self, position: int, keys: int) -> Intervals | None:
        """See `Mask.rows`."""
        return _clipped(0, self.count, keys)


@dataclass(frozen=True)
class Prefix(Mask):
    """The first `count` tokens among themselves: `Causal() | Prefix(n)` is a prefix language model."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"{self}: the number of tokens is 0 or more")

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return (pairs.key < self.count) & (pairs.position < self.count)

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        return three_valued(
            (tiles.first_key >= self.count) | (tiles.first_query >= self.count),
            (tiles.last_key < self.count) & (tiles.last_query < self.count),
        )

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        return ((pairs.key < self.count) & (pairs.position.min() < self.count))[None, None]

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
        object.__setattr__(self, "lengths", whole_numbers(lengths, "Padding: lengths", dimensions=(1,)))
        kept = self.lengths.on(None)
        # on CUDA the comparison would wait for the device
        looked_at = kept.device.type == "cpu" and not torch.compiler.is_compiling()
        if looked_at and bool((kept < 0).any()):
            raise ValueError("Padding: a length is negative")

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
        return three_valued((tiles.first_key >= length) | everywhere, (tiles.last_key < length) | everywhere)

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        return rows_as_keys(self.at(pairs))


@dataclass(frozen=True)
class Document(Mask):
    """Pairs within one document of a packed sequence.

    Args:
        ids: (N,) or (B, N) integers: the document of every token. More queries than keys are refused where the mask is
            used: both are one packed sequence.
    """

    ids: Frozen

    def __init__(self, ids: Tensor | Sequence[int] | Frozen) -> None:
        kept = whole_numbers(ids, "Document: ids", dimensions=(1, 2))
        object.__setattr__(self, "ids", Frozen(kept.on(None)[None]) if kept.on(None).ndim == 1 else kept)

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        return (self.ids.on(None).shape[0], 1, 1, self.ids.on(None).shape[1])

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        self._check(pairs.shift)
        ids = self.ids.on(pairs.key.device)
        if len(ids) == 1:
            return ids[0][pairs.position] == ids[0][pairs.key]
        return ids[pairs.batch, pairs.position] == ids[pairs.batch, pairs.key]

    @property
    def reflexive(self) -> bool:
        """See `Mask.reflexive`."""
        return True

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        self._check(shift)
        ids = self.ids.on(torch.device("cpu"))

        def spans(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
            pairs = list(zip(first.flatten().tolist(), last.flatten().tolist(), strict=True))
            lows = [ids[:, a : b + 1].amin(1) for a, b in pairs]
            highs = [ids[:, a : b + 1].amax(1) for a, b in pairs]
            return torch.stack(lows, 1), torch.stack(highs, 1)

        low_q, high_q = (x[:, None, :, None] for x in spans(tiles.first_query, tiles.last_query))
        low_k, high_k = (x[:, None, None, :] for x in spans(tiles.first_key, tiles.last_key))
        return three_valued(
            (high_q < low_k) | (high_k < low_q), (low_q == high_q) & (low_k == high_k) & (low_q == low_k)
        )

    @staticmethod
    def _check(shift: int) -> None:
        if shift < 0:  # positions of the first queries would be negative, and count from the end
            raise ValueError("Document: there are more queries than keys, but both are one packed sequence")


def _clipped(begin: int, end: int, keys: int) -> Intervals:
    begin, end = max(begin, 0), min(end, keys)
    return [(begin, end)] if begin < end else []
