"""16-bit colour in PNG and TIFF. Pillow keeps 8 bits of it; nothing here does, and no further library is needed.

Reading: Pillow's raw mode `RGB;16B` takes the first byte of each big-endian sample, `RGB;16L` the second. Decoding once
with each gives both halves, for every compression, interlacing and predictor that Pillow knows. Writing: both
formats are simple when one need not write all of their variants.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile, TiffImagePlugin

_ROWS = 256  # rows in one step of a writer
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}
# how a TIFF lays out its pixels is ours to say; only what describes the picture is carried over from the EXIF block
TIFF_LAYOUT = frozenset(
    (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296, 317, 322, 323, 324, 325, 338, 339)
)
_EXIF_IFD, _GPS_IFD = 34665, 34853


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a freshly opened image has 16-bit samples that Pillow is about to cut to 8."""
    return (
        image.mode not in {"I", "F"}
        and not image.mode.startswith("I;")
        and any(";16" in _rawmode(tile) for tile in image.tile)
    )


def read_deep(open_again: Callable[[], ImageFile.ImageFile]) -> NDArray[np.uint16]:
    """Decode all 16 bits of an image.

    Args:
        open_again: opens the file at the same frame; called twice.

    Returns:
        (H, W, C); C is 2 (gray, alpha), 3 or 4 as in the file.

    Raises:
        ValueError: a layout whose lower bytes cannot be reached.
    """
    first, second = open_again(), open_again()
    if _rawmode(first.tile[0]) == "LA;16B":
        # 4 bytes a pixel, the same as 8-bit RGBA: gray high, gray low, alpha high, alpha low
        first.tile = [tile._replace(args="RGBA") for tile in first.tile]
        quads = np.asarray(first).astype(np.uint16)
        return cast(NDArray[np.uint16], quads[..., 0::2] * 256 + quads[..., 1::2])
    other = []
    for tile in second.tile:
        mode = _rawmode(tile)
        if mode[-4:-1] != ";16" or mode[-1] not in _OTHER_BYTE:
            raise ValueError(f"16-bit layout {mode} is not supported")
        swapped = mode[:-1] + _OTHER_BYTE[mode[-1]]
        other.append(tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped))
    second.tile = other
    high = np.asarray(first).astype(np.uint16)
    high *= 256
    high += np.asarray(second)
    return high


def write_png(
    file: BinaryIO,
    pixels: NDArray[np.uint16],
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    software: str | None = None,
    level: int = 1,
) -> None:
    """Write (H, W, C) as a 16-bit PNG; C is 1 (gray), 2 (gray, alpha), 3 or 4. `level` is zlib's."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOUR[channels], 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", header)
    if icc:
        _chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    if dpi:
        _chunk(file, b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1))
    if software:
        _chunk(file, b"tEXt", b"Software\0" + software.encode("latin-1", "replace"))
    if xmp:
        _chunk(file, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    if exif:
        _chunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    packer = zlib.compressobj(level)
    for rows in _paeth(pixels):
        if data := packer.compress(rows):
            _chunk(file, b"IDAT", data)
    _chunk(file, b"IDAT", packer.flush())
    _chunk(file, b"IEND", b"")


def write_tiff(
    file: BinaryIO,
    pixels: NDArray[Any],
    *,
    icc: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    software: str | None = None,
) -> None:
    """Write (H, W, C), uint16 or uint8, as a TIFF, deflated with the horizontal predictor; C is 1 to 4, alpha last.

    Also for 8 bits, because Pillow fails on compressed ones with an EXIF block.
    """
    from PIL import Image

    if pixels.shape[2] == 2:  # gray with alpha is a kind that Pillow, among others, does not read
        pixels = pixels[..., [0, 0, 0, 1]]
    height, width, channels = pixels.shape
    tags = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    if exif:
        known = Image.Exif()
        known.load(exif)
        for tag, value in known.items():
            if tag not in TIFF_LAYOUT:
                tags[tag] = known.get_ifd(tag) if tag in {_EXIF_IFD, _GPS_IFD} else value
    strips = []
    for first in range(0, height, _ROWS):
        rows = pixels[first : first + _ROWS]
        steps = rows.copy()
        steps[:, 1:] -= rows[:, :-1]  # modulo 65536 (256), which is what the predictor is
        strips.append(zlib.compress(steps.astype(steps.dtype.newbyteorder("<"), copy=False).tobytes(), 6))
    # from the end of the tags, where Pillow counts from
    sizes = [len(strip) for strip in strips]
    offsets = [0, *accumulate(sizes)][:-1]
    tags.tagtype[273] = tags.tagtype[279] = 4
    tags[256], tags[257], tags[258], tags[259] = width, height, (8 * pixels.itemsize,) * channels, 8
    tags[262], tags[273], tags[277], tags[278], tags[279] = 1 if channels < 3 else 2, offsets, channels, _ROWS, sizes
    tags[284], tags[317] = 1, 2
    if channels == 4:
        tags[338] = 2  # alpha, not premultiplied
    if dpi:
        tags[282], tags[283], tags[296] = *dpi, 2
    if software:
        tags[305] = software
    if icc:
        tags.tagtype[34675] = 7
        tags[34675] = icc
    if xmp:
        tags.tagtype[700] = 1
        tags[700] = xmp
    file.write(b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8))
    for strip in strips:
        file.write(strip)


def _paeth(pixels: NDArray[np.uint16]) -> Iterator[bytes]:
    """Filter rows by type 4 (each byte minus the nearest of left, above and above-left), some rows at a time."""
    height, width, channels = pixels.shape
    step = channels * 2
    above = np.zeros(width * step, np.int16)
    for first in range(0, height, _ROWS):
        rows = np.ascontiguousarray(pixels[first : first + _ROWS], ">u2").view(np.uint8)
        here = rows.reshape(rows.shape[0], width * step).astype(np.int16)
        up = np.vstack([above[None], here[:-1]])
        left, corner = np.zeros_like(here), np.zeros_like(here)
        left[:, step:], corner[:, step:] = here[:, :-step], up[:, :-step]
        to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
        guess = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
        coded = np.full((here.shape[0], width * step + 1), 4, np.uint8)
        coded[:, 1:] = (here - guess).astype(np.uint8)
        above = here[-1]
        yield coded.tobytes()


def _chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))


def _rawmode(tile: ImageFile._Tile) -> str:
    args = tile.args
    return str(args[0] if isinstance(args, tuple) else args) if args else ""
