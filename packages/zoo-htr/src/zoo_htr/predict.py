"""Read pages of handwriting: the Predictor of the HTR models."""

from __future__ import annotations

import copy
import logging
import shutil
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import numpy as np
import torch
from PIL import Image as pil
from torch import Tensor, nn

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import InputError, UsageError, ZooError
from zoo_core.io.images import SUFFIXES, Frame
from zoo_core.io.inputs import Source
from zoo_core.options import Options
from zoo_core.predict import DTYPES, Predictor, Progress, as_source, silent
from zoo_htr import kraken, normalise
from zoo_htr.cautions import double_lines, long_lines
from zoo_htr.cutting import Cut, cut, uncut
from zoo_htr.decode import Decoder
from zoo_htr.finding import find_lines, has_several_lines
from zoo_htr.finding.ink import is_light_on_dark
from zoo_htr.fingerprint import fingerprint
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.options import HTROptions
from zoo_htr.pages.archive import is_zip, unpack
from zoo_htr.pages.document import Document, PageJob, count_pages, open_document
from zoo_htr.pages.layout import Layout, lay_out
from zoo_htr.pages.model import Kind, Line, Page
from zoo_htr.pages.order import by_place
from zoo_htr.pages.pairing import described_by, read_table, twins, xml_for
from zoo_htr.pages.pictures import Gray, Picture, as_gray
from zoo_htr.pages.points import corners
from zoo_htr.pages.read import kind_of
from zoo_htr.pages.written import Provenance
from zoo_htr.recognise import LineReader
from zoo_htr.result import HTRResult, PageResult, drawing_name, file_name
from zoo_htr.room import is_tight, with_room

LOG = logging.getLogger("zoo_htr")
LINE_HEIGHT_PX = 256  # a picture as low as that is one line
LINE_ASPECT = 5.0  # so is one as wide as that for its height
_EMPTY = Page(())


@dataclass(frozen=True, eq=False)
class PreparedPage:
    """One page, its lines cut."""

    job: PageJob
    size_px: tuple[int, int]
    page: Page
    layout: Layout
    cuts: tuple[Cut | None, ...]
    notes: tuple[str, ...] = ()
    error: ZooError | None = None


@dataclass(frozen=True, eq=False)
class Read:
    """What the network gave for each line that was cut, by pages, and how long it took."""

    pages: tuple[tuple[PreparedPage, list[Tensor]], ...]
    seconds: float


class HTRPredictor(Predictor[Document, Iterable[PreparedPage], Read]):
    """Reads pictures of pages and lines, PDFs, and pages that ALTO or PAGE files describe."""

    suffixes = SUFFIXES | {".xml", ".pdf"}
    options: HTROptions

    def __init__(
        self, entry: CatalogEntry, module: nn.Module, *, device: torch.device, precision: str, options: HTROptions
    ) -> None:
        super().__init__(entry, module, device=device, precision=precision, options=options)
        network = cast(HTRJAND, module)
        quick = network if precision in ("fp32", "int8") else copy.deepcopy(network).to(DTYPES[precision])
        self._decoder = Decoder.by_options(entry, network, options)
        self._reader = LineReader(
            quick,
            device=device,
            deterministic=options.deterministic,
            precision=precision,
            bounds=self._decoder.bounds,
        )
        self._table = read_table(options.image_map) if options.image_map else None

    @classmethod
    def check(cls, entry: CatalogEntry, options: Options) -> None:
        """Refuse a segmenter that is not installed, and a folder or table that is not there."""
        assert isinstance(options, HTROptions)  # noqa: S101 - for the type checker; the manifest names this class
        if options.segmenter == "kraken":
            kraken.program(options.kraken)
        if options.image_dir is not None and not options.image_dir.is_dir():
            raise UsageError(f"--image-dir {options.image_dir} is no folder.", "Name the folder of the pictures.")

    def predict(self, source: Any) -> HTRResult:
        """Read one input.

        Args:
            source: a path, the bytes of a file, a Pillow image, or an array (H, W), (H, W, 1) or (H, W, 3) of uint8.

        Raises:
            InputError: it cannot be used.
        """
        if not isinstance(source, (np.ndarray, pil.Image)):
            return cast(HTRResult, super().predict(as_source(source)))
        picture = _from_memory(source)
        document = Document("image", (PageJob("image", lambda: picture),))
        with torch.inference_mode():
            output = self.forward(self.prepare(document))
        return self.finish(document, output)

    def select(self, sources: list[Source]) -> list[Source]:
        """Unpack archives, and of what was found in folders and archives take every page once.

        Left out are XML of other kinds, pictures whose XML is an input too, and XML of a page that other XML describes.
        """
        given = [inside for source in sources for inside in self._unpacked(source)]
        xml = [s.path for s in given if s.path is not None and s.path.suffix.lower() == ".xml"]
        pictures = filter(None, map(described_by, xml))
        described = {path.resolve() for path in pictures}
        prefer: Kind | None = {"alto": "alto", "page": "page"}.get(self.options.format)  # type: ignore[assignment]
        found = [s.path for s in given if not s.named and s.path in set(xml)]
        again = set(twins(found, prefer=prefer))
        kept = []
        for source in given:
            if not source.named and source.path is not None:
                if source.path in again:
                    LOG.info("%s describes a page that is read by other XML: left out", source.name)
                    continue
                if source.path.suffix.lower() == ".xml" and kind_of(source) is None:
                    LOG.info("%s is neither ALTO nor PAGE: left out", source.name)
                    continue
                if source.path.resolve() in described:
                    continue
            kept.append(source)
        return kept

    def _unpacked(self, source: Source) -> list[Source]:
        """Return the files of an archive, or what is none as it is; the folder goes with the predictor."""
        if source.problem is not None or not is_zip(source):
            return [source]
        place = Path(mkdtemp(prefix="zoo-"))
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        try:
            return unpack(source, place / source.stem)
        except ZooError as error:
            problem = InputError(error.message, error.remedy)
            return [Source(source.name, problem=problem)]

    def read(self, source: Source) -> Iterator[Document]:
        """Find the pages of an input; their pictures are read when it is their turn."""
        yield open_document(
            source,
            with_xml=self.options.segmenter == "auto",
            folder=self.options.image_dir,
            table=self._table,
            dpi=self.options.pdf_dpi,
            max_pixels=self.options.max_pixels,
        )

    def prepare(self, item: Document) -> Iterable[PreparedPage]:
        """Cut the lines of a page beside the computation; of several pages each when it is its turn, to save memory."""
        if len(item.pages) > 1:
            return (self._page_or_error(job) for job in item.pages)
        return [self._page(item.pages[0])]

    def forward(self, prepared: Iterable[PreparedPage], *, progress: Progress = silent) -> Read:
        """Run the network over the lines, a page at a time."""
        pages, seconds = [], 0.0
        for page in prepared:
            start = time.perf_counter()
            lines = [made.image for made in page.cuts if made is not None]
            pages.append((page, self._reader.log_probs(lines) if lines else []))
            seconds += time.perf_counter() - start
            progress(len(pages) / (len(pages) + 1))
        progress(1.0)
        return Read(tuple(pages), seconds)

    def finish(self, item: Document, output: Read) -> HTRResult:
        """Decode the lines and put them on their pages."""
        pages, notes = [], list(item.notes)
        for number, (page, log_probs) in enumerate(output.pages, start=1):
            read = iter(self._decoder.read(log_probs))
            readings = tuple(next(read) if made is not None else None for made in page.cuts)
            pages.append(
                PageResult(
                    page.job.image_name,
                    page.size_px,
                    page.page,
                    page.layout,
                    page.cuts,
                    readings,
                    page.job.load,
                    page.error,
                )
            )
            where = f"page {number}: " if len(output.pages) > 1 else ""
            said = [*page.layout.notes, *page.notes]
            if page.error is not None:
                said.append(f"left empty: {page.error.message}")
            elif not page.cuts:
                said.append("no lines were found")
            notes += [where + note for note in said]
        if all(page.error is not None for page in pages):
            raise cast(ZooError, pages[0].error)
        return HTRResult(
            name=item.name,
            pages=tuple(pages),
            file=item.file,
            provenance=self._provenance,
            device=str(self.device),
            precision=self.precision,
            seconds=output.seconds,
            notes=tuple(dict.fromkeys(notes)),
            options=self.options,
        )

    def file_names(self, source: Source) -> tuple[str, ...]:
        """Return the input's stem with the ending of the format, and the name of the drawing if there is one."""
        options = self.options
        kind = kind_of(source)
        if kind is None and options.segmenter == "auto" and source.path is not None:
            beside = xml_for(source.path)
            kind = kind_of(Source(str(beside), beside)) if beside is not None else None
        pages = 1
        if options.format in {"alto", "page"}:
            pages = count_pages(source, dpi=options.pdf_dpi, max_pixels=options.max_pixels)
        name = file_name(source.stem, options, pages=pages, kind=kind if options.segmenter == "auto" else None)
        return (name, drawing_name(name)) if options.draw else (name,)

    def _page_or_error(self, job: PageJob) -> PreparedPage:
        """Prepare a page; one that fails becomes an empty one, so that the others of the document are read."""
        try:
            return self._page(job)
        except InputError as error:
            page = job.page or _EMPTY
            layout = Layout(replace(page, lines=()), (1.0, 1.0), ())
            return PreparedPage(job, (0, 0), replace(page, lines=()), layout, (), error=error)

    def _page(self, job: PageJob) -> PreparedPage:
        picture = job.load()
        gray, notes = picture.gray, list(picture.notes)
        if min(gray.shape) < 1:
            raise InputError(f"{job.image_name} has no pixels.")
        if job.page is None and self._is_line(gray):
            return self._line(job, picture, notes)
        if is_light_on_dark(gray):
            notes.append("light ink on a dark ground: turned round")
            gray = 255 - gray
        page = job.page if job.page is not None else self._found(gray)
        if self.options.reading_order == "geometric":
            page = by_place(page)
        layout = lay_out(page, picture.size_px, picture.dpi)
        cuts: list[Cut | None] = []
        for line in layout.page.lines:
            cuts.append(_cut(gray, line, notes))
        notes += long_lines(layout.page.lines, cuts) + double_lines(layout.page.lines, cuts)
        return PreparedPage(job, picture.size_px, page, layout, tuple(cuts), tuple(notes))

    def _line(self, job: PageJob, picture: Picture, notes: list[str]) -> PreparedPage:
        """Prepare a picture that is one line."""
        height, width = picture.size_px
        box = (0.0, 0.0, width - 1.0, height - 1.0)
        foot = 0.75 * height
        line = Line("line_1", corners(box), ((0.0, foot), (width - 1.0, foot)))
        page = Page((line,), width=width, height=height)
        layout = Layout(page, (1.0, 1.0), ())
        if min(height, width) < 8:
            notes.append(f"a picture of {width} x {height} pixels is too small to hold writing")
        elif has_several_lines(picture.gray):
            notes.append("there seem to be several lines on it; --segmenter own looks for them")
        tight = min(height, width) >= 8 and is_tight(picture.gray)
        if tight:
            notes.append(
                "the letters fill the picture's height: paper was added"
                if self.options.fit_lines
                else "the letters fill the picture's height, which reads badly: --fit-lines gives them room"
            )
        made = with_room(picture.gray) if tight and self.options.fit_lines else uncut(picture.gray)
        notes += long_lines(page.lines, [made])
        return PreparedPage(job, picture.size_px, page, layout, (made,), tuple(notes))

    def _is_line(self, gray: Gray) -> bool:
        if self.options.segmenter != "auto":
            return self.options.segmenter == "line"
        height, width = gray.shape
        return bool(height <= LINE_HEIGHT_PX or width >= LINE_ASPECT * height)

    def _found(self, gray: Gray) -> Page:
        if self.options.segmenter == "kraken":
            return kraken.find_lines(gray, command=self.options.kraken)
        return find_lines(gray)

    @cached_property
    def _provenance(self) -> Provenance:
        settings = (
            ("weights", fingerprint(self.module)),
            ("normaliser", str(normalise.VERSION)),
            ("engine", self._reader.described),
            ("decoder", self._decoder.described),
            ("language model", self._decoder.language.name if self._decoder.language else "none"),
        )
        return Provenance("zoo-htr", version("zoo-htr"), self.manifest.id, settings)


def _cut(page: Gray, line: Line, notes: list[str]) -> Cut | None:
    if not line.polygon:
        return None
    try:
        return cut(page, line.polygon, line.baseline)
    except InputError as error:
        notes.append(f"line {line.id or line.place + 1}: {error.message}")
        return None


def _from_memory(given: Any) -> Picture:
    """Turn a Pillow image or an array into a picture."""
    if isinstance(given, pil.Image):
        given = np.asarray(given if given.mode in {"L", "LA", "RGB", "RGBA"} else given.convert("RGB"))
    pixels = given[..., None] if given.ndim == 2 else given
    if pixels.ndim != 3 or pixels.shape[2] not in {1, 2, 3, 4} or pixels.dtype != np.uint8 or pixels.size == 0:
        raise InputError(
            f"An array of shape {given.shape} and type {given.dtype} is no picture.", "Give (H, W) or (H, W, 3) uint8."
        )
    alpha = pixels[..., -1] if pixels.shape[2] in {2, 4} else None
    return Picture(as_gray(Frame(pixels if alpha is None else pixels[..., :-1], alpha)))
