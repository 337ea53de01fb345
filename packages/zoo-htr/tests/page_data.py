"""Where the real pages of the data packs are, and small made-up ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zoo_core.io.inputs import Source
from zoo_core.io.packs import packs_root
from zoo_htr.pages.model import PageFile
from zoo_htr.pages.read import read_pages
from zoo_htr.result import HTRResult

MODEL = "htr-jand-student"
ROOT = packs_root()
PAGES = ROOT / "htr" / "pages" if ROOT is not None else None
XML = sorted(PAGES.glob("*.xml")) if PAGES is not None else []
needs_pages = pytest.mark.skipif(not XML, reason="the data packs are not here (ZOO_PACKS)")
every_page = pytest.mark.parametrize(
    "path", XML or [pytest.param(None, marks=needs_pages)], ids=lambda path: path.name if path else "none"
)

# three lines, a text in each, on the picture of `page_picture`
LINES = "".join(
    f'<TextLine ID="l{n}" BASELINE="20 {60 + 80 * n} 380 {60 + 80 * n}" HPOS="20" VPOS="{20 + 80 * n}" WIDTH="360" '
    f'HEIGHT="55"><Shape><Polygon POINTS="20 {20 + 80 * n} 380 {20 + 80 * n} 380 {75 + 80 * n} 20 {75 + 80 * n}"/>'
    f'</Shape><String CONTENT="old {n}"/></TextLine>'
    for n in range(3)
)


def read(text: str | bytes, name: str = "made-up.xml") -> PageFile:
    """Read a made-up file."""
    return read_pages(Source(name, data=text.encode() if isinstance(text, str) else text))


def read_path(path: Path) -> PageFile:
    """Read a file of the packs."""
    return read_pages(Source(path.name, path))


def picture_of(path: Path) -> Path:
    """Return the picture of an XML file of the packs, whose stem is what comes before the first dot."""
    return path.with_name(path.name.split(".")[0] + ".jpg")


def alto(
    lines: str = "",
    *,
    page: str = 'WIDTH="400" HEIGHT="300"',
    unit: str = "pixel",
    file_name: str = "a.jpg",
    tags: str = "",
    namespace: str = ' xmlns="http://www.loc.gov/standards/alto/ns-v4#"',
    after: str = "",
) -> str:
    """Return an ALTO file with these lines in one block."""
    source = f"<sourceImageInformation><fileName>{file_name}</fileName></sourceImageInformation>" if file_name else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><alto{namespace}><Description><MeasurementUnit>{unit}'
        f"</MeasurementUnit>{source}</Description>{tags}{after}<Layout><Page {page} ID='p1'><PrintSpace>"
        f'<TextBlock ID="b1">{lines}</TextBlock></PrintSpace></Page></Layout></alto>'
    )


def page_xml(
    regions: str = "",
    *,
    version: str = "2013-07-15",
    page: str = 'imageFilename="a.jpg" imageWidth="400" imageHeight="300"',
    metadata: str = "",
) -> str:
    """Return a PAGE file with these regions."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/{version}">'
        f"<Metadata><Creator>a person</Creator><Created>2020-01-01T00:00:00</Created>"
        f"<LastChange>2020-01-01T00:00:00</LastChange>{metadata}</Metadata><Page {page}>{regions}</Page></PcGts>"
    )


def page_picture(lines: int = 3, size: tuple[int, int] = (300, 400)) -> np.ndarray:
    """Return a page (H, W) with rows of strokes, 80 px apart."""
    page = np.full(size, 210, np.uint8)
    for n in range(lines):
        for x in range(25, size[1] - 25, 14):
            page[35 + 80 * n + x % 9 : 60 + 80 * n, x : x + 4] = 40
    return page


def save(path: Path, picture: np.ndarray | None = None, **more: Any) -> Path:
    """Write a picture, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(page_picture() if picture is None else picture).save(path, **more)
    return path


def texts(result: HTRResult) -> list[list[str]]:
    """Return the texts of the lines, by pages."""
    return [[written.text for written in page.lines()] for page in result.pages]
