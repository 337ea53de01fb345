"""Write a TEI skeleton: text with line beginnings that point at their places on the facsimile, for an edition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lxml import etree

from zoo_htr.pages.ids import Ids
from zoo_htr.pages.points import as_text
from zoo_htr.pages.safe_xml import Element, writable
from zoo_htr.pages.written import Provenance, WrittenPage

_NAMESPACE = "http://www.tei-c.org/ns/1.0"
_ID = "{http://www.w3.org/XML/1998/namespace}id"


def new_tei(pages: Sequence[WrittenPage], *, title: str, provenance: Provenance) -> bytes:
    """Return a TEI P5 file: `pb` a page, `ab` a region, `lb` a line, each with `facs`; zones have the lines' outlines.

    Args:
        pages: in pixels.
        title: of the document.
        provenance: what read the text; goes into the header.
    """
    root = etree.Element(f"{{{_NAMESPACE}}}TEI", nsmap={None: _NAMESPACE})
    _add_header(root, title, provenance)
    facsimile = _add(root, "facsimile")
    body = _add(_add(root, "text"), "body")
    whole = _add(body, "div")
    ids = Ids()
    for number, page in enumerate(pages, start=1):
        height, width = page.size_px
        surface = _add(facsimile, "surface", ulx="0", uly="0", lrx=str(width), lry=str(height))
        surface.set(_ID, ids.new(f"page_{number}"))
        _add(surface, "graphic", url=page.image_name)
        _add(whole, "pb", n=str(number), facs=f"#{surface.get(_ID)}")
        count = 0
        for _, lines in groupby(page.lines, key=lambda written: written.line.region):
            block = _add(whole, "ab")
            for written in lines:
                count += 1
                beginning = _add(block, "lb", n=str(count))
                beginning.tail = writable(written.text)
                if len(written.line.polygon) > 2:  # a zone has three points at least
                    zone = _add(surface, "zone", points=as_text(written.line.polygon, comma=True))
                    zone.set(_ID, ids.new(written.line.id or "line"))
                    beginning.set("facs", f"#{zone.get(_ID)}")
    data: bytes = etree.tostring(root, xml_declaration=True, encoding="UTF-8")
    return data + b"\n"


def _add_header(root: Element, title: str, provenance: Provenance) -> None:
    header = _add(root, "teiHeader")
    description = _add(header, "fileDesc")
    _add(_add(description, "titleStmt"), "title").text = writable(title)
    _add(_add(description, "publicationStmt"), "p").text = "Not published."
    _add(_add(description, "sourceDesc"), "p").text = "Read from the pictures that the facsimile names."
    application = _add(
        _add(_add(header, "encodingDesc"), "appInfo"),
        "application",
        ident=provenance.software,
        version=provenance.version,
    )
    _add(application, "label").text = writable(str(provenance))


def _add(parent: Element, name: str, **attributes: str) -> Element:
    element = etree.SubElement(parent, f"{{{_NAMESPACE}}}{name}")
    for key, value in attributes.items():
        element.set(key, writable(value))
    return element
