"""What was read on the pages of one input, and the files that hold it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image as pil

from zoo_core.errors import ZooError
from zoo_core.io.atomic import whole, whole_folder
from zoo_htr.cutting import Cut
from zoo_htr.options import HTROptions
from zoo_htr.pages.alto_write import edit_alto, new_alto
from zoo_htr.pages.drawing import drawn
from zoo_htr.pages.hocr import new_hocr
from zoo_htr.pages.layout import Layout
from zoo_htr.pages.model import Box, Page, PageFile
from zoo_htr.pages.page_xml_write import edit_page_xml, new_page_xml
from zoo_htr.pages.pairing import stem_of
from zoo_htr.pages.pictures import Load
from zoo_htr.pages.placing import FRAME_PX, placed
from zoo_htr.pages.points import box_of
from zoo_htr.pages.tei import new_tei
from zoo_htr.pages.written import Level, Provenance, WrittenLine, WrittenPage
from zoo_htr.reading import Reading

LINE_SCHEMA = "zoo.htr.line/1"
ENDINGS = {
    "txt": ".txt",
    "json": ".jsonl",
    "csv": ".csv",
    "alto": ".alto.xml",
    "page": ".page.xml",
    "hocr": ".hocr",
    "tei": ".tei.xml",
}
_COLUMNS = ("page", "id", "text", "confidence", "no_error", "left", "top", "right", "bottom")
_SEVERAL = {"alto", "page"}  # formats of which several pages become a folder of files
_PAGE_BREAK = "\f"
MAX_DRAWN = 20  # pages on one drawing


@dataclass(frozen=True, eq=False)
class PageResult:
    """One page.

    Args:
        image_name: file name of its picture.
        size_px: height and width of the picture; (0, 0) if it could not be read.
        page: what its XML says, in that file's units; where lines were found, in pixels.
        layout: the same in pixels, every line complete.
        cuts: how each line was cut; None where that was not possible.
        readings: what was read on each line; None where it was not cut.
        load: reads the picture again, to draw on it.
        error: why the page could not be read, if so.
    """

    image_name: str
    size_px: tuple[int, int]
    page: Page
    layout: Layout
    cuts: tuple[Cut | None, ...]
    readings: tuple[Reading | None, ...]
    load: Load
    error: ZooError | None = None

    def lines(self) -> tuple[WrittenLine, ...]:
        """Return the lines with their text, in reading order, in pixels."""
        return tuple(map(placed, self.layout.page.lines, self.readings, self.cuts))

    def in_pixels(self) -> WrittenPage:
        """Return the page for a new file."""
        return WrittenPage(self.layout.page, self.lines(), self.image_name, self.size_px)

    def in_units(self) -> WrittenPage:
        """Return the page for its own file, in the units of that."""
        across, down = self.layout.scale

        def back(box: Box) -> Box:
            return box[0] / across, box[1] / down, box[2] / across, box[3] / down

        lines = []
        for line, pixels in zip(self.page.lines, self.lines(), strict=True):
            words = tuple(
                replace(w, box=back(w.box), glyphs=tuple(replace(g, box=back(g.box)) for g in w.glyphs))
                for w in pixels.words
            )
            lines.append(replace(pixels, line=line, words=words))
        return WrittenPage(self.page, tuple(lines), self.image_name, self.size_px)


@dataclass(frozen=True, eq=False)
class HTRResult:
    """What was read on one input.

    Attributes:
        name: of the input.
        pages: in order.
        file: the XML file that described them, which an output of its kind edits.
        provenance: what read the text.
        device: of the computation.
        precision: of the computation.
        seconds: of the computation, without reading and writing.
        notes: what was odd or guessed, in words for the user.
        options: what was asked for.
    """

    name: str
    pages: tuple[PageResult, ...]
    file: PageFile | None
    provenance: Provenance
    device: str
    precision: str
    seconds: float
    notes: tuple[str, ...]
    options: HTROptions

    @property
    def text(self) -> str:
        """All text: a line a line, pages parted by a form feed."""
        return f"{_PAGE_BREAK}\n".join("".join(f"{w.text}\n" for w in page.lines()) for page in self.pages)

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the lines, by their length; None if nothing was read."""
        pairs = [
            (r.confidence, len(r.chars)) for page in self.pages for r in page.readings if r is not None and r.chars
        ]
        total = sum(count for _, count in pairs)
        return sum(sure * count for sure, count in pairs) / total if total else None

    def as_dict(self) -> dict[str, Any]:
        """Return the text of every line with its place and confidences, and what there is to know about the run."""
        records = list(self._records())
        confidence = self.confidence
        return {
            "input": self.name,
            "model": self.provenance.model,
            "provenance": dict(self.provenance.settings),
            "xml": self.file.name if self.file else None,
            "text": self.text,
            "confidence": None if confidence is None else round(confidence, 4),
            "pages": [
                {
                    "page": number,
                    "image": page.image_name,
                    "size": list(page.size_px[::-1]),
                    "error": page.error.message if page.error else None,
                    "lines": [record for at, record in records if at == number],
                }
                for number, page in enumerate(self.pages, start=1)
            ],
            "device": self.device,
            "precision": self.precision,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """Return the content of the file in the format that was asked for; several files follow one another."""
        return "".join(data.decode("utf-8") for data in self._encoded())

    def save(self, path: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the text, and the drawing beside it if the options ask for one.

        Args:
            path: the file; its extension does not choose the format, the options do. Several pages in ALTO or PAGE
                become a folder of that name with numbered files, unless they came in one file of that kind.
            overwrite: replace existing files.

        Returns:
            the files or folders that were written.

        Raises:
            InputError: a file exists.
            ZooError: the folder cannot be written to, or the disk is full.
        """
        beside = path.with_name(drawing_name(path.name))
        if self.options.draw:
            # first the extra, then the result: what --skip-existing finds is complete
            self._save_drawing(beside, overwrite=overwrite)
        files = self._encoded()
        if len(files) == 1:
            with whole(path, overwrite=overwrite) as aside:
                aside.write_bytes(files[0])
        else:
            with whole_folder(path, overwrite=overwrite) as aside:
                for number, data in enumerate(files, start=1):
                    (aside / f"{number:05d}.xml").write_bytes(data)
        return (path, beside) if self.options.draw else (path,)

    def draw(self) -> pil.Image | None:
        """Return the first page with its lines and their text, None if it could not be read."""
        page = self.pages[0]
        return None if page.error else drawn(page.load().gray, page.lines())

    def _save_drawing(self, path: Path, *, overwrite: bool) -> None:
        """Write all drawn pages one below the other: one file a document."""
        sheets = [drawn(page.load().gray, page.lines()) for page in self.pages[:MAX_DRAWN] if not page.error]
        width, height = max((s.width for s in sheets), default=1), sum(s.height for s in sheets) or 1
        whole_sheet = pil.new("RGB", (width, height), "white")
        top = 0
        for sheet in sheets:
            whole_sheet.paste(sheet, (0, top))
            top += sheet.height
        with whole(path, overwrite=overwrite) as aside:
            whole_sheet.save(aside, "JPEG", quality=85)

    def _encoded(self) -> list[bytes]:
        """Return the files in the format of the options, one but for several pages in ALTO or PAGE."""
        kind = self.options.format
        if kind == "txt":
            return [self.text.encode("utf-8")]
        if kind == "json":
            known = {"model": self.provenance.model, **dict(self.provenance.settings)}
            lines = (json.dumps({**record, "read_by": known}, ensure_ascii=False) for _, record in self._records())
            return ["".join(f"{line}\n" for line in lines).encode("utf-8")]
        if kind == "csv":
            return [self._table().encode("utf-8")]
        level, made = self._level(), self.provenance
        if kind == "tei":
            pages = [page.in_pixels() for page in self.pages]
            return [new_tei(pages, title=stem_of(Path(self.name).name), provenance=made)]
        if kind == "hocr":
            return [new_hocr([page.in_pixels() for page in self.pages], level=level, provenance=made)]
        if self.file is not None and self.file.kind == kind:
            edit = edit_alto if kind == "alto" else edit_page_xml
            pages = [page.in_units() for page in self.pages if not page.error]
            return [edit(self.file, pages, level=level, provenance=made)]
        new = [page.in_pixels() for page in self.pages]
        if kind == "alto":
            return [new_alto([page], level=level, provenance=made) for page in new]
        return [new_page_xml(page, level=level, provenance=made) for page in new]

    def _table(self) -> str:
        """Return a line a row, with commas and a heading."""
        file = io.StringIO()
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for number, record in self._records():
            box = box_of(tuple((x, y) for x, y in record["polygon"]))
            place = ["" if box is None else str(round(value)) for value in box or (0, 0, 0, 0)]
            values = [number, *(record[key] for key in _COLUMNS[1:5]), *place]
            rows.writerow("" if value is None else value for value in values)
        return file.getvalue()

    def _level(self) -> Level:
        if self.options.string_level != "auto":
            return self.options.string_level
        return "line" if self.options.format == "page" else "word"

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of the page, from 1, and everything about a line."""
        for number, page in enumerate(self.pages, start=1):
            for written, reading, cut in zip(page.lines(), page.readings, page.cuts, strict=True):
                yield number, _record(self.name, number, written, reading, cut)


def file_name(stem: str, options: HTROptions, *, pages: int, kind: str | None) -> str:
    """Return the name of what an input gives.

    Args:
        stem: of the input.
        options: what was asked for.
        pages: how many the input has.
        kind: of the XML file that describes them, if there is one.
    """
    name = stem_of(f"{stem}.x") + (options.suffix or "")
    if options.format in _SEVERAL and pages > 1 and kind != options.format:
        return f"{name}_{options.format}"  # a folder
    return name + ENDINGS[options.format]


def drawing_name(name: str) -> str:
    """Return the name of the drawing beside a result of that name."""
    for ending in ENDINGS.values():
        name = name.removesuffix(ending)
    return f"{name}_lines.jpg"


def _record(source: str, page: int, written: WrittenLine, reading: Reading | None, cut: Cut | None) -> dict[str, Any]:
    line = written.line
    return {
        "schema": LINE_SCHEMA,
        "input": source,
        "page": page,
        "id": line.id,
        "text": written.text,
        "confidence": None if written.confidence is None else round(written.confidence, 4),
        "no_error": None if reading is None or reading.exact is None else round(reading.exact, 4),
        "tags": list(line.tags),
        "polygon": [[round(x), round(y)] for x, y in line.polygon],
        "baseline": [[round(x), round(y)] for x, y in line.baseline],
        "words": [
            {"text": w.text, "confidence": round(w.confidence, 4), "box": [round(v) for v in w.box]}
            for w in written.words
        ],
        # columns of the line's picture at the height of the network
        "chars": [
            {
                "text": char.text,
                "confidence": round(char.confidence, 4),
                "x": [char.start * FRAME_PX, char.end * FRAME_PX],
                "alternatives": [[text, round(p, 4)] for text, p in char.alternatives],
            }
            for char in (reading.chars if reading else ())
        ],
        "others": [[text, round(score, 3)] for text, score in (reading.others if reading else ())],
        "before_correction": (reading.before or None) if reading else None,
        "angle": round(cut.angle_degrees, 2) if cut else None,
    }
