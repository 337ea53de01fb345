"""Pictures of pages, from files of every kind: gray, upright, as the cutter and the line finder take them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import InputError, MissingDependencyError
from zoo_core.io.images import Frame, peek, read_image, sniff
from zoo_core.io.inputs import Source

Gray: TypeAlias = NDArray[np.uint8]
PDF_DPI = 300
MAX_PDF_PAGES = 10_000
_LUMA = np.array([299, 587, 114], np.float32)  # thousandths (ITU-R BT.601)
_ONE_PDF_AT_A_TIME = threading.Lock()  # pdfium keeps state of its own


@dataclass(frozen=True, eq=False)
class Picture:
    """One page: uint8 (H, W); pixels an inch if the file says so; what was done to it, in words for the user."""

    gray: Gray
    dpi: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width."""
        return self.gray.shape[0], self.gray.shape[1]


Load: TypeAlias = Callable[[], Picture]


def is_pdf(source: Source) -> bool:
    """Whether a file is a PDF, by its content."""
    return source.head(16).startswith(b"%PDF")


def pictures(source: Source, *, dpi: int = PDF_DPI, max_pixels: int) -> list[Load]:
    """Return for each page of a picture or PDF a function that reads it, so that one page at a time is in memory.

    Args:
        source: a picture, a TIFF of several pages, or a PDF.
        dpi: pixels an inch at which pages of a PDF are drawn.
        max_pixels: of one page.

    Raises:
        InputError: it cannot be used; the functions raise it too.
        MissingDependencyError: a PDF, and pypdfium2 is not installed.
    """
    if is_pdf(source):
        return _pdf_pages(source, dpi, max_pixels)
    header = peek(source)
    count = header.frames if header.format == "tiff" else 1
    return [_frame_reader(source, number, max_pixels) for number in range(count)]


def as_gray(frame: Frame, notes: list[str] | None = None) -> Gray:
    """Return a frame as uint8 (H, W): alpha on white, 16 bits stretched between their extremes, colours to luma."""
    pixels = frame.pixels
    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels, (0.1, 99.9))
        if notes is not None:
            notes.append("16 bits a channel were stretched to 8")
        pixels = np.clip((pixels - low) / max(high - low, 1e-9) * 255, 0, 255).round().astype(np.uint8)
    if pixels.shape[2] == 1:
        gray = pixels[..., 0]
    else:
        # whole numbers below 2^24, which float32 adds exactly, and fast
        gray = ((pixels.astype(np.float32) @ _LUMA + 500) / 1000).astype(np.uint8)
    if frame.alpha is not None:
        alpha = frame.alpha.astype(np.float32)
        alpha /= 1 if frame.alpha.dtype.kind == "f" else np.iinfo(frame.alpha.dtype).max
        gray = np.rint(gray * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return cast(Gray, gray)


def _frame_reader(source: Source, number: int, max_pixels: int) -> Load:
    def load() -> Picture:
        image = read_image(source, max_pixels=max_pixels, frame=number)
        notes = [note for note in image.notes if "--all-frames" not in note]
        gray = as_gray(image.frames[0], notes)
        dpi = image.metadata.dpi[0] if image.metadata.dpi else None
        return Picture(gray, dpi if dpi and dpi > 1 else None, tuple(notes))

    return load


def _pdf_pages(source: Source, dpi: int, max_pixels: int) -> list[Load]:
    pdfium = _pdfium()
    data = source.read_bytes()
    with _ONE_PDF_AT_A_TIME:
        document = _open_pdf(pdfium, source, data)
        try:
            count = len(document)
        finally:
            document.close()
    if not 1 <= count <= MAX_PDF_PAGES:
        raise InputError(f"{source.name} has {count} pages; 1 to {MAX_PDF_PAGES} are read.", "Cut it into parts.")

    def reader(number: int) -> Load:
        def load() -> Picture:
            with _ONE_PDF_AT_A_TIME:
                opened = _open_pdf(pdfium, source, data)
                try:
                    return _draw(pdfium, opened, number, source.name, dpi, max_pixels)
                finally:
                    opened.close()

        return load

    return [reader(number) for number in range(count)]


def _draw(pdfium: Any, document: Any, number: int, name: str, dpi: int, max_pixels: int) -> Picture:
    try:
        page = document[number]
        width, height = page.get_size()  # points, 72 an inch
        pixels = width * height * (dpi / 72) ** 2
        if pixels > max_pixels:
            raise InputError(
                f"{name}, page {number + 1} would have {pixels / 1e6:.0f} million pixels at {dpi} dpi; the limit is "
                f"{max_pixels / 1e6:.0f} million.",
                "Lower --pdf-dpi.",
            )
        drawn = page.render(scale=dpi / 72, grayscale=True).to_pil()
    except pdfium.PdfiumError as error:
        raise InputError(f"{name}, page {number + 1} cannot be drawn ({error}).", "Print it to a new PDF.") from error
    return Picture(np.array(drawn.convert("L")), float(dpi))


def _open_pdf(pdfium: Any, source: Source, data: bytes) -> Any:
    try:
        return pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        reason = "it needs a password" if "password" in str(error).lower() else str(error)
        raise InputError(f"{source.name} cannot be opened as a PDF ({reason}).", "Print it to a new PDF.") from error


def _pdfium() -> Any:
    try:
        import pypdfium2
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "Reading a PDF needs pypdfium2, which is not installed.", "pip install 'zoo-htr[pdf]'"
        ) from error
    return pypdfium2


def looks_like(source: Source) -> str | None:
    """Return "picture", "pdf" or None for a file, by its content."""
    if is_pdf(source):
        return "pdf"
    return "picture" if sniff(source.head()) is not None else None
