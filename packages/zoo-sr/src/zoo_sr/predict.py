"""Enlarge any image: the Predictor of the super-resolution models."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from PIL import Image as pil
from torch import nn

from zoo_core.catalog import CatalogEntry, models
from zoo_core.errors import InputError, UsageError
from zoo_core.io.images import SUFFIXES, Frame, Image, Pixels, peek, read_image, sniff
from zoo_core.io.inputs import Source
from zoo_core.io.writers import SUFFIX, Format, as_same, holds, losses
from zoo_core.options import Options
from zoo_core.predict import DTYPES, Predictor, Progress, as_source, silent
from zoo_sr import framing
from zoo_sr.alpha import bleed, is_binary
from zoo_sr.backends import fastest, whole_image
from zoo_sr.gpu import FusedIMDN
from zoo_sr.imdn import IMDN
from zoo_sr.options import SROptions
from zoo_sr.resize import resize
from zoo_sr.result import SRResult, comparison_name
from zoo_sr.source import Output
from zoo_sr.sweep import NotFiniteError
from zoo_sr.tiling import bands, plan


@dataclass(frozen=True)
class Planes:
    """What one frame gives the network: its colours (H, W, 1 or 3); its alpha (H, W, 1) if the network does it."""

    colours: Pixels
    alpha: Pixels | None


class _Work:
    """Counts the runs of the network over one input, for progress and for the result."""

    def __init__(self, runs: int, progress: Progress) -> None:
        self.runs, self.progress = runs, progress
        self.done, self.tiles = 0, 1
        self.notes: list[str] = []

    def step(self, done: int, total: int) -> None:
        """Take note of how far the present run is."""
        self.progress(min(1.0, (self.done + done / total) / self.runs))

    def finish_run(self, tiles: int) -> None:
        """Take note that a run over `tiles` tiles is complete."""
        self.done += 1
        self.tiles = max(self.tiles, tiles)


@dataclass(frozen=True)
class Enlarged:
    """The frames as the network gives them, and how it went."""

    frames: tuple[Planes, ...]
    tiles: int
    exact: bool
    seconds: float
    notes: tuple[str, ...]


class SRPredictor(Predictor[Image, list[Planes], Enlarged]):
    """Enlarges photos, drawings, animations and textures with any model of this package."""

    suffixes = SUFFIXES
    options: SROptions

    def __init__(
        self, entry: CatalogEntry, module: nn.Module, *, device: torch.device, precision: str, options: SROptions
    ) -> None:
        super().__init__(entry, module, device=device, precision=precision, options=options)
        self.factor = int(self.manifest.outputs.scale or 1)
        # the fp32 module stays: what overflows in half precision is computed again with it
        self._quick = module if precision == "fp32" else copy.deepcopy(module).to(DTYPES[precision])
        self._stages = fastest(self._quick) if isinstance(self._quick, IMDN) else None

    @cached_property
    def _fused(self) -> FusedIMDN | None:
        """The engine for images of one tile, made for the first of them: on a GPU that means to compile."""
        return whole_image(self.module, self.precision) if isinstance(self.module, IMDN) else None

    @classmethod
    def check(cls, entry: CatalogEntry, options: Options) -> None:
        """Refuse factors that this model cannot reach, and name the model that can."""
        assert isinstance(options, SROptions)  # noqa: S101 - for the type checker; the manifest names this class
        factor = entry.manifest.outputs.scale or 1
        if options.scale is None:
            return
        if options.width is not None or options.height is not None:
            raise UsageError("--scale and --width or --height ask for two sizes.", "Give one of them.")
        if factor == 1 or options.scale <= factor:
            return
        others = [(other.manifest.outputs.scale or 1, other.manifest.id) for other in models(task=entry.manifest.task)]
        larger = sorted(other for other in others if other[0] >= options.scale)
        raise UsageError(
            f"{entry.manifest.id} enlarges {factor:g} times, not {options.scale:g} times.",
            f"Use {larger[0][1]} instead."
            if larger
            else "No model here goes that far; a second run over the result invents more than it shows.",
        )

    def predict(self, source: Any) -> SRResult:
        """Enlarge one image.

        Args:
            source: a path, the bytes of a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
                of uint8, uint16, or floats in [0, 1].

        Raises:
            InputError: it cannot be used.
        """
        if not isinstance(source, (np.ndarray, pil.Image)):
            return cast(SRResult, super().predict(as_source(source)))
        image = _from_memory(source)
        self._check_output(image.name, *image.frames[0].size, len(image.frames))
        with torch.inference_mode():
            output = self.forward(self.prepare(image))
        return self.finish(image, output)

    def read(self, source: Source) -> Iterator[Image]:
        """Read the image; its size is checked against --max-pixels by its header."""
        header = peek(source)
        frames = header.frames if self.options.all_frames else 1
        self._check_output(source.name, header.height, header.width, frames)
        yield read_image(source, max_pixels=self.options.max_pixels, all_frames=self.options.all_frames)

    def prepare(self, item: Image) -> list[Planes]:
        """Give clear pixels the colours around them, and take out what the network enlarges."""
        planes = []
        for frame in item.frames:
            alpha = frame.alpha
            colours = frame.pixels if alpha is None else bleed(frame.pixels, alpha)
            by_net = alpha is not None and self._alpha_way(alpha) == "net"
            size = self._target(*frame.size) if self.factor == 1 else None
            planes.append(
                Planes(
                    _resized(colours, size),
                    _resized(cast(Pixels, alpha)[..., None], size) if by_net else None,
                )
            )
        return planes

    def forward(self, prepared: list[Planes], *, progress: Progress = silent) -> Enlarged:
        """Enlarge every plane by itself: the gates pool over one image, so no two images share a batch."""
        start = time.perf_counter()
        work = _Work(sum(1 + (planes.alpha is not None) for planes in prepared) * self._runs(), progress)
        frames = []
        for planes in prepared:
            colours = self._enlarge(planes.colours, work)
            alpha = None if planes.alpha is None else self._enlarge(planes.alpha, work)
            frames.append(Planes(colours, alpha))
        exact = not self.options.adaptive_cropping
        return Enlarged(tuple(frames), work.tiles, exact, time.perf_counter() - start, tuple(work.notes))

    def finish(self, item: Image, output: Enlarged) -> SRResult:
        """Bring the frames to the size that was asked for and put them together with what the file had beside them."""
        options = self.options
        frames, notes = [], [*item.notes, *output.notes]
        for before, after in zip(item.frames, output.frames, strict=True):
            size = self._target(*before.size)
            if after.colours.shape[:2] != size:
                height, width = after.colours.shape[:2]
                notes.append(
                    f"enlarged {self.factor} times to {width} x {height}, then shrunk to {size[1]} x {size[0]} "
                    "by antialiased bicubic"
                )
            alpha = None
            if before.alpha is not None and options.alpha != "drop":
                alpha = self._alpha(before.alpha, after.alpha, size)
            frames.append(Frame(_resized(after.colours, size), alpha, before.duration_ms))
        target = self._format(item.format)
        image = replace(item, frames=tuple(frames), notes=())
        if options.image_format == "same" and target != item.format:
            notes.append(f"written as {target}: {item.format} would lose colours or is not written here")
        notes += losses(image, target)
        return SRResult(
            image=image,
            original=item,
            model=self.manifest.id,
            scale=frames[0].size[0] / item.frames[0].size[0],
            format=target,
            tiles=output.tiles,
            exact=output.exact,
            precision=self.precision,
            device=str(self.device),
            seconds=output.seconds,
            notes=tuple(dict.fromkeys(notes)),
            options=options,
        )

    def file_names(self, source: Source) -> tuple[str, ...]:
        """Return the input's stem, the suffix that names the model, and the extension of what is written."""
        kind = sniff(source.head()) or "png"
        suffix = self.options.suffix if self.options.suffix is not None else f"_{self.manifest.id}"
        target = self._format(kind)
        if self.options.all_frames and not holds(target, frames=2) and _frames(source) > 1:
            name = source.stem + suffix  # a folder of numbered files
        else:
            name = source.stem + suffix + SUFFIX[target]
        return (name, comparison_name(name)) if self.options.compare else (name,)

    def _format(self, read_format: str) -> Format:
        if self.options.image_format == "same":
            return as_same(read_format, animated=self.options.all_frames)
        return self.options.image_format

    def _runs(self) -> int:
        """How many times the network runs over one plane."""
        return (8 if self.options.self_ensemble else 1) * (4 if self.options.adaptive_cropping else 1)

    def _enlarge(self, plane: Pixels, work: _Work) -> Pixels:
        """Run the network on one plane (H, W, 1 or 3) and return (s H, s W, 1 or 3) of the same type."""
        if self._quick is not self.module:
            try:
                result = self._framed(self._quick, plane, work)
                if not _is_blank(result, plane):
                    return result
            except NotFiniteError:
                pass
            work.notes.append(f"{self.precision} gave no valid picture: computed again in fp32")
        return self._framed(self.module, plane, work)

    def _framed(self, module: nn.Module, plane: Pixels, work: _Work) -> Pixels:
        """Enlarge one plane in one precision, averaged over its flips or in quarters if that was asked for."""
        dtype = np.dtype(np.float32) if self.options.self_ensemble else plane.dtype

        def whole(part: Pixels) -> Pixels:
            return self._run(module, part, dtype, work)

        run: framing.Enlarge = whole
        if self.options.adaptive_cropping:
            run = framing.adaptive_cropping(run, multiple=max(4, self.manifest.inputs.multiple_of))
        if self.options.self_ensemble:
            run = framing.self_ensemble(run)
        return _rounded(run(plane), plane.dtype)

    def _run(self, module: nn.Module, plane: Pixels, dtype: np.dtype[Any], work: _Work) -> Pixels:
        """Enlarge (H, W, 1 or 3); a gray one is run as three equal channels, whose mean is the result."""
        height, width, channels = plane.shape
        image = plane if channels == 3 else np.repeat(plane, 3, axis=2)
        wrap = self.options.seamless
        way = plan(module, height, width, tile=self.options.tile, wrap=wrap)
        result = np.empty((*way.output_shape, channels), dtype)
        output: Output = "float32" if channels == 1 else cast(Output, dtype.name)
        quick = module is self._quick
        stages = self._stages if quick else None
        fused = self._fused if quick and way.tiles == 1 else None
        for top, band in bands(
            module, image, way=way, output=output, wrap=wrap, stages=stages, fused=fused, progress=work.step
        ):
            values = cast(Pixels, band if channels == 3 else band.mean(axis=2, keepdims=True))
            result[top : top + len(band)] = _rounded(values, dtype)
        work.finish_run(way.tiles)
        return result

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that the options ask for."""
        options = self.options
        if options.width is None and options.height is None:
            factor = options.scale or self.factor
            # as Matlab's imresize rounds; 1e-9 keeps 2.2 x 10 from being 23
            return math.ceil(height * factor - 1e-9), math.ceil(width * factor - 1e-9)
        new_width = options.width or max(1, round(width * cast(int, options.height) / height))
        new_height = options.height or max(1, round(height * new_width / width))
        return new_height, new_width

    def _check_output(self, name: str, height: int, width: int, frames: int) -> None:
        """Refuse a result that is too large, or larger than the model can make it, before anything is decoded."""
        if min(height, width) < 1:
            raise InputError(f"{name} has no pixels.")
        new_height, new_width = self._target(height, width)
        if self.factor > 1 and (new_height > height * self.factor or new_width > width * self.factor):
            raise InputError(
                f"{name} has {width} x {height} pixels; {self.manifest.id} makes at most "
                f"{width * self.factor} x {height * self.factor} of it, not {new_width} x {new_height}.",
                "Ask for less with --width or --height.",
            )
        full = max(new_height * new_width, height * width * self.factor**2) * frames
        if full > self.options.max_pixels:
            raise InputError(
                f"{name} would become {full:,} pixels; the limit is {self.options.max_pixels:,}.",
                f"Raise it with --max-pixels {full} if memory and time allow.",
            )

    def _alpha_way(self, alpha: Pixels) -> str:
        if self.options.alpha != "auto":
            return self.options.alpha
        return "bicubic" if is_binary(alpha) else "net"

    def _alpha(self, before: Pixels, after: Pixels | None, size: tuple[int, int]) -> Pixels:
        """Return the alpha of the result (H, W); what was on or off stays so, unless bicubic was asked for."""
        if after is not None:
            return _resized(after, size)[..., 0]
        enlarged = cast(Pixels, resize(before, size=size))
        if self.options.alpha == "auto":
            highest = 1 if before.dtype.kind == "f" else np.iinfo(before.dtype).max
            enlarged = np.where(enlarged > highest / 2, highest, 0).astype(before.dtype)
        return enlarged


def _from_memory(given: Pixels | pil.Image) -> Image:
    """Turn a Pillow image or an array into an Image."""
    if isinstance(given, pil.Image):
        if given.mode not in {"L", "LA", "RGB", "RGBA", "I;16"}:
            given = given.convert("RGBA" if "transparency" in given.info else "RGB")
        given = np.asarray(given)
    pixels = given[..., None] if given.ndim == 2 else given
    if pixels.ndim != 3 or pixels.shape[2] not in {1, 2, 3, 4} or pixels.size == 0:
        raise InputError(f"An array of shape {given.shape} is no image.", "Give (H, W), (H, W, 3) or (H, W, 4).")
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise InputError("A floating-point image has values outside 0 to 1.", "Divide it by its highest value.")
        pixels = pixels.astype(np.float32)
    elif pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"An array of {pixels.dtype} is no image.", "Give uint8, uint16, or floats in [0, 1].")
    if pixels.shape[2] in {2, 4}:
        return Image((Frame(pixels[..., :-1], pixels[..., -1]),), name="array")
    return Image((Frame(pixels),), name="array")


def _frames(source: Source) -> int:
    """Return how many frames a file has; 1 if it cannot be read, which `read` will say."""
    try:
        return peek(source).frames
    except InputError:
        return 1


def _resized(pixels: Pixels, size: tuple[int, int] | None) -> Pixels:
    return pixels if size is None or pixels.shape[:2] == size else cast(Pixels, resize(pixels, size=size))


def _is_blank(result: Pixels, plane: Pixels) -> bool:
    """Whether a result has one single value although the image clearly has several."""
    highest = 1 if plane.dtype.kind == "f" else np.iinfo(plane.dtype).max
    return bool(result.min() == result.max()) and float(plane.max()) - float(plane.min()) > 0.03 * highest


def _rounded(values: Pixels, dtype: np.dtype[Any]) -> Pixels:
    """Return floats in about [0, 1] as an image of that type; what has the type already is left alone."""
    if dtype.kind == "f":
        return np.clip(values, 0, 1) if values.dtype.kind == "f" else values
    if values.dtype == dtype:
        return values
    highest = np.iinfo(dtype).max
    result: Pixels = np.rint(np.clip(values, 0, 1) * np.float32(highest)).astype(dtype)
    return result
