"""The enlarged image, and what there is to know about how it came about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image as pil
from PIL import ImageDraw, ImageFont

from zoo_core import __version__
from zoo_core.io.atomic import whole, whole_folder
from zoo_core.io.images import Frame, Image, Metadata, Pixels
from zoo_core.io.writers import SUFFIX, Format, holds, to_pil, write_image
from zoo_sr.options import SROptions
from zoo_sr.resize import resize

_DRAWN_PX = 2400  # longest side of a half of the comparison


@dataclass(frozen=True, eq=False)
class SRResult:
    """One enlarged image.

    Attributes:
        image: the frames with their metadata.
        original: what was read.
        model: id of the model.
        scale: factor of the height.
        format: what `save` writes.
        tiles: how many the image was cut into (1: as a whole).
        exact: whether the pixels are those of the whole image at once.
        precision: of the computation.
        device: of the computation.
        seconds: of the computation, without reading and writing.
        notes: what differs from the plain case, in words for the user.
        options: what was asked for.
    """

    image: Image
    original: Image
    model: str
    scale: float
    format: Format
    tiles: int
    exact: bool
    precision: str
    device: str
    seconds: float
    notes: tuple[str, ...]
    options: SROptions

    @property
    def pixels(self) -> Pixels:
        """The (first) enlarged image, (H, W, C): gray, gray and alpha, RGB or RGBA; uint8, uint16 or float32."""
        return self.image.frames[0].joined()

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the pixels."""
        height, width = self.image.frames[0].size
        before_height, before_width = self.original.frames[0].size
        return {
            "input": self.original.name,
            "model": self.model,
            "input_size": [before_width, before_height],
            "size": [width, height],
            "scale": round(self.scale, 4),
            "frames": len(self.image.frames),
            "channels": self.pixels.shape[2],
            "bits": 8 * self.pixels.dtype.itemsize,
            "format": self.format,
            "tiles": self.tiles,
            "exact": self.exact,
            "precision": self.precision,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }

    def save(self, path: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the image, and the comparison beside it if the options ask for one.

        Args:
            path: the file; its extension does not choose the format, `self.format` does. An animation in a format that
                holds no frames becomes a folder of that name with numbered files.
            overwrite: replace existing files.

        Returns:
            the files or folders that were written.

        Raises:
            InputError: the file exists, or the format cannot hold an image of that size.
            ZooError: the folder cannot be written to, or the disk is full.
        """
        picture = path.with_name(comparison_name(path.name))
        if self.options.compare:
            # first the extra, then the result: what --skip-existing finds is complete
            with whole(picture, overwrite=overwrite) as aside:
                self.draw().save(aside, "PNG", compress_level=1)
        if holds(self.format, frames=len(self.image.frames)):
            with whole(path, overwrite=overwrite) as aside, aside.open("r+b") as file:
                self.write(file)
        else:
            with whole_folder(path, overwrite=overwrite) as aside:
                for number, frame in enumerate(self.image.frames, start=1):
                    with (aside / f"{number:05d}{SUFFIX[self.format]}").open("w+b") as file:
                        self._write(file, replace(self.image, frames=(frame,)))
        return (path, picture) if self.options.compare else (path,)

    def write(self, file: BinaryIO) -> None:
        """Write the encoded image to a seekable file, such as `io.BytesIO`."""
        self._write(file, self.image)

    def _write(self, file: BinaryIO, kept: Image) -> None:
        software: str | None = f"zoo {__version__}, {self.model}, x{self.scale:g}"
        if self.options.strip_metadata:
            kept, software = replace(kept, metadata=Metadata(icc=kept.metadata.icc)), None
        write_image(file, kept, self.format, quality=self.options.quality, software=software)

    def draw(self) -> pil.Image:
        """Return bicubic and the model side by side, labelled: the first frame, laid on white, shrunk if it is huge."""
        after = self.image.frames[0]
        height, width = after.size
        before = self.original.frames[0]
        bicubic = Frame(
            _enlarged(before.pixels, after.size),
            None if before.alpha is None else _enlarged(before.alpha, after.size),
        )
        factor = min(1.0, _DRAWN_PX / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        halves = [to_pil(frame, opaque=True).convert("RGB").resize(size) for frame in (bicubic, after)]
        bar = max(18, size[1] // 24)
        font = ImageFont.load_default(size=round(bar * 0.62))
        labels = ["bicubic", self.model]
        cell = max(size[0], *(round(font.getlength(label)) + bar for label in labels))
        sheet = pil.new("RGB", (2 * cell + 4, size[1] + bar), "white")
        pen = ImageDraw.Draw(sheet)
        for column, (half, label) in enumerate(zip(halves, labels, strict=True)):
            left = column * (cell + 4)
            sheet.paste(half, (left + (cell - size[0]) // 2, bar))
            pen.text((left + cell / 2, bar / 2), label, fill="black", font=font, anchor="mm")
        return sheet


def comparison_name(name: str) -> str:
    """Return the name of the comparison beside a result of that name."""
    return f"{Path(name).stem}_compare.png"


def _enlarged(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return cast(Pixels, np.clip(resize(pixels, size=size), 0, 1 if pixels.dtype.kind == "f" else None))
