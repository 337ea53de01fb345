"""The exact layer sweep: a network whose gates see the whole image, computed tile by tile.

Tiles that are upscaled one by one see statistics of their own, and tone and contrast step where they meet. Here the
tiles advance together, block by block: every tile goes through a block up to its gate, statistics gather over all
tiles, the gate is the whole image's, and every pixel passes it. A block needs a halo of 4 pixels and no more, because
the maps around the tile are there. Between the blocks three maps of 64 channels wait in memory or in a file: h (the
block's input), u (what it distilled) and the running sum of the layer over all blocks' outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo_core.errors import ZooError
from zoo_sr.regions import Grid, Region
from zoo_sr.stages import BLOCK_HALO_PX, HEAD_HALO_PX, TAIL_HALO_PX, Geometry, Stages, least_pixels
from zoo_sr.storage import Map

_LEAST_PIXELS = 16 * 16  # a piece that does not fit at this size will not fit at any
# Their float64 copies are 2 MiB, within the caches of two cores, and 128 MiB.
_CHUNK_PIXELS = {"cpu": 4096, "cuda": 1 << 18}


class NotFiniteError(ZooError):
    """The network gave NaN or infinity, as half precision does when it overflows; nothing of it is worth writing."""


class Band(NamedTuple):
    """Full-width rows of the result, in order from the top."""

    top: int
    pixels: NDArray[np.generic]


class Reader(Protocol):
    """Where tiles of the input come from; see `zoo_sr.source.Source`."""

    def read(self, region: Region) -> Tensor:
        """Return a region of the padded input as (1, 3, h, w) on the computing device."""


class Finish(Protocol):
    """How output values become what the caller gets; see `zoo_sr.source.Quantiser`."""

    dtype: np.dtype[np.generic]

    def __call__(self, values: Tensor) -> NDArray[np.generic]:
        """(1, 3, h, w) -> (h, w, 3)."""


class Moments:
    """Mean and variance per channel, gathered in float64 tile by tile (Chan, Golub, LeVeque 1979).

    Deviations are taken from each chunk's own mean before they are squared, so nothing cancels; what the order of the
    tiles changes is of the order 1e-16 and is gone when the gate is rounded.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Take in values (1, C, h, w)."""
        rows = values[0].permute(1, 2, 0)
        height, width, channels = rows.shape
        lines = min(height, max(1, _CHUNK_PIXELS[values.device.type] // width))
        # one copy for all chunks: memory that is taken anew costs more time than the sums
        copy = torch.empty((lines * width, channels), dtype=torch.float64, device=values.device)
        ones = copy.new_ones(len(copy))
        for chunk in torch.split(rows, lines):
            count = len(chunk) * width
            deviations, one = copy[:count], ones[:count]
            deviations.view(chunk.shape).copy_(chunk)
            # as products with ones: twice as fast as sums over rows
            mean = one @ deviations / count
            deviations -= mean
            self._merge(count, mean, one @ deviations.square_())

    def _merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        if self.count == 0:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total, shift = self.count + count, mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self.squares = self.squares + squares + shift.square() * (self.count * count / total)
        self.count = total

    def variance(self) -> Tensor:
        """Return the population variance (C,)."""
        return self.squares / self.count


class Pieces:
    """Does work region by region; where memory runs out, halves the region and stays at that size."""

    def __init__(self) -> None:
        self.most_pixels: int | None = None

    def each(self, regions: Iterable[Region], work: Callable[[Region], None]) -> None:
        """Call `work` for every region or for pieces of it; where memory ran out, again for both halves.

        Raises:
            ZooError: even a tiny piece does not fit.
        """
        for whole in regions:
            waiting = [whole]
            while waiting:
                region = waiting.pop()
                if self.most_pixels is None or region.pixels <= self.most_pixels:
                    try:
                        work(region)
                        continue
                    except (RuntimeError, MemoryError) as error:
                        if not _out_of_memory(error):
                            raise
                        if region.pixels <= _LEAST_PIXELS:
                            raise ZooError(
                                "There is not enough memory even for a tile of 16 x 16 pixels.",
                                "Close other programs, or give a lower memory limit so that more goes to disk.",
                            ) from error
                    # Outside of the handler: the traceback, and with it the tensors of the failed attempt, are gone.
                    self.most_pixels = region.pixels // 2
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                waiting.extend(reversed(region.halves()))


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: of a CUDA device, of the host's allocator, or of Python's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)


class Sweep:
    """One image through a network with gates.

    Args:
        stages: the network, cut at its gates.
        image: the input, padded to whole features.
        grid: tiles over the feature map.
        maps: where h, u and the running sum live.
        pooled: the part of the feature map over which the gates pool; all of it, unless the input was padded.
        strip_pixels: about how many pixels of a map the passes without halo take at a time.
        step: called after every tile of every pass.
    """

    def __init__(
        self,
        stages: Stages,
        image: Reader,
        grid: Grid,
        maps: tuple[Map, Map, Map],
        *,
        pooled: Region,
        strip_pixels: int,
        step: Callable[[], None],
    ) -> None:
        self.stages, self.image, self.grid, self.pooled, self.step = stages, image, grid, pooled, step
        self.h, self.u, self.mixed = maps
        self.strips = grid.strips(strip_pixels)
        self.pieces = Pieces()

    def bands(self, finish: Finish, wanted: Region) -> Iterator[Band]:
        """Run; yield the output's rows, cut to the region `wanted` of it.

        Raises:
            NotFiniteError: a value is NaN or infinite.
        """
        self.pieces.each(self.grid.tiles(), lambda core: self.h.write(core, self._head(core)))
        for i in range(len(self.stages.blocks)):
            self._block(i)
        yield from bands(self.grid, self.pieces, self._output, finish, wanted, self.stages.geometry.spread, self.step)

    def _head(self, region: Region) -> Tensor:
        """f0 of a region of the feature map."""
        window = region.window(HEAD_HALO_PX, self.grid.bounds, self.stages.head_least_pixels)
        image = self.image.read(window.times(self.stages.geometry.stride))
        return _cut(self.stages.head(image), region.inside(window))

    def _block(self, i: int) -> None:
        moments = Moments()

        def distil(core: Region) -> None:
            window = core.window(BLOCK_HALO_PX, self.grid.bounds, self.stages.parts_least_pixels)
            u = _cut(self.stages.parts(i, self.h.read(window)), core.inside(window))
            self.u.write(core, u)
            counted = core.common(self.pooled)
            if counted:
                moments.add(_cut(u, counted.inside(core)))
            self.step()

        self.pieces.each(self.grid.tiles(), distil)
        gate = self.stages.gate(i, moments.mean, moments.variance())
        if not bool(gate.isfinite().all()):
            raise not_finite(gate.dtype)

        def close(strip: Region) -> None:
            h = self.stages.close(i, self.u.read(strip), gate, self.h.read(strip))
            mixed = self.stages.mix(i, h, self.mixed.read(strip) if i > 0 else None)
            # nothing is written before all is computed: the strip may have to be done again in halves
            self.h.write(strip, h)
            self.mixed.write(strip, mixed)

        self.pieces.each(self.strips, close)

    def _output(self, core: Region) -> Tensor:
        window = core.window(TAIL_HALO_PX, self.grid.bounds, self.stages.tail_least_pixels)
        output = self.stages.tail(self.mixed.read(window), self._head(window))
        return _cut(output, core.inside(window).times(self.stages.geometry.spread))


class Straight:
    """One image through a network without gates: tiles with a halo of the whole receptive field.

    Args:
        network: maps (1, 3, h, w) to the enlarged image.
        image: the input, padded to whole features.
        grid: tiles over the feature map.
        step: called after every tile.
    """

    def __init__(self, network: nn.Module, image: Reader, grid: Grid, *, step: Callable[[], None]) -> None:
        self.network, self.image, self.grid, self.step = network, image, grid, step
        self.geometry = Geometry.of(network)
        self.least_pixels = least_pixels(network)
        self.pieces = Pieces()

    def bands(self, finish: Finish, wanted: Region) -> Iterator[Band]:
        """Run; yield the output's rows, cut to the region `wanted` of it.

        Raises:
            NotFiniteError: a value is NaN or infinite.
        """
        yield from bands(self.grid, self.pieces, self._output, finish, wanted, self.geometry.spread, self.step)

    def _output(self, core: Region) -> Tensor:
        window = core.window(self.geometry.reach_px, self.grid.bounds, self.least_pixels)
        output = self.network(self.image.read(window.times(self.geometry.stride)))
        return _cut(output, core.inside(window).times(self.geometry.spread))


def bands(
    grid: Grid,
    pieces: Pieces,
    output: Callable[[Region], Tensor],
    finish: Finish,
    wanted: Region,
    spread: int,
    step: Callable[[], None],
) -> Iterator[Band]:
    """Compute the output tile by tile and yield it by rows of tiles, cut to the region `wanted` of it."""
    for tiles in grid.rows():
        across = Region(tiles[0].top, tiles[0].left, tiles[-1].bottom, tiles[-1].right).times(spread).common(wanted)
        if across is None:
            continue
        band = np.empty((across.height, across.width, 3), finish.dtype)

        def fill(core: Region, band: NDArray[np.generic] = band, across: Region = across) -> None:
            placed = core.times(spread)
            kept = placed.common(across)
            if kept:
                values = output(core)
                if not all_finite(values):
                    raise not_finite(values.dtype)
                band[kept.inside(across).slices] = finish(_cut(values, kept.inside(placed)))
            step()

        pieces.each(tiles, fill)
        yield Band(across.top - wanted.top, band)


def not_finite(dtype: torch.dtype) -> NotFiniteError:
    """Return the error for NaN or infinity in a given precision."""
    name = str(dtype).removeprefix("torch.")
    half = dtype in (torch.float16, torch.bfloat16)
    return NotFiniteError(
        f"The network's values are not finite in {name}.",
        "Use --precision fp32." if half else "Check the input for NaN, and the weights with `zoo weights verify`.",
    )


def all_finite(values: Tensor) -> bool:
    """Return whether no value is NaN or infinite: one that is shows in the sum, cheaper than a look at each."""
    return bool(values.sum(dtype=torch.float32).isfinite()) or bool(values.isfinite().all())


def _cut(values: Tensor, region: Region) -> Tensor:
    """Return a region of (N, C, H, W); the values themselves where it is all of them."""
    rows, columns = region.slices
    return values[:, :, rows, columns]
