"""Rectangles of a map and the grid of tiles over it: whole numbers only, nothing of the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Region(NamedTuple):
    """A rectangle of a map in pixels, half open: rows top to bottom - 1, columns left to right - 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def pixels(self) -> int:
        """Rows times columns."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns as slices, for an array whose first two axes they are."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def inside(self, outer: Region) -> Region:
        """Return this region in the coordinates of `outer`."""
        return Region(self.top - outer.top, self.left - outer.left, self.bottom - outer.top, self.right - outer.left)

    def times(self, factor: int) -> Region:
        """Return the region that this one becomes when every pixel turns into factor x factor pixels."""
        return Region(*(factor * edge for edge in self))

    def common(self, other: Region) -> Region | None:
        """Return what both cover, or None."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Region(top, left, bottom, right) if top < bottom and left < right else None

    def halves(self) -> tuple[Region, Region]:
        """Cut across the longer side."""
        if self.height >= self.width:
            middle = self.top + self.height // 2
            return self._replace(bottom=middle), self._replace(top=middle)
        middle = self.left + self.width // 2
        return self._replace(right=middle), self._replace(left=middle)

    def window(self, halo: int, bounds: Region, least_pixels: int = 1) -> Region:
        """Return the region with a halo on all sides, cut at the map's borders.

        It is grown further to `least_pixels`, or to the whole map if that has fewer.
        """
        top, bottom = _span(self.top - halo, self.bottom + halo, bounds.top, bounds.bottom, 0)
        left, right = _span(self.left - halo, self.right + halo, bounds.left, bounds.right, 0)
        side = max(math.isqrt(least_pixels - 1) + 1, -(-least_pixels // min(bounds.height, bounds.width)))
        if (bottom - top) * (right - left) < least_pixels:
            top, bottom = _span(top, bottom, bounds.top, bounds.bottom, side)
            left, right = _span(left, right, bounds.left, bounds.right, side)
        return Region(top, left, bottom, right)


def _span(start: int, stop: int, low: int, high: int, least: int) -> tuple[int, int]:
    """Cut [start, stop) at [low, high) and lengthen it to `least`, as far as there is room."""
    start, stop = max(start, low), min(stop, high)
    stop = min(high, max(stop, start + least))
    return max(low, min(start, stop - least)), stop


@dataclass(frozen=True)
class Grid:
    """Tiles that cover a map without overlap.

    With their halo, cut at the borders, all tiles have the same size to a pixel or two: those at the border, which need
    a halo on one side less, are that much larger.

    Args:
        row_edges: top of the first row of tiles, of the second, ..., bottom of the last.
        column_edges: the same for columns.
    """

    row_edges: tuple[int, ...]
    column_edges: tuple[int, ...]

    @classmethod
    def over(cls, height: int, width: int, tile: int, halo: int) -> Grid:
        """Cover height x width with as few tiles as keep every tile with its halo at most tile + 2 halo to a side."""
        return cls(_edges(height, _count(height, tile, halo), halo), _edges(width, _count(width, tile, halo), halo))

    @classmethod
    def within(cls, height: int, width: int, most_pixels: int, halo: int) -> Grid:
        """Cover height x width at the least work by tiles of at most `most_pixels` with halo, 8 x 8 at least."""
        most_rows, most_columns = _count(height, 8, halo), _count(width, 8, halo)
        ways = [(math.inf, most_rows, most_columns)]
        for rows in range(1, most_rows + 1):
            tall = -(-(height + 2 * halo * (rows - 1)) // rows)
            columns = _count(width, max(8, most_pixels // tall - 2 * halo), halo)
            wide = -(-(width + 2 * halo * (columns - 1)) // columns)
            if tall * wide <= most_pixels:
                work = (height + 2 * halo * (rows - 1)) * (width + 2 * halo * (columns - 1))
                ways.append((work, rows, columns))
        _, rows, columns = min(ways)
        return cls(_edges(height, rows, halo), _edges(width, columns, halo))

    @property
    def bounds(self) -> Region:
        """The whole map."""
        return Region(self.row_edges[0], self.column_edges[0], self.row_edges[-1], self.column_edges[-1])

    def rows(self) -> list[list[Region]]:
        """Tiles row by row, from the top left."""
        spans = list(pairwise(self.column_edges))
        return [[Region(top, left, bottom, right) for left, right in spans] for top, bottom in pairwise(self.row_edges)]

    def tiles(self) -> list[Region]:
        """All tiles, row by row."""
        return [tile for row in self.rows() for tile in row]

    def strips(self, most_pixels: int) -> list[Region]:
        """Cut the map into full-width strips of nearly equal height of about `most_pixels`, one row at least."""
        rows, whole = self.bounds.height, self.bounds
        count = min(rows, -(-whole.pixels // max(most_pixels, whole.width)))
        edges = [whole.top + round(k * rows / count) for k in range(count + 1)]
        return [whole._replace(top=a, bottom=b) for a, b in pairwise(edges)]


def _count(length: int, tile: int, halo: int) -> int:
    """Return how many tiles it takes so that none is longer than tile + 2 halo with its halo."""
    return 1 if length <= tile + 2 * halo else -(-(length - 2 * halo) // tile)


def _edges(length: int, count: int, halo: int) -> tuple[int, ...]:
    """Cut a length into pieces that are equally long with their halo, which those at the ends need on one side only."""
    core = (length - 2 * halo) / count
    return (0, *(round(k * core + halo) for k in range(1, count)), length)
