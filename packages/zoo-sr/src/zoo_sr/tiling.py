"""Upscale an image of any size in bounded memory: the 8-bit result is the same whatever the tile size.

    result = upscale(network, image)                         # tile size by the machine and its free memory
    for band in bands(network, image, tile=256): ...         # rows of the result as they are finished

A whole image is the case of one tile. `plan` says beforehand what a call will take, and is what the calls go by.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoo_core.errors import UsageError, ZooError
from zoo_sr.gpu import FusedIMDN
from zoo_sr.imdn import IMDN
from zoo_sr.regions import Grid, Region
from zoo_sr.source import Output, Quantiser, Source, padded_indices
from zoo_sr.stages import BLOCK_HALO_PX, HEAD_HALO_PX, TAIL_HALO_PX, Geometry, Stages
from zoo_sr.storage import FileMap, Map, MemoryMap, free_disk_bytes, free_memory_bytes, no_room, scratch_folder
from zoo_sr.sweep import Band, Finish, Straight, Sweep, all_finite, not_finite

LEAST_TILE_PX = 32
Place = Literal["device", "host", "file"]

# Tiles of about 270 x 270 are the fastest on CPU: larger ones leave the caches, and the allocator returns maps above
# 32 MiB to the system after every layer. On CUDA more pixels per kernel stop to pay above 2048 x 2048.
_BEST_WINDOW_PIXELS = {"cpu": 272**2, "cuda": 2048**2}
_BEST_STRAIGHT_PIXELS = 1280**2  # networks without gates: few channels, but a halo of their whole receptive field
_LEAST_CORE_PX = 64  # below that "auto" would compute more halo than image to save a few MiB
_WORKING_MAPS = 8  # maps of a window that exist at a time inside a block, copies inside the convolutions included
_DEFAULT_LIMIT_BYTES = 3 << 30  # on CPU; beside it stand PyTorch itself, the image and the result


@dataclass(frozen=True)
class Plan:
    """What upscaling an image will take.

    Args:
        grid: tiles over the feature map.
        places: where the three maps between the blocks live; empty for networks without gates.
        tile_bytes: memory for the work on one tile and one band of output.
        map_bytes: size of one map between the blocks.
        output_shape: (height, width) of the result.
        work_ratio: multiply-adds over those of the unpadded image in one tile.
    """

    grid: Grid
    places: tuple[Place, ...]
    tile_bytes: int
    map_bytes: int
    output_shape: tuple[int, int]
    work_ratio: float

    @property
    def tiles(self) -> int:
        """Number of tiles; 1 is the whole image."""
        return len(self.grid.tiles())

    @property
    def memory_bytes(self) -> int:
        """Peak memory on the computing device, without the network, the input and the collected result."""
        return self.tile_bytes + self.map_bytes * self.places.count("device")

    @property
    def disk_bytes(self) -> int:
        """Size of the temporary files."""
        return self.map_bytes * self.places.count("file")


@dataclass(frozen=True)
class Upscaled:
    """An upscaled image.

    Args:
        image: (H, W, 3) of the type asked for.
        plan: how it was made.
    """

    image: NDArray[np.generic]
    plan: Plan


def plan(
    network: nn.Module,
    height: int,
    width: int,
    *,
    tile: int | Literal["auto"] = "auto",
    memory_limit_bytes: int | None = None,
    wrap: bool = False,
) -> Plan:
    """Decide tile size and storage for an image, from the free memory of this moment.

    Args:
        network: IMDN, IMDN_AS, IMDN_RTC or IMDN_RTE, on the device and in the precision to compute with.
        height: of the input, in pixels.
        width: of the input, in pixels.
        tile: side of a tile in input pixels, halo apart, at least 32; "auto" takes the fastest that fits.
        memory_limit_bytes: what may be held on the computing device beside the network, the input and the result.
            Default: on CUDA 80 % of what is free; on CPU half of what is free, 3 GiB at most.
        wrap: the image is a seamless texture.

    Raises:
        UsageError: the tile is too small.
    """
    if tile != "auto" and tile < LEAST_TILE_PX:
        raise UsageError(f"A tile of {tile} pixels is too small.", f"The smallest is {LEAST_TILE_PX}.")
    geometry = Geometry.of(network)
    parameter = next(network.parameters())
    device, number_bytes = parameter.device, parameter.dtype.itemsize
    limit_bytes = memory_limit_bytes if memory_limit_bytes is not None else _default_limit_bytes(device)
    rows = len(padded_indices(height, geometry, wrap=wrap)) // geometry.stride
    columns = len(padded_indices(width, geometry, wrap=wrap)) // geometry.stride
    halo = BLOCK_HALO_PX if isinstance(network, IMDN) else geometry.reach_px
    pixel_bytes = _WORKING_MAPS * geometry.channels * number_bytes + 3 * geometry.spread**2 * 8
    if tile == "auto":
        # At most half of the limit goes into the work on a tile: the maps can go to disk.
        best = _BEST_WINDOW_PIXELS.get(device.type, 1 << 22) if isinstance(network, IMDN) else _BEST_STRAIGHT_PIXELS
        most_pixels = max((_LEAST_CORE_PX + 2 * halo) ** 2, min(best, limit_bytes // (2 * pixel_bytes)))
        grid = Grid.within(rows, columns, most_pixels, halo)
    else:
        grid = Grid.over(rows, columns, max(1, tile // geometry.stride), halo)
    window_pixels = max(core.window(halo, grid.bounds).pixels for core in grid.tiles())
    band_bytes = 3 * max(row[0].height for row in grid.rows()) * columns * geometry.spread**2
    tile_bytes = window_pixels * pixel_bytes + band_bytes
    map_bytes = rows * columns * geometry.channels * number_bytes
    places = _places(3, map_bytes, limit_bytes - tile_bytes, device) if isinstance(network, IMDN) else ()
    output = (height * geometry.spread // geometry.stride, width * geometry.spread // geometry.stride)
    work = _work(network, grid, halo) * geometry.stride**2 / (height * width)
    return Plan(grid, places, tile_bytes, map_bytes, output, work)


def upscale(
    network: nn.Module,
    image: NDArray[np.generic],
    *,
    tile: int | Literal["auto"] = "auto",
    memory_limit_bytes: int | None = None,
    output: Output = "uint8",
    wrap: bool = False,
    stages: Stages | None = None,
    fused: FusedIMDN | None = None,
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Upscaled:
    """Upscale one image; any tile size and any memory limit give the same 8-bit (and 16-bit) result.

    When memory runs out the tile is halved and the work goes on.

    Args:
        network: IMDN, IMDN_AS, IMDN_RTC or IMDN_RTE, on the device and in the precision to compute with.
        image: (H, W, 3), RGB; uint8, uint16 or float32 in [0, 1]. Sides that are no multiple of the network's stride
            are padded by reflection and the result is cut.
        tile: side of a tile in input pixels, halo apart, at least 32; "auto" takes the fastest that fits.
        memory_limit_bytes: see `plan`.
        output: type of the result: "uint8" and "uint16" are clamped and rounded, "float32" is the network's own
            value over that of white.
        wrap: the image is a seamless texture, and the result is one.
        stages: a faster engine for the network's stages; default: plain PyTorch.
        fused: the network in an engine that takes an image as a whole, with floating output; does the plans of one
            tile, seamless textures apart, if its memory suffices.
        scratch: folder of temporary files; default $TMPDIR, else /var/tmp.
        progress: called with (steps done, steps in all).

    Returns:
        the image, (H s, W s, 3), and the plan that was followed.

    Raises:
        UsageError: the image or the tile size cannot be used.
        NotFiniteError: the network gave NaN or infinity (half precision can overflow).
        ZooError: memory does not suffice for the smallest tile, or the disk not for the temporary files.
    """
    _check(image)
    way = plan(network, *image.shape[:2], tile=tile, memory_limit_bytes=memory_limit_bytes, wrap=wrap)
    result: NDArray[np.generic] = np.empty((0, 0, 3), output)
    for top, pixels in bands(
        network,
        image,
        way=way,
        output=output,
        wrap=wrap,
        stages=stages,
        fused=fused,
        scratch=scratch,
        progress=progress,
    ):
        if pixels.shape[:2] == way.output_shape:
            return Upscaled(pixels, way)
        if top == 0:
            result = np.empty((*way.output_shape, 3), output)
        result[top : top + len(pixels)] = pixels
    return Upscaled(result, way)


def bands(
    network: nn.Module,
    image: NDArray[np.generic],
    *,
    way: Plan | None = None,
    output: Output = "uint8",
    wrap: bool = False,
    stages: Stages | None = None,
    fused: FusedIMDN | None = None,
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Band]:
    """Upscale one image and yield it in full-width rows from the top, each as soon as it is ready.

    Most of the time passes before the first band: the gates need the whole image.

    Args:
        network: see `upscale`, also for the errors.
        image: (H, W, 3), see `upscale`.
        way: from `plan` for this image and `wrap`; default: the automatic one.
        output: see `upscale`.
        wrap: see `upscale`.
        stages: see `upscale`.
        fused: see `upscale`.
        scratch: see `upscale`.
        progress: see `upscale`.
    """
    _check(image)
    way = way or plan(network, *image.shape[:2], wrap=wrap)
    parameter = next(network.parameters())
    geometry = Geometry.of(network)
    source = Source(image, geometry, wrap=wrap, device=parameter.device, dtype=parameter.dtype)
    margin = geometry.spread * geometry.reach_px if wrap else 0
    wanted = Region(margin, margin, margin + way.output_shape[0], margin + way.output_shape[1])
    finish = Quantiser(output, geometry.peak)
    if fused and way.tiles == 1 and not source.padded and fused.fits(*image.shape[:2]):
        with torch.inference_mode():
            pixels = _at_once(fused, source, finish)
        if pixels is not None:
            if progress:
                progress(1, 1)
            yield Band(0, pixels)
            return
    counter = _Counter(way.tiles * (1 + (len(network.blocks()) if isinstance(network, IMDN) else 0)), progress)
    with contextlib.ExitStack() as stack:
        if isinstance(network, IMDN):
            maps = _maps(way, geometry, parameter, scratch or scratch_folder())
            for one in maps:
                stack.callback(one.close)
            strip_pixels = max(core.pixels for core in way.grid.tiles())
            pooled = _pooled(image, geometry, wrap=wrap)
            run: Sweep | Straight = Sweep(
                stages or Stages(network),
                source,
                way.grid,
                maps,
                pooled=pooled,
                strip_pixels=strip_pixels,
                step=counter,
            )
        else:
            run = Straight(network, source, way.grid, step=counter)
        steps = run.bands(finish, wanted)
        while True:
            with (
                torch.inference_mode()
            ):  # entered for every step: between two bands the caller's code runs in its own mode
                band = next(steps, None)
            if band is None:
                return
            yield band


def _at_once(fused: FusedIMDN, source: Source, finish: Finish) -> NDArray[np.generic] | None:
    """The whole image through the fused engine; None if memory does not suffice, and then the engine holds none."""
    height, width = source.image.shape[:2]
    try:
        values = fused(source.read(Region(0, 0, height, width)))
    except torch.OutOfMemoryError:
        values = None
    if values is None:  # outside of the handler, whose traceback holds tensors
        fused.forget()
        torch.cuda.empty_cache()
        return None
    if not all_finite(values):
        raise not_finite(fused.dtype)
    return finish(values)


class _Counter:
    """Counts steps for a progress display."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.report = 0, total, report

    def __call__(self) -> None:
        self.done += 1
        if self.report:
            self.report(min(self.done, self.total), self.total)  # halved tiles make more steps than were planned


def _check(image: NDArray[np.generic]) -> None:
    """Refuse what is no RGB image."""
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UsageError(f"An image must be (H, W, 3), this is {image.shape}.", "Convert it to RGB first.")
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise UsageError(f"An image must be uint8, uint16 or float32, this is {image.dtype}.", "Convert it first.")


def _default_limit_bytes(device: torch.device) -> int:
    """How much memory a call may take when nobody says."""
    free = free_memory_bytes(device)
    return int(0.8 * free) if device.type == "cuda" else min(free // 2, _DEFAULT_LIMIT_BYTES)


def _places(count: int, map_bytes: int, room_bytes: int, device: torch.device) -> tuple[Place, ...]:
    """Put maps into the device's memory as long as they fit, then into a CUDA device's host's, then on disk."""
    host_bytes = 0 if device.type == "cpu" else _default_limit_bytes(torch.device("cpu"))
    places: list[Place] = []
    for _ in range(count):
        if map_bytes <= room_bytes:
            places.append("device")
            room_bytes -= map_bytes
        elif map_bytes <= host_bytes:
            places.append("host")
            host_bytes -= map_bytes
        else:
            places.append("file")
    return tuple(places)


def _maps(way: Plan, geometry: Geometry, like: torch.Tensor, folder: Path) -> tuple[Map, Map, Map]:
    """Make the maps of a plan; look for room on the disk before anything is computed."""
    if way.disk_bytes:
        if not folder.is_dir():
            raise ZooError(f"{folder} is no folder for temporary files.", "Point TMPDIR at one, or allow more memory.")
        if way.disk_bytes > free_disk_bytes(folder):
            raise no_room(folder, way.disk_bytes)

    def make(place: Place) -> Map:
        if place == "file":
            return FileMap(way.grid.bounds, geometry.channels, like.dtype, like.device, folder)
        home = like.device if place == "device" else torch.device("cpu")
        return MemoryMap(way.grid.bounds, geometry.channels, like.dtype, like.device, home)

    h, u, mixed = (make(place) for place in way.places)
    return h, u, mixed


def _pooled(image: NDArray[np.generic], geometry: Geometry, *, wrap: bool) -> Region:
    """The features over which gates pool: those of the image itself, as far as padding leaves any untouched."""
    margin = geometry.reach_px if wrap else 0
    height, width = (max(1, side // geometry.stride) for side in image.shape[:2])
    return Region(margin, margin, margin + height, margin + width)


def _work(network: nn.Module, grid: Grid, halo: int) -> float:
    """Multiply-adds over those of one feature pixel: the number of feature pixels, plus what halos add."""
    cores = grid.tiles()

    def pixels(reach: int) -> int:
        return sum(core.window(reach, grid.bounds).pixels for core in cores)

    if not isinstance(network, IMDN):
        return float(pixels(halo))

    def weights(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 4)

    blocks = network.blocks()
    parts = len(blocks) * weights(blocks[0].c1, blocks[0].c2, blocks[0].c3, blocks[0].c4)
    pointwise = len(blocks) * weights(blocks[0].c5) + weights(network.c)
    tail, head = weights(network.LR_conv, network.upsampler), weights(network.fea_conv)
    done = parts * pixels(halo) + pointwise * pixels(0) + tail * pixels(TAIL_HALO_PX)
    done += head * (pixels(HEAD_HALO_PX) + pixels(TAIL_HALO_PX + HEAD_HALO_PX))
    return done / (parts + pointwise + tail + head)
