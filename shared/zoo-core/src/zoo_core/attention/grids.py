"""Masks on images, films and volumes: tokens in rows, one row after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from zoo_core.attention.masks import Mask, Tiles, three_valued
from zoo_core.attention.values import Pairs, Shape


def boxes(sizes: Sequence[int], first: Tensor, last: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return along each axis the lowest and highest coordinate of the tokens from `first` to `last`, inclusive."""
    found = []
    for axis, size in enumerate(sizes):
        inner = prod(sizes[axis + 1 :])
        low, high = first // inner, last // inner
        if axis:
            whole = low // size < high // size
            low, high = torch.where(whole, 0, low % size), torch.where(whole, size - 1, high % size)
        found.append((low, high))
    return found


@dataclass(frozen=True)
class Circle2D(Mask):
    """Tokens of an image nearer than a radius (CLEAR): dx^2 + dy^2 < radius^2; text comes first and is seen by all.

    Args:
        height: rows of tokens.
        width: tokens a row.
        radius: in tokens; exclusive.
        text: tokens before the image; they see everything.
    """

    height: int
    width: int
    radius: float
    text: int = 0

    @property
    def reflexive(self) -> bool:
        """See `Mask.reflexive`."""
        return self.radius > 0

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        i, j = pairs.position - self.text, pairs.key - self.text
        dy = torch.div(i, self.width, rounding_mode="floor") - torch.div(j, self.width, rounding_mode="floor")
        dx = i % self.width - j % self.width
        return (dx * dx + dy * dy < self.radius**2) | (i < 0) | (j < 0)

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`: distances of the boxes in which tiles lie."""
        sizes = (self.height, self.width)
        corners = [(corner - self.text).clamp(min=0) for corner in tiles]
        near = far = torch.tensor(0)
        for (q0, q1), (k0, k1) in zip(boxes(sizes, *corners[:2]), boxes(sizes, *corners[2:]), strict=True):
            near = near + torch.maximum(k0 - q1, q0 - k1).clamp(min=0) ** 2
            far = far + torch.maximum(k1 - q0, q1 - k0) ** 2
        some_text = (tiles.first_query < self.text) | (tiles.first_key < self.text)
        all_text = (tiles.last_query < self.text) | (tiles.last_key < self.text)
        limit = self.radius**2
        return three_valued((near >= limit) & ~some_text, ((far < limit) & ~some_text) | all_text)


@dataclass(frozen=True)
class Neighbourhood(Mask):
    """The nearest tokens along every axis, as many at the edges as inside (Hassani et al., CVPR 2023; NATTEN).

    With a dilation, tokens see those that lie whole multiples of it away.

    Args:
        sizes: of the grid, (L,), (H, W) or (D, H, W).
        kernel: how many tokens are seen along each axis; an odd number has its middle at the query.
        dilation: along each axis; empty: 1.

    Raises:
        ValueError: numbers of axes differ, or a dilated kernel is larger than the grid.
    """

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    dilation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.dilation:
            object.__setattr__(self, "dilation", (1,) * len(self.sizes))
        if not 0 < len(self.sizes) == len(self.kernel) == len(self.dilation):
            raise ValueError(f"{self}: give one number for each axis")
        axes = zip(self.sizes, self.kernel, self.dilation, strict=True)
        if not all(kernel > 0 and dilation > 0 and kernel * dilation <= size for size, kernel, dilation in axes):
            raise ValueError(f"{self}: kernel times dilation is 1 or more, and at most the grid's size")

    @property
    def shape(self) -> Shape:
        """See `Mask.shape`."""
        return 1, 1, 1, prod(self.sizes)

    @property
    def reflexive(self) -> bool:
        """See `Mask.reflexive`."""
        return True

    def at(self, pairs: Pairs) -> Tensor:
        """See `Mask.at`."""
        if pairs.shift < 0:
            raise ValueError("Neighbourhood: there are more queries than keys, but both are one grid")
        held, inner = None, 1
        for size, kernel, step in reversed(list(zip(self.sizes, self.kernel, self.dilation, strict=True))):
            i, j = pairs.position // inner % size, pairs.key // inner % size
            first = torch.minimum((i // step - kernel // 2).clamp(min=0), (size - 1 - i % step) // step + 1 - kernel)
            seen = (j % step == i % step) & (j // step >= first) & (j // step < first + kernel)
            held, inner = seen if held is None else held & seen, inner * size
        assert held is not None  # noqa: S101 - for mypy: there is an axis
        return held

    def tiles(self, tiles: Tiles, shift: int) -> Tensor:
        """See `Mask.tiles`: how far the boxes in which tiles lie reach along each axis."""
        queries, keys = boxes(self.sizes, *tiles[:2]), boxes(self.sizes, *tiles[2:])
        none, all_ = torch.tensor(False), torch.tensor(True)
        for axis, (size, kernel, step) in enumerate(zip(self.sizes, self.kernel, self.dilation, strict=True)):
            (q0, q1), (k0, k1), half = queries[axis], keys[axis], kernel // 2
            lowest = (q0 - half * step).clamp(max=size - kernel * step)
            highest = (q1 + (kernel - 1 - half) * step).clamp(min=kernel * step - 1)
            none = none | (k1 < lowest) | (k0 > highest)
            # of the last query the lowest key, of the first the highest
            begin, end = ((q - half).clamp(0, size - kernel) for q in (q1, q0))
            all_ = all_ & (step == 1) & (k0 >= begin) & (k1 < end + kernel)
        return three_valued(none, all_)
