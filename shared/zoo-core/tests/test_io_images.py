"""Any picture is read without loss and written without loss, and a bad one is a sentence.

Reference readers: Pillow for 8 bits, tifffile (a dependency of scikit-image) for 16-bit TIFF.
"""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil
from PIL import ImageCms, ImageOps, PngImagePlugin

from zoo_core.errors import InputError
from zoo_core.io import sixteen_bit
from zoo_core.io.images import Frame, Image, Metadata, Pixels, peek, read_image, sniff
from zoo_core.io.inputs import Source
from zoo_core.io.writers import Format, as_same, losses, write_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def file_of(picture: pil.Image, kind: str, **extra: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **extra)
    return file.getvalue()


def read(data: bytes, name: str = "a.png", **extra: Any) -> Image:
    return read_image(Source(name, Path(name), data=data), **extra)


def written(image: Image, kind: Format, **extra: Any) -> bytes:
    file = io.BytesIO()
    write_image(file, image, kind, **extra)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind", "channels", "alpha"),
    [
        ("1", "PNG", 1, False), ("L", "PNG", 1, False), ("LA", "PNG", 1, True), ("RGB", "PNG", 3, False),
        ("RGBA", "PNG", 3, True), ("RGB", "BMP", 3, False), ("RGB", "PPM", 3, False), ("L", "TIFF", 1, False),
        ("RGBA", "TIFF", 3, True), ("RGB", "GIF", 3, False), ("L", "JPEG2000", 1, False), ("LA", "JPEG2000", 1, True),
        ("RGB", "JPEG2000", 3, False), ("RGBA", "JPEG2000", 3, True),
    ],
)  # fmt: skip
def test_eight_bit_modes_keep_every_value(mode: str, kind: str, channels: int, alpha: bool) -> None:
    picture = pil.fromarray(noise(9, 7, 4), "RGBA").convert(mode)
    if kind == "GIF":
        picture = picture.convert("P")
    (frame,) = read(file_of(picture, kind)).frames
    expected = np.asarray(picture.convert({"1": "L", "P": "RGB"}.get(picture.mode, picture.mode)))
    assert frame.pixels.shape == (9, 7, channels)
    assert (frame.alpha is not None) == alpha
    np.testing.assert_array_equal(frame.joined().squeeze(), expected)


@pytest.mark.parametrize("bare", [False, True], ids=["file", "codestream"])
def test_jpeg_2000_keeps_16_bits_of_gray_and_says_that_it_loses_those_of_colour(bare: bool) -> None:
    gray = noise(40, 30, dtype=np.uint16)
    data = file_of(pil.fromarray(gray), "JPEG2000", no_jp2=bare)
    image = read(data, "scan.jp2")
    assert (image.format, image.notes) == ("jp2", ())
    np.testing.assert_array_equal(image.frames[0].pixels[..., 0], gray)
    ramp = np.arange(128, dtype=np.uint16) * 400
    down = ramp[:, None] // 4
    deep = np.stack([ramp + down, ramp[::-1] + down, ramp + 0 * down], 2)
    image = read(cv2.imencode(".jp2", deep)[1].tobytes(), "scan.jp2")
    assert "colour of more than 8 bits in a JPEG 2000 is read as 8" in image.notes[0]
    np.testing.assert_allclose(image.frames[0].pixels[..., ::-1], deep >> 8, atol=2)  # the writer is not lossless


def test_a_palette_with_transparency_becomes_colours_and_alpha() -> None:
    picture = pil.fromarray(noise(8, 8) % 4, "P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    (frame,) = read(file_of(picture, "PNG", transparency=2)).frames
    assert frame.alpha is not None
    np.testing.assert_array_equal(frame.alpha == 0, np.asarray(picture) == 2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_survive_writing_and_reading(channels: int, kind: Format) -> None:
    pixels = noise(300, 41, channels, dtype=np.uint16)  # more rows than one step of the writers
    colours = pixels[..., : channels - 1 if channels in {2, 4} else channels]
    frame = Frame(colours, pixels[..., -1] if channels in {2, 4} else None)
    back = read(written(Image((frame,)), kind), f"a.{kind}")
    assert back.frames[0].pixels.dtype == np.uint16
    if kind == "tiff" and channels == 2:  # Pillow does not read 16-bit gray with alpha: it goes as colours
        pixels = pixels[..., [0, 0, 0, 1]]
    np.testing.assert_array_equal(back.frames[0].joined(), pixels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bit_tiff_of_others_is_read_whole(order: Any, compression: str | None) -> None:
    pixels = noise(33, 20, 3, dtype=np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", byteorder=order, compression=compression)
    np.testing.assert_array_equal(read(file.getvalue(), "a.tif").frames[0].pixels, pixels)


def test_others_read_our_sixteen_bit_tiff() -> None:
    pixels = noise(300, 20, 4, dtype=np.uint16)
    metadata = Metadata(icc=SRGB, xmp=b"<x:xmpmeta/>", dpi=(300, 300))
    data = written(Image((Frame(pixels[..., :3], pixels[..., 3]),), metadata=metadata), "tiff", software="zoo")
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), pixels)
        assert tiff.pages[0].tags["Software"].value == "zoo"
    again = read(data, "a.tif").metadata
    assert (again.icc, again.xmp, again.dpi) == (SRGB, b"<x:xmpmeta/>", (300, 300))


def test_interlaced_sixteen_bit_png_is_read_whole() -> None:
    """Golden: a 1 x 1 interlaced PNG put together by hand from the specification (its first pass holds the pixel)."""
    rows = zlib.compress(b"\0" + struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 1)), (b"IDAT", rows), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    assert read(data).frames[0].pixels.tolist() == [[[0x1234, 0x5678, 0x9ABC]]]


def test_sixteen_bit_gray_and_a_transparent_colour() -> None:
    gray = noise(6, 5, dtype=np.uint16)
    assert np.array_equal(read(file_of(pil.fromarray(gray), "PNG")).frames[0].pixels[..., 0], gray)
    assert np.array_equal(read(file_of(pil.fromarray(gray), "TIFF"), "a.tif").frames[0].pixels[..., 0], gray)


def test_gray_of_thirty_two_bits_is_kept_or_refused_but_never_guessed() -> None:
    kept = read(file_of(pil.fromarray(np.array([[0, 65535]], np.int32)), "TIFF"), "a.tif")
    assert kept.frames[0].pixels.tolist() == [[[0], [65535]]]
    kept = read(file_of(pil.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF"), "a.tif")
    assert kept.frames[0].pixels.tolist() == [[[0], [32768], [65535]]]
    assert any("floating-point" in note for note in kept.notes)
    with pytest.raises(InputError, match="scale it to 16 bits first"):
        read(file_of(pil.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"), "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_and_its_tag_dropped(orientation: int, kind: str) -> None:
    """Reference: Pillow's exif_transpose."""
    exif = pil.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a garden"
    data = file_of(pil.fromarray(noise(8, 12, 3)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    image = read(data, f"a.{kind.lower()}")
    expected = np.asarray(ImageOps.exif_transpose(pil.open(io.BytesIO(data))))
    np.testing.assert_array_equal(image.frames[0].pixels, expected)
    left = pil.Exif()
    left.load(image.metadata.exif or b"")
    assert 0x0112 not in left
    assert left[0x010E] == "a garden"


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_metadata_goes_with_the_picture(kind: Format, dtype: Any) -> None:
    exif = pil.Exif()
    exif[0x010E], exif[0x013B] = "a garden", "Ada"
    exif.get_ifd(0x8769)[0xA002] = 5
    metadata = Metadata(SRGB, exif.tobytes(), b"<x:xmpmeta>tiff:Make</x:xmpmeta>", (240.0, 240.0))
    data = written(Image((Frame(noise(16, 20, 3, dtype=dtype)),), metadata=metadata), kind, software="zoo 1")
    back = read(data, f"a.{kind}").metadata
    assert back.icc == SRGB
    assert back.xmp == metadata.xmp
    if kind != "webp":
        assert back.dpi == pytest.approx((240, 240), abs=0.02)
    found = pil.Exif()
    found.load(back.exif or b"")
    assert (found[0x010E], found[0x013B], found[0x0131]) == ("a garden", "Ada", "zoo 1")
    assert found.get_ifd(0x8769)[0xA002] == 20  # the width is the new one


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_damaged_exif_block_is_left_out_with_a_note() -> None:
    data = file_of(pil.fromarray(noise(8, 8, 3)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    image = read(data, "a.jpg")
    assert image.frames[0].size == (8, 8)


def test_cmyk_is_converted() -> None:
    picture = pil.fromarray(noise(8, 8, 3)).convert("CMYK")
    image = read(file_of(picture, "TIFF"), "a.tif")
    np.testing.assert_array_equal(image.frames[0].pixels, np.asarray(picture.convert("RGB")))
    assert any("without a profile" in note for note in image.notes)


def test_the_content_counts_not_the_name() -> None:
    image = read(file_of(pil.fromarray(noise(4, 4, 3)), "JPEG"), "a.png")
    assert image.format == "jpg"
    assert image.notes == ("its name ends in .png but its content is jpg, which counts",)


def animation(kind: str) -> bytes:
    frames = [pil.fromarray(np.full((6, 5, 3), 80 * i, np.uint8)) for i in range(3)]
    return file_of(
        frames[0], kind, save_all=True, append_images=frames[1:], **({} if kind == "TIFF" else {"duration": 40})
    )


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_frame_with_a_note_or_all(kind: str) -> None:
    data = animation(kind)
    assert peek(Source("a", data=data)).frames == 3
    first = read(data, f"a.{kind.lower()}")
    assert len(first.frames) == 1
    assert any("--all-frames" in note for note in first.notes)
    every = read(data, f"a.{kind.lower()}", all_frames=True)
    values = [int(frame.pixels[0, 0, 0]) for frame in every.frames]
    assert values == pytest.approx([0, 80, 160], abs=3)  # WebP is lossy
    again = read(written(every, as_same(every.format, animated=True)), f"a.{kind.lower()}", all_frames=True)
    assert [int(frame.pixels[0, 0, 0]) for frame in again.frames] == pytest.approx([0, 80, 160], abs=6)
    if kind != "TIFF":
        assert [frame.duration_ms for frame in again.frames] == [40, 40, 40]


def test_what_a_format_cannot_hold_is_said() -> None:
    deep = Image((Frame(noise(4, 4, 3, dtype=np.uint16), noise(4, 4, dtype=np.uint16)),))
    assert losses(deep, "png") == []
    assert len(losses(deep, "jpg")) == 2
    assert read(written(deep, "jpg"), "a.jpg").frames[0].alpha is None
    with pytest.raises(InputError, match="webp ends at 16383 a side"):
        written(Image((Frame(np.zeros((1, 17000, 3), np.uint8)),)), "webp")


def bomb() -> bytes:
    """A PNG of 200 bytes whose header promises 90 000 x 90 000 pixels."""
    data = bytearray(file_of(pil.new("1", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", 90_000, 90_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


PNG = file_of(pil.fromarray(noise(64, 64, 3)), "PNG")
JPEG = file_of(pil.fromarray(noise(64, 64, 3)), "JPEG")
JPEG2000 = file_of(pil.fromarray(noise(64, 64, 3)), "JPEG2000")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"just some words\n", "its content is text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"<svg xmlns=''/>", "an SVG drawing or XML"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC photo"),
        (b"\0\1\2\3\4", "of an unknown kind"),
        (PNG[: len(PNG) // 2], "truncated, damaged or of a rare kind"),
        (JPEG[: len(JPEG) // 2], "truncated, damaged or of a rare kind"),
        (PNG[:20], "truncated, damaged or of a rare kind"),
        (PNG[:200] + b"\xff" * 50 + PNG[250:], "truncated, damaged or of a rare kind"),
        (bomb(), "8100.0 million pixels; the limit is 100.0 million. Raise it with --max-pixels"),
    ],
)
def test_a_bad_file_is_one_sentence_with_its_name_and_a_remedy(data: bytes, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read(data)
    assert "a.png" in caught.value.message
    assert says in str(caught.value)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_programs_are_never_started_by_a_picture() -> None:
    """Pillow runs Ghostscript for EPS; such a file is not even tried."""
    assert sniff(b"%!PS-Adobe-3.0 EPSF-3.0") is None


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([PNG, JPEG, JPEG2000, animation("GIF"), animation("WEBP"), animation("TIFF")]), st.data())
def test_damage_is_a_sentence_or_a_picture(data: bytes, draw: st.DataObject) -> None:
    """No damaged byte may raise anything but InputError, or hang."""
    broken = bytearray(data)
    for place in draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8)):
        broken[place] ^= draw.draw(st.integers(1, 255))
    try:
        read(bytes(broken), max_pixels=10**6, all_frames=True)
    except InputError as error:
        assert "a.png" in error.message  # noqa: PT017 (most damage raises nothing)


def test_layouts_that_cannot_be_read_whole_are_refused() -> None:
    class Planar:
        mode = "RGB"
        tile: ClassVar = [PngImagePlugin.ImageFile._Tile("raw", (0, 0, 1, 1), 0, "R;16X")]

    opener: Callable[[], Any] = Planar
    with pytest.raises(ValueError, match="not supported"):
        sixteen_bit.read_deep(opener)
