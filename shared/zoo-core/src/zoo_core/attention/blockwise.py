"""Masks that are decided block by block, and those given as a table: one way to make tiles of any size of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from zoo_core.attention.masks import FULL, Mask, Tiles, three_valued
from zoo_core.attention.values import Frozen, Pairs, Shape


class Blockwise(Mask):
    """Base of masks in which all pairs of two blocks of `size` tokens share one answer."""

    @property
    def size(self) -> int:
        """Tokens a block."""
        raise NotImplementedError

    def blocks(self, pairs: Pairs) -> Tensor:
        """Return the answer for pairs of blocks: `query` and `key` count blocks, shift is 0."""
        raise NotImplementedError

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        return self.blocks(pairs._replace(query=pairs.position // self.size, key=pairs.key // self.size, shift=0))

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`: count the blocks that a tile touches by sums over rectangles."""
        i0, i1 = tiles.first_query.flatten() // self.size, tiles.last_query.flatten() // self.size
        j0, j1 = tiles.first_key // self.size, tiles.last_key // self.size
        low = int(i0[0])
        batch, heads, _, _ = self.shape
        pairs = Pairs.grid(torch.arange(low, int(i1[-1]) + 1), int(j1[-1]) + 1, batch=batch, heads=heads, shift=0)
        held = self.blocks(pairs)
        held = held[(None,) * (4 - held.ndim)].expand(batch, heads, pairs.query.shape[0], len(pairs.key))
        sums = torch.zeros(batch, heads, held.shape[2] + 1, held.shape[3] + 1, dtype=torch.int64)
        sums[:, :, 1:, 1:] = held.long().cumsum(2).cumsum(3)
        top, bottom = (i0 - low)[:, None], (i1 - low + 1)[:, None]
        count = sums[:, :, bottom, j1 + 1] - sums[:, :, top, j1 + 1] - sums[:, :, bottom, j0] + sums[:, :, top, j0]
        return three_valued(count == 0, count == (bottom - top) * (j1 + 1 - j0))


@dataclass(frozen=True)
class StridedBlock(Blockwise):
    """Blocks near the query, and every stride-th block, in another phase for every head (S2-Attention).

    Heads must cover all phases, so that together they see the full context: that is what the paper promises.

    Args:
        block: tokens a block.
        stride: one of so many blocks is kept.
        heads: query heads.
        local: blocks up to and including the query's own that are always kept.
        dense_heads: the last so many heads keep everything.
        allow_partial_union: accept heads that together miss part of the context.

    Raises:
        ValueError: fewer sparse heads than phases.
    """

    block: int
    stride: int
    heads: int
    local: int = 1
    dense_heads: int = 0
    allow_partial_union: bool = False

    def __post_init__(self) -> None:
        sparse = self.heads - self.dense_heads
        if not self.dense_heads and sparse < self.stride and not self.allow_partial_union:
            raise ValueError(
                f"StridedBlock: {sparse} sparse heads cannot cover {self.stride} phases, so parts of the context are "
                "seen by no head; lower the stride or say allow_partial_union=True"
            )

    @property
    def size(self) -> int:
        """Tokens a block."""
        return self.block

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        return 1, self.heads, 1, 1

    @property
    def reflexive(self) -> bool:
        """See `Mask.reflexive`."""
        return self.local > 0

    def blocks(self, pairs: Pairs) -> Tensor:
        """See `Blockwise.blocks`."""
        phase = pairs.head * max(1, self.stride // self.heads)
        kept = ((pairs.key + phase) % self.stride == 0) | (pairs.query - pairs.key < self.local)
        return kept | (pairs.head >= self.heads - self.dense_heads)


@dataclass(frozen=True)
class Tile3D(Blockwise):
    """Frames of a video: every frame sees itself and a few reference frames, spread evenly (Efficient-vDiT).

    Args:
        frames: F.
        tokens_per_frame: T.
        references: how many frames every frame sees.
    """

    frames: int
    tokens_per_frame: int
    references: int

    @property
    def reflexive(self) -> bool:
        """See `Mask.reflexive`."""
        return True

    @property
    def size(self) -> int:
        """Tokens a frame."""
        return self.tokens_per_frame

    def blocks(self, pairs: Pairs) -> Tensor:
        """See `Blockwise.blocks`."""
        held = pairs.query == pairs.key
        for number in range(self.references):
            held = held | (pairs.key == number * self.frames // self.references)
        return held


@dataclass(frozen=True)
class BlockList(Blockwise):
    """Blocks of keys listed for every block of queries, as compressed rows (CSR).

    Args:
        indptr: (rows + 1,) where each row of blocks begins in `indices`.
        indices: blocks of keys, row after row.
        block: tokens a block.
    """

    indptr: tuple[int, ...]
    indices: tuple[int, ...]
    block: int

    def __init__(self, indptr: Sequence[int], indices: Sequence[int], block: int) -> None:
        object.__setattr__(self, "indptr", tuple(int(n) for n in indptr))
        object.__setattr__(self, "indices", tuple(int(n) for n in indices))
        object.__setattr__(self, "block", block)

    @property
    def size(self) -> int:
        """Tokens a block."""
        return self.block

    def blocks(self, pairs: Pairs) -> Tensor:
        """See `Blockwise.blocks`; blocks outside the list do not exist."""
        table = self._table.on(pairs.key.device)
        rows, columns = table.shape[0] - 1, table.shape[1] - 1
        row = torch.where(pairs.query < 0, rows, pairs.query.clamp(max=rows))
        return table[row, pairs.key.clamp(max=columns)]

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`: the blocks that are listed at all."""
        listed = self._table.on(pairs.key.device).any(0)
        return listed[(pairs.key // self.block).clamp(max=len(listed) - 1)][None, None]

    @cached_property
    def _table(self) -> Frozen:
        """Rows and columns of blocks, and one more of each for what is outside."""
        table = torch.zeros(len(self.indptr), max(self.indices, default=0) + 2, dtype=torch.bool)
        for row, (begin, end) in enumerate(pairwise(self.indptr)):
            table[row, list(self.indices[begin:end])] = True
        return Frozen(table)


@dataclass(frozen=True)
class Dense(Mask):
    """A bool table (Nq, Nk), (H, Nq, Nk) or (B, H, Nq, Nk); sizes of 1 are repeated. True = may attend.

    Raises:
        TypeError: the table is not bool.
    """

    table: Frozen

    def __init__(self, table: Tensor | Frozen) -> None:
        kept = table.on(None) if isinstance(table, Frozen) else table
        if kept.dtype != torch.bool:
            raise TypeError(f"Dense: the table is {kept.dtype}; give bool, True = may attend")
        object.__setattr__(self, "table", Frozen(kept[(None,) * (4 - kept.ndim)]))

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        b, h, i, j = self.table.on(None).shape
        return b, h, i, j

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        table = self.table.on(pairs.key.device)
        index = (pairs.batch, pairs.head, pairs.query, pairs.key)
        at = [n if size > 1 else torch.zeros_like(n) for n, size in zip(index, table.shape, strict=True)]
        return table[at[0], at[1], at[2], at[3]]

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`."""
        table = self.table.on(torch.device("cpu"))
        first, last = (tiles.first_query - shift).flatten().tolist(), (tiles.last_query - shift).flatten().tolist()
        columns = list(zip(tiles.first_key.tolist(), tiles.last_key.tolist(), strict=True))

        def states(rows: Tensor) -> Tensor:
            cells = [rows[..., c : d + 1] if rows.shape[-1] > 1 else rows for c, d in columns]
            return torch.stack([cell.any((-1, -2)).long() + cell.all((-1, -2)).long() for cell in cells], -1)

        rows = [table[:, :, a : b + 1] if table.shape[2] > 1 else table for a, b in zip(first, last, strict=True)]
        return torch.stack([states(row) for row in rows], 2).clamp(max=FULL).to(torch.int8)

    def live(self, pairs: Pairs) -> Tensor | None:
        """See `Mask.live`."""
        return self.table.on(pairs.key.device).any(2).expand(-1, -1, len(pairs.key))
