"""Read a file that describes pages, whichever of the formats it is in."""

from __future__ import annotations

import html
import re
from dataclasses import replace

from zoo_core.errors import InputError
from zoo_core.io.inputs import Source
from zoo_htr.pages import safe_xml
from zoo_htr.pages.alto import read_alto
from zoo_htr.pages.model import Kind, PageFile
from zoo_htr.pages.page_xml import read_page_xml

_KINDS: dict[str, Kind] = {"alto": "alto", "PcGts": "page"}
_OTHERS = {
    "mets": "a METS file, which lists other files",
    "TEI": "a TEI text",
    "html": "a web page",
    "svg": "a drawing",
}
_HEAD_BYTES = 8192
_PICTURE = re.compile(rb"""<(?:\w+:)?fileName>([^<]+)<|imageFilename\s*=\s*["']([^"']+)""")


def kind_of(source: Source) -> Kind | None:
    """Return which format a file is in, by its first bytes; None if it describes no pages."""
    return _KINDS.get(safe_xml.root_name(source.head(_HEAD_BYTES)))


def named_picture(source: Source) -> str:
    """Return what an ALTO or PAGE file calls its first picture, by its first bytes; "" if these do not say."""
    found = _PICTURE.search(source.head(_HEAD_BYTES))
    return html.unescape((found[1] or found[2]).decode("utf-8", "ignore")).strip() if found else ""


def read_pages(source: Source) -> PageFile:
    """Read an ALTO or PAGE file.

    Raises:
        InputError: unreadable, not well formed, of another kind, or without a page.
    """
    data = source.read_bytes(safe_xml.MAX_BYTES)
    root, notes = safe_xml.parse(data, source.name)
    name = safe_xml.local(root)
    kind = _KINDS.get(name)
    if kind is None:
        what = _OTHERS.get(name, f"another kind of XML (its root is {name!r})")
        raise InputError(f"{source.name} is {what}, not ALTO or PAGE.", "Give the files of its pages.")
    pages = read_alto(root) if kind == "alto" else read_page_xml(root)
    if not pages:
        raise InputError(f"{source.name} describes no page: it has no Page element.", "Export it again.")
    if notes:
        pages = tuple(replace(page, notes=(*notes, *page.notes)) for page in pages)
    return PageFile(source.name, kind, data, pages)
