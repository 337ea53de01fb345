"""Read any picture a user has, safely and without loss.

The content says what a file is, not its name. The header is checked against the pixel limit before anything is
decoded. Only the formats below are ever tried (Pillow knows others, some of which start programs), by their own
readers: `Image.open` would bring its process-wide limit, which is not ours to change.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    ImageCms,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as pil

from zoo_core.errors import InputError, ZooError
from zoo_core.io.inputs import Source
from zoo_core.io.sixteen_bit import TIFF_LAYOUT, is_deep, read_deep

Pixels = NDArray[Any]
MAX_PIXELS = 100_000_000
MAX_FRAMES = 10_000
_ORIENTATION = ExifTags.Base.Orientation


class _Tiff(TiffImagePlugin.TiffImageFile):
    def load_prepare(self) -> None:
        # Pillow checks its own process-wide limit here; ours was checked by the header
        if self._im is None:
            self.im = pil.core.new(  # type: ignore[attr-defined]
                self.mode, self._tile_size
            )
        ImageFile.ImageFile.load_prepare(self)


_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "png": PngImagePlugin.PngImageFile,
    "jpg": JpegImagePlugin.JpegImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "tiff": _Tiff,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "ppm": PpmImagePlugin.PpmImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
    "jp2": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
EXTENSIONS = {
    "png": (".png", ".apng"),
    "jpg": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "webp": (".webp",),
    "tiff": (".tif", ".tiff"),
    "gif": (".gif",),
    "bmp": (".bmp", ".dib"),
    "ppm": (".ppm", ".pgm", ".pbm", ".pnm"),
    "avif": (".avif",),
    "jp2": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
SUFFIXES = frozenset(suffix for group in EXTENSIONS.values() for suffix in group)
_MAGIC = (
    ("png", rb"\x89PNG\r\n\x1a\n"),
    ("jpg", rb"\xff\xd8\xff"),
    ("webp", rb"RIFF....WEBP"),
    ("tiff", rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+"),
    ("gif", rb"GIF8[79]a"),
    ("bmp", rb"BM"),
    ("ppm", rb"P[1-6]\s"),
    ("avif", rb"....ftypavi[fs]"),
    ("jp2", rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
)
_CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000: its first marker and that of its sizes
_OTHERS = (
    ("a HEIC photo", rb"....ftyp(hei|mif|msf)"),
    ("a PDF", rb"%PDF"),
    ("an SVG drawing or XML", rb"\s*<(\?xml|svg)"),
    ("a web page", rb"\s*<(!DOCTYPE|html)"),
    ("a JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL"),
    ("a Photoshop file", rb"8BPS"),
    ("a zip archive", rb"PK\x03\x04"),
    ("a pointer of Git LFS (git lfs pull fetches the file)", rb"version https://git-lfs"),
)


@dataclass(frozen=True)
class Metadata:
    """What belongs to a picture beside its pixels; None where it has none. The orientation is applied, not in here."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture: pixels (H, W, 1 or 3) and alpha (H, W) or None, both uint8, uint16, or float32 in [0, 1]."""

    pixels: Pixels
    alpha: Pixels | None = None
    duration_ms: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def joined(self) -> Pixels:
        """Return (H, W, C) with alpha, if any, as the last channel."""
        return self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])


@dataclass(frozen=True, eq=False)
class Image:
    """What a file holds: its frames (one, unless it is animated or has pages), how they are shown, and its metadata."""

    frames: tuple[Frame, ...]
    name: str = "image"
    format: str = "png"
    loop: int = 0
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What the first bytes of a picture say about it."""

    format: str
    width: int
    height: int
    frames: int


def sniff(head: bytes) -> str | None:
    """Return the format that the first bytes (16 are enough) belong to, None if it is none that we read."""
    return next((name for name, magic in _MAGIC if re.match(magic, head, re.DOTALL)), None)


def peek(source: Source) -> Header:
    """Read the header of a picture without decoding it.

    Raises:
        InputError: as `read_image`.
    """
    image, kind = _open(source, source.read_bytes())
    with image, _named(source, kind):
        return Header(kind, image.width, image.height, getattr(image, "n_frames", 1))


def read_image(source: Source, *, max_pixels: int = MAX_PIXELS, all_frames: bool = False, frame: int = 0) -> Image:
    """Read a picture: EXIF orientation applied, palettes expanded, CMYK converted by its profile, 16 bits kept.

    Args:
        source: where it comes from.
        max_pixels: of all frames that are read together; compared with the header before decoding.
        all_frames: read every frame or page; otherwise one, with a note on an animation that there are more.
        frame: which one that is, from 0; for files whose pages are read one after the other.

    Raises:
        InputError: empty, no picture, a format we do not read, truncated or damaged, or too large; names the remedy.
    """
    data = source.read_bytes()
    image, kind = _open(source, data)
    notes = _extension_notes(source, kind)
    with image, _named(source, kind):
        count = getattr(image, "n_frames", 1) if all_frames else 1
        _check_size(source, image, count, max_pixels)
        if not all_frames and frame == 0 and getattr(image, "is_animated", False):
            notes.append("only the first frame is used; --all-frames takes them all")
        if kind == "jp2" and image.mode != "I;16" and _jp2_bits(data) > 8:
            notes.append("colour of more than 8 bits in a JPEG 2000 is read as 8; save it as TIFF to keep them")
        frames, metadata = [], Metadata()
        for index in range(count) if all_frames else (frame,):
            read = _frame(partial(_at, kind, data, index), image, index, notes)
            frames.append(_turned(read, _orientation(image)))
            if len(frames) == 1:
                metadata = _metadata(image, notes)
        loop = int(image.info.get("loop", 0))
    return Image(tuple(frames), source.name, kind, loop, metadata, tuple(dict.fromkeys(notes)))


def _open(source: Source, data: bytes) -> tuple[ImageFile.ImageFile, str]:
    kind = sniff(data[:64])
    if kind is None:
        what = next((name for name, magic in _OTHERS if re.match(magic, data[:64], re.DOTALL)), None)
        if what is None:
            what = "text" if _is_text(data[:512]) else "of an unknown kind"
        raise InputError(
            f"{source.name} is not a picture that can be read here: its content is {what}.",
            f"Give one of: {', '.join(_READERS)}.",
        )
    with _named(source, kind):
        return _READERS[kind](io.BytesIO(data)), kind


@contextmanager
def _named(source: Source, kind: str) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged file into one sentence."""
    try:
        yield
    except ZooError:
        raise
    except MemoryError as error:
        raise InputError(f"{source.name} does not fit into memory.", "Shrink or cut it first.") from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{source.name} cannot be decoded as {kind}: {reason[:120]}.",
            "It is truncated, damaged or of a rare kind: copy it again, or save it as PNG.",
        ) from error


def _at(kind: str, data: bytes, index: int) -> ImageFile.ImageFile:
    image = _READERS[kind](io.BytesIO(data))
    if index:
        image.seek(index)
    return image


def _check_size(source: Source, image: ImageFile.ImageFile, count: int, max_pixels: int) -> None:
    if count > MAX_FRAMES:
        raise InputError(f"{source.name} has {count} frames; the limit is {MAX_FRAMES}.", "Cut it into parts.")
    pixels = image.width * image.height * count
    if pixels > max_pixels:
        times = f" x {count} frames" if count > 1 else ""
        raise InputError(
            f"{source.name} has {image.width} x {image.height}{times} = {pixels / 1e6:.1f} million pixels; the "
            f"limit is {max_pixels / 1e6:.1f} million.",
            "Raise it with --max-pixels if you trust the file.",
        )


def _frame(
    open_again: Callable[[], ImageFile.ImageFile], image: ImageFile.ImageFile, index: int, notes: list[str]
) -> Frame:
    """Decode one frame; `image` is at frame `index` and decoded afterwards, so that its metadata is complete."""
    if index:
        image.seek(index)
    if is_deep(image):
        deep = read_deep(open_again)
        image.load()
        duration_ms = _duration_ms(image)
        if image.mode == "CMYK":
            raise ValueError("16-bit CMYK: convert it to 16-bit RGB first")
        if deep.shape[2] in {2, 4}:
            return Frame(deep[..., :-1], deep[..., -1], duration_ms)
        key = image.info.get("transparency")
        return Frame(deep, _keyed(deep, key) if key is not None else None, duration_ms)
    image.load()
    return replace(_shallow(image, notes), duration_ms=_duration_ms(image))


def _duration_ms(image: pil.Image) -> int:
    return int(image.info.get("duration") or 0)  # known once the frame is loaded


def _shallow(image: pil.Image, notes: list[str]) -> Frame:
    """Turn a decoded Pillow image of any mode into a Frame."""
    mode = image.mode
    key = image.info.get("transparency")
    if mode.startswith("I;16"):
        gray = np.asarray(image).astype(np.uint16)[..., None]
        return Frame(gray, _keyed(gray, key) if key is not None else None)
    if mode in {"I", "F"}:
        return Frame(_wide(np.asarray(image), notes)[..., None])
    if mode in {"RGBa", "La"}:
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[mode])
    elif mode in {"P", "PA"}:
        image = image.convert("RGBA" if key is not None or mode == "PA" else "RGB")
    elif key is not None and mode in {"1", "L", "RGB"}:
        image = image.convert("RGBA" if mode == "RGB" else "LA")
    elif mode == "1":
        image = image.convert("L")
    elif mode in {"CMYK", "LAB"}:
        image = _by_profile(image, notes)
    elif mode not in {"L", "LA", "RGB", "RGBA"}:
        image = image.convert("RGB")
    pixels = np.array(image)
    if pixels.ndim == 2:
        return Frame(pixels[..., None])
    return Frame(pixels[..., :-1], pixels[..., -1]) if pixels.shape[2] in {2, 4} else Frame(pixels)


def _wide(values: Pixels, notes: list[str]) -> Pixels:
    """Bring 32-bit gray to 16 bits if that loses nothing that the eye sees; anything else is not guessed."""
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        return values.astype(np.uint16)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        notes.append("floating-point pixels are kept as 16 bits")
        kept: Pixels = np.rint(values * 65535).astype(np.uint16)
        return kept
    raise ValueError(f"32-bit gray from {low:g} to {high:g}: scale it to 16 bits first")


def _by_profile(image: pil.Image, notes: list[str]) -> pil.Image:
    """Convert CMYK or Lab to sRGB, by the embedded profile where there is one."""
    srgb = ImageCms.createProfile("sRGB")
    profile: Any = ImageCms.createProfile("LAB") if image.mode == "LAB" else None
    if image.mode == "CMYK" and (icc := image.info.get("icc_profile")):
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        except (OSError, ImageCms.PyCMSError):
            notes.append("its colour profile is damaged and was not used")
    if profile is None:
        notes.append("CMYK without a profile: converted to RGB by the plain formula")
        return image.convert("RGB")
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    notes.append(f"converted from {image.mode} to sRGB")
    if converted is None:  # only when asked to convert in place
        raise ValueError("its colour profile cannot be applied")
    return converted


def _keyed(pixels: Pixels, key: Any) -> Pixels:
    """Alpha from the one colour that a PNG calls transparent."""
    clear: Pixels = np.all(pixels == np.asarray(key, pixels.dtype), axis=-1)
    alpha: Pixels = np.where(clear, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return alpha


def _metadata(image: ImageFile.ImageFile, notes: list[str]) -> Metadata:
    icc = None if image.mode in {"CMYK", "LAB"} else image.info.get("icc_profile")
    exif = None
    try:
        known = image.getexif()
        for tag in TIFF_LAYOUT:  # the orientation is one of them
            known.pop(tag, None)
        exif = known.tobytes() if len(known) else None
    except Exception:
        notes.append("its EXIF block is damaged and was left out")
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if xmp:
        xmp = re.sub(rb'(tiff:Orientation(?:="|>))\d', rb"\g<1>1", xmp)
    dpi = image.info.get("dpi")
    resolution = (float(dpi[0]), float(dpi[1])) if dpi and all(0 < float(value) < 1e6 for value in dpi) else None
    return Metadata(icc or None, exif, xmp or None, resolution)


def _orientation(image: pil.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1  # a damaged block; `_metadata` has a note on it
    return value if isinstance(value, int) else 1


def _turned(frame: Frame, orientation: int) -> Frame:
    """Apply an EXIF orientation (1 to 8; others mean nothing)."""

    def turn(a: Pixels) -> Pixels:
        if orientation in {5, 6, 7, 8}:
            a = a.swapaxes(0, 1)
        if orientation in {3, 4, 7, 8}:
            a = a[::-1]
        if orientation in {2, 3, 6, 7}:
            a = a[:, ::-1]
        return np.ascontiguousarray(a)

    return replace(frame, pixels=turn(frame.pixels), alpha=None if frame.alpha is None else turn(frame.alpha))


def _jp2_bits(data: bytes) -> int:
    """Return the bits a sample of a JPEG 2000: the first Ssiz of its SIZ marker (ISO 15444-1, A.5.1), 8 if unknown."""
    place = data.find(_CODESTREAM) + 42
    return (data[place] & 0x7F) + 1 if 42 <= place < len(data) else 8


def _extension_notes(source: Source, kind: str) -> list[str]:
    suffix = source.path.suffix.lower() if source.path else ""
    if suffix in SUFFIXES and suffix not in EXTENSIONS[kind]:
        return [f"its name ends in {suffix} but its content is {kind}, which counts"]
    return []


def _is_text(head: bytes) -> bool:
    try:
        return head.decode("utf-8", "strict").isprintable() or all(c >= 32 or c in b"\t\r\n\f" for c in head)
    except UnicodeDecodeError:
        return False
