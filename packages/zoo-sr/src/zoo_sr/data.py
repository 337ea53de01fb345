"""Training data: photos decoded once into device memory; a batch is two gathers and a pure function of (seed, step).

A photo enters at several sizes: the original and Matlab-exact reductions of it, which are sharper (JPEG artefacts
shrink away) and show structures at other scales. Of each size the small image is made once, whole, by the same exact
resize that made the test sets.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_core.errors import InputError
from zoo_core.io.packs import open_pack
from zoo_core.train.order import Order, step_generator
from zoo_sr.resize import resize_tensor

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
REDUCTIONS = (1.0, 0.85, 0.7, 0.6)
# Small pixels that a teacher enlarges at once: enough to fill a GPU, about 1 GB of a wide network's maps.
_TAUGHT_PIXELS = 1 << 15


class Crops(NamedTuple):
    """A batch of aligned patches in [0, 1]: low (N, 3, p, p), high and, with a teacher, taught (N, 3, s p, s p)."""

    low: Tensor
    high: Tensor
    taught: Tensor | None


@dataclass(frozen=True)
class Photo:
    """One decoded photo, uint8 RGB (H, W, 3), and its name in the pack."""

    name: str
    pixels: NDArray[np.uint8]


def read_photos(packs: list[Path], split: str) -> list[Photo]:
    """Read one split of training packs.

    Args:
        packs: with the columns image (encoded bytes) and, if it has splits of its own, split; or folders of images.
            Without a column split, a twentieth of the photos, chosen by a hash of their names, is the split val.
        split: train or val.

    Raises:
        InputError: a pack is missing or damaged, or none holds a photo of this split.
    """
    photos = []
    for path in packs:
        pack = open_pack(path, plain_column="image", suffixes=IMAGE_SUFFIXES)
        for row in pack.examples([c for c in ("split", "image") if c == "image" or c in pack.columns]):
            held_out = "val" if zlib.crc32(row["name"].encode()) % 20 == 0 else "train"
            if row.get("split", held_out) == split:
                photos.append(Photo(row["name"], _decode(row["image"], f"{path}, {row['name']}")))
    if not photos:
        raise InputError(
            f"{', '.join(map(str, packs))}: no photo of split {split!r}.", "Add some, or name other packs."
        )
    return photos


def _decode(encoded: bytes, origin: str) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"{origin}: not a readable image ({error}).", "Take it out of the pack.") from error


def synthetic_photos(count: int, side: int, seed: int) -> list[Photo]:
    """Make smooth gradients with discs and bars in random colours: enough to see a loss fall where there is no data."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[:side, :side] / side
    photos = []
    for number in range(count):
        canvas = np.stack([row * a + column * (1 - a) for a in random.random(3)], axis=2)
        for _ in range(12):
            y, x, radius = random.random(3) * [1, 1, 0.2]
            disc = (row - y) ** 2 + (column - x) ** 2 < radius**2
            bar = np.abs((row - y) * x + (column - x) * y) < radius / 8
            canvas[disc] = random.random(3)
            canvas[bar] = random.random(3)
        photos.append(Photo(f"synthetic-{number}", (canvas * 255).astype(np.uint8)))
    return photos


def fingerprint(photos: list[Photo]) -> str:
    """Return a hash of all pixels, in order: equal data, equal hash."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(photo.name.encode())
        digest.update(photo.pixels.tobytes())
    return digest.hexdigest()


class PhotoPool:
    """All photos at all sizes, flat in device memory, and the random patches drawn from them.

    Args:
        photos: the training photos.
        scale: s, the factor between high and low patches.
        patch: p, the side of a low patch in pixels.
        batch: N.
        seed: of the order of the photos and of every draw.
        device: where the pixels live.
        reductions: sizes at which each photo enters; those too small for a patch are left out.
    """

    def __init__(
        self,
        photos: list[Photo],
        *,
        scale: int,
        patch: int,
        batch: int,
        seed: int,
        device: torch.device,
        reductions: tuple[float, ...] = REDUCTIONS,
    ) -> None:
        self.scale, self.patch, self.seed, self.device = scale, patch, seed, device
        self.names = [photo.name for photo in photos]
        self.order = Order(len(photos), batch, seed)
        high_parts, low_parts, sizes, counts = [], [], [], []
        for photo in photos:
            whole = torch.from_numpy(photo.pixels.copy()).to(device).movedim(2, 0)
            levels = 0
            for reduction in reductions:
                high = whole if reduction == 1.0 else resize_tensor(whole, scale=reduction)
                rows, columns = high.shape[1] // scale, high.shape[2] // scale
                if min(rows, columns) < patch:
                    continue
                high = high[:, : rows * scale, : columns * scale]
                low = resize_tensor(high, size=(rows, columns))
                high_parts.append(high.movedim(0, 2).reshape(-1))
                low_parts.append(low.movedim(0, 2).reshape(-1))
                sizes.append((rows, columns))
                levels += 1
            if not levels:
                raise InputError(
                    f"{photo.name}: smaller than a patch of {patch * scale} pixels.", "Use a smaller patch."
                )
            counts.append(levels)
        self.high, self.low = torch.cat(high_parts), torch.cat(low_parts)
        self.sizes = torch.tensor(sizes)
        self.counts = torch.tensor(counts)
        self.first = self.counts.cumsum(0) - self.counts
        pixels = self.sizes.prod(dim=1) * 3
        self.low_start = pixels.cumsum(0) - pixels
        self.high_start = self.low_start * scale**2
        self.taught: Tensor | None = None

    def teach(self, enlarge: Callable[[Tensor], Tensor]) -> None:
        """Keep, beside all high pixels, what a teacher makes of the low ones; `cut` then cuts patches of both.

        Args:
            enlarge: (N, 3, h, w) uint8 -> (N, 3, s h, s w) uint8 on the device; gets whole photos, as many of one size
                as fill a device.
        """
        self.taught = torch.empty_like(self.high)
        alike: dict[tuple[int, int], list[int]] = {}
        for level, (rows, columns) in enumerate(self.sizes.tolist()):
            alike.setdefault((rows, columns), []).append(level)
        for (rows, columns), levels in alike.items():
            pixels, together = rows * columns * 3, max(1, _TAUGHT_PIXELS // (rows * columns))
            for some in (levels[i : i + together] for i in range(0, len(levels), together)):
                lows = [self.low[start : start + pixels] for start in self.low_start[some].tolist()]
                larges = enlarge(torch.stack(lows).view(-1, rows, columns, 3).movedim(3, 1)).movedim(1, 3)
                for start, large in zip(self.high_start[some].tolist(), larges, strict=True):
                    self.taught[start : start + large.numel()] = large.reshape(-1)

    def draw(self, step: int) -> Tensor:
        """Draw where the patches of batch `step` lie and how they are turned.

        Drawn are the size of the photo, the place, two flips, transposition, and the order of the channels.

        Returns:
            (N, 11) int64 on the CPU, a pure function of (seed, step); `cut` turns it into patches.
        """
        photo = torch.from_numpy(self.order.indices(step))
        random = torch.rand(len(photo), 9, generator=step_generator(self.seed, step))
        level = self.first[photo] + (random[:, 0] * self.counts[photo]).long()
        sizes = self.sizes[level]
        place = (random[:, 1:3] * (sizes - self.patch + 1)).long()
        starts = torch.stack([self.low_start[level], self.high_start[level]], 1)
        return torch.cat([starts, place, sizes[:, 1:], (random[:, 3:6] < 0.5).long(), random[:, 6:].argsort(dim=1)], 1)

    def cut(self, draws: Tensor) -> Crops:
        """Cut the drawn patches out of the photos, on the device; a few indexed reads that a CUDA graph can hold."""
        low_start, high_start, top, left, columns = draws[:, :5].unbind(1)
        flips, channels, s = draws[:, 5:8].bool(), draws[:, 8:], self.scale

        def large(flat: Tensor) -> Tensor:
            return _gather(flat, high_start, top * s, left * s, columns * s, self.patch * s, flips, channels)

        return Crops(
            _gather(self.low, low_start, top, left, columns, self.patch, flips, channels),
            large(self.high),
            None if self.taught is None else large(self.taught),
        )

    def describe(self, step: int) -> str:
        """Name the photos of batch `step`, for messages."""
        return ", ".join(self.names[i] for i in self.order.indices(step))


def _gather(
    flat: Tensor, start: Tensor, top: Tensor, left: Tensor, width: Tensor, side: int, flips: Tensor, channels: Tensor
) -> Tensor:
    """Cut N square patches, in [0, 1], out of flat (H W 3) images; `flips` (N, 3): rows, columns, transpose."""
    ramp = torch.arange(side, device=flat.device)
    i, j = torch.meshgrid(ramp, ramp, indexing="ij")

    def choose(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return torch.where(condition[:, None, None], one, other)

    row, column = choose(flips[:, 2], j, i), choose(flips[:, 2], i, j)
    row, column = choose(flips[:, 0], side - 1 - row, row), choose(flips[:, 1], side - 1 - column, column)
    pixel = (top[:, None, None] + row) * width[:, None, None] + left[:, None, None] + column
    index = start[:, None, None, None] + pixel[:, None] * 3 + channels[:, :, None, None]
    return flat[index].float() / 255
