"""Where the real pages of the data packs are, and small made-up ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo_core.io.inputs import Source
from zoo_core.io.packs import packs_root
from zoo_htr.pages.model import PageFile
from zoo_htr.pages.read import read_pages

ROOT = packs_root()
PAGES = ROOT / "htr" / "pages" if ROOT is not None else None
XML = sorted(PAGES.glob("*.xml")) if PAGES is not None else []
needs_pages = pytest.mark.skipif(not XML, reason="the data packs are not here (ZOO_PACKS)")
every_page = pytest.mark.parametrize(
    "path", XML or [pytest.param(None, marks=needs_pages)], ids=lambda path: path.name if path else "none"
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
