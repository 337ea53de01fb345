"""What one input is: the pages of a picture, of a PDF, or of an XML file with the pictures that it describes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo_core.errors import InputError, ZooError
from zoo_core.io.images import SUFFIXES, peek
from zoo_core.io.inputs import Source
from zoo_htr.pages.archive import is_zip
from zoo_htr.pages.model import Page, PageFile
from zoo_htr.pages.pairing import picture_for, xml_for
from zoo_htr.pages.pictures import PDF_DPI, Load, Picture, looks_like, pictures
from zoo_htr.pages.read import read_pages
from zoo_htr.pages.safe_xml import root_name

_PAGE_ELEMENT = re.compile(rb"<(?:\w+:)?Page[\s>]")


@dataclass(frozen=True)
class PageJob:
    """One page: the name of its picture, how that is read, and what its XML says of it, if there is one."""

    image_name: str
    load: Load
    page: Page | None = None


@dataclass(frozen=True)
class Document:
    """One input: its pages, the XML file that describes them, and remarks for the user."""

    name: str
    pages: tuple[PageJob, ...]
    file: PageFile | None = None
    notes: tuple[str, ...] = ()


def open_document(
    source: Source,
    *,
    with_xml: bool = True,
    folder: Path | None = None,
    table: Mapping[str, str] | None = None,
    dpi: int = PDF_DPI,
    max_pixels: int,
) -> Document:
    """Find out what an input is and where its pages are; pictures are read later, one by one.

    Args:
        source: a picture, a PDF, or an ALTO or PAGE file.
        with_xml: take the lines from XML, which for a picture is looked for beside it; without, XML inputs only lead to
            their pictures.
        folder: where the pictures of XML inputs are.
        table: names of XML files and their pictures.
        dpi: at which pages of a PDF are drawn.
        max_pixels: of one page.

    Raises:
        InputError: it cannot be used.
    """
    if is_zip(source):
        raise InputError(
            f"{source.name} is a zip archive, which may hold many pages.",
            "Give it to zoo predict or zoo_core.predict.run, or unpack it.",
        )
    if looks_like(source) is None:
        if Path(source.name).suffix.lower() in SUFFIXES and not root_name(source.head(4096)):
            peek(source)  # says what it is instead of a picture
        return _of_xml(source, None, with_xml=with_xml, folder=folder, table=table, dpi=dpi, max_pixels=max_pixels)
    beside = xml_for(source.path) if with_xml and source.path is not None else None
    if beside is not None and source.path is not None:
        # a picture out of an archive is called by its place in there, and so is its XML
        xml = Source(str(Path(source.name).parent / beside.relative_to(source.path.parent)), beside)
        found = _of_xml(xml, source.path, with_xml=True, folder=folder, table=table, dpi=dpi, max_pixels=max_pixels)
        return Document(source.name, found.pages, found.file, found.notes)
    loads = pictures(source, dpi=dpi, max_pixels=max_pixels)
    name = Path(source.name).name
    return Document(source.name, tuple(PageJob(name, load) for load in loads))


def count_pages(source: Source, *, dpi: int, max_pixels: int) -> int:
    """Return how many pages an input has, 1 if that cannot be told; never fails."""
    try:
        if looks_like(source) is not None:
            return len(pictures(source, dpi=dpi, max_pixels=max_pixels))
        return max(1, len(_PAGE_ELEMENT.findall(source.read_bytes())))
    except ZooError:
        return 1


def _of_xml(
    xml: Source,
    picture: Path | None,
    *,
    with_xml: bool,
    folder: Path | None,
    table: Mapping[str, str] | None,
    dpi: int,
    max_pixels: int,
) -> Document:
    file = read_pages(xml)
    jobs, notes = [], []
    for number, page in enumerate(file.pages):
        try:
            place, remark = (
                (picture, None) if picture else picture_for(xml, page.image_name, folder=folder, table=table)
            )
            loads = pictures(Source(str(place), place), dpi=dpi, max_pixels=max_pixels)
        except ZooError as error:
            if len(file.pages) == 1:
                raise
            jobs.append(PageJob(page.image_name, _failing(error), page if with_xml else None))
            continue
        if remark:
            notes.append(remark)
        assert place is not None  # noqa: S101 - picture_for raises instead
        # pages of one file may be the frames of one picture
        load = loads[min(number, len(loads) - 1)]
        jobs.append(PageJob(place.name, load, page if with_xml else None))
    return Document(xml.name, tuple(jobs), file if with_xml else None, tuple(dict.fromkeys(notes)))


def _failing(error: ZooError) -> Load:
    def load() -> Picture:
        raise error

    return load
