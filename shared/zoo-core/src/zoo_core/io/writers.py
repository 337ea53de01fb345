"""Write pictures: pixels as deep as they are, their metadata beside them, and nothing else lost on the way unsaid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from PIL import ExifTags, PngImagePlugin
from PIL import Image as pil

from zoo_core.errors import InputError
from zoo_core.io import sixteen_bit
from zoo_core.io.images import Frame, Image, Metadata, Pixels

Format: TypeAlias = Literal["png", "jpg", "webp", "tiff", "gif"]
SUFFIX: dict[Format, str] = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif", "gif": ".gif"}
_MAX_SIDE_PX = {"jpg": 65_500, "webp": 16_383, "gif": 65_535}
_PNG_LEVEL = 1  # 5 times faster than the usual 6 on photos, and about 8 % larger


def as_same(read_format: str, *, animated: bool) -> Format:
    """Return the format that keeps what a file of `read_format` holds; PNG where the same one would lose colours."""
    if read_format == "gif" and animated:
        return "gif"
    known: dict[str, Format] = {"png": "png", "jpg": "jpg", "webp": "webp", "tiff": "tiff"}
    return known.get(read_format, "png")


def holds(target: Format, *, frames: int) -> bool:
    """Whether one file of that format holds so many frames."""
    return frames == 1 or target != "jpg"


def losses(image: Image, target: Format) -> list[str]:
    """Say what `target` cannot hold of an image."""
    notes = []
    deep = any(frame.pixels.dtype != np.uint8 for frame in image.frames)
    if deep and (target not in {"png", "tiff"} or len(image.frames) > 1):
        notes.append(f"written with 8 bits a channel, which is what {target} holds here; png and tiff keep 16")
    if target == "jpg" and any(frame.alpha is not None for frame in image.frames):
        notes.append("jpg has no transparency: laid on white")
    if target == "tiff" and len(image.frames) > 1 and (image.metadata.exif or image.metadata.xmp):
        notes.append("EXIF and XMP are not written to a tiff of several pages")
    if target == "gif":
        notes.append("gif holds 256 colours a frame; webp and png keep them all")
    return notes


def write_image(
    file: BinaryIO, image: Image, target: Format, *, quality: int = 95, software: str | None = None
) -> None:
    """Encode an image.

    Args:
        file: seekable, positioned at its start.
        image: one frame, or several if the format `holds` them.
        target: what to write; see `losses` for what it cannot hold.
        quality: 1 to 100, for jpg and webp.
        software: what the software tag says; None leaves the metadata as it is.

    Raises:
        InputError: larger than the format can be.
    """
    limit = _MAX_SIDE_PX.get(target)
    if limit is not None and max(max(frame.size) for frame in image.frames) > limit:
        height, width = image.frames[0].size
        raise InputError(
            f"{image.name} gives {width} x {height} pixels; {target} ends at {limit} a side.", "Choose png or tiff."
        )
    first = image.frames[0]
    metadata = stamped(image.metadata, software, first.size)
    deep = first.pixels.dtype != np.uint8
    if len(image.frames) == 1 and (target == "tiff" or (target == "png" and deep)):
        write = sixteen_bit.write_png if target == "png" else sixteen_bit.write_tiff
        pixels = _as_uint16(first.joined()) if deep else first.joined()
        write(
            file, pixels, icc=metadata.icc, exif=metadata.exif, xmp=metadata.xmp, dpi=metadata.dpi, software=software
        )  # fmt: skip
        return
    pictures = [to_pil(frame, opaque=target == "jpg") for frame in image.frames]
    extra = _parameters(metadata, target, quality, software)
    if len(pictures) > 1:
        extra |= {"save_all": True, "append_images": pictures[1:]}
        if target != "tiff":
            extra |= {"duration": [frame.duration_ms for frame in image.frames], "loop": image.loop}
    pictures[0].save(file, _PIL_NAME[target], **extra)


_PIL_NAME: dict[Format, str] = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF", "gif": "GIF"}


def to_pil(frame: Frame, *, opaque: bool = False) -> pil.Image:
    """Return a frame as an 8-bit Pillow image: L, LA, RGB or RGBA; `opaque` lays it on white."""
    pixels = _as_uint8(frame.joined())
    picture = pil.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if not opaque or frame.alpha is None:
        return picture
    whole = picture.convert("RGBA")
    white = pil.new("RGBA", whole.size, "white")
    laid = pil.alpha_composite(white, whole).convert("RGB")
    return laid if frame.pixels.shape[2] == 3 else laid.convert("L")


def stamped(metadata: Metadata, software: str | None, size: tuple[int, int]) -> Metadata:
    """Return the metadata with the software tag, and with the size (height, width) that the EXIF block should state."""
    if software is None and metadata.exif is None:
        return metadata
    exif = pil.Exif()
    if metadata.exif:
        exif.load(metadata.exif)
    if software is not None:
        exif[ExifTags.Base.Software] = software
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, value in ((ExifTags.Base.ExifImageWidth, size[1]), (ExifTags.Base.ExifImageHeight, size[0])):
        if tag in inner:
            inner[tag] = value
    return replace(metadata, exif=exif.tobytes())


def _parameters(metadata: Metadata, target: Format, quality: int, software: str | None) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if target == "gif":
        return {"disposal": 2}
    if metadata.icc:
        extra["icc_profile"] = metadata.icc
    if metadata.exif and target != "tiff":
        extra["exif"] = metadata.exif
    if metadata.dpi and target != "webp":
        extra["dpi"] = metadata.dpi
    if target == "png":
        text = PngImagePlugin.PngInfo()
        if software:
            text.add_text("Software", software)
        if metadata.xmp:
            text.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
        return extra | {"compress_level": _PNG_LEVEL, "pnginfo": text}
    if metadata.xmp and target != "tiff":
        extra["xmp"] = metadata.xmp
    if target == "jpg":
        # from 90 on the user wants quality: colours at full resolution
        return extra | {"quality": quality, "subsampling": 0 if quality >= 90 else 2, "optimize": False}
    if target == "webp":
        return extra | {"quality": quality, "method": 4}
    return extra | {"compression": "tiff_adobe_deflate"}


def _as_uint8(pixels: Pixels) -> Pixels:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        pixels = pixels / np.float32(65535)
    small: Pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return small


def _as_uint16(pixels: Pixels) -> Pixels:
    return pixels if pixels.dtype == np.uint16 else np.rint(np.clip(pixels, 0, 1) * 65535).astype(np.uint16)
