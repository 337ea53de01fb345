"""Write hOCR: HTML that holds lines, words, places and confidences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lxml import etree

from zoo_htr.pages.ids import Ids
from zoo_htr.pages.model import Box, Line
from zoo_htr.pages.points import as_text, box_around, box_of
from zoo_htr.pages.safe_xml import Element, writable
from zoo_htr.pages.written import Level, Provenance, WrittenLine, WrittenPage

_XHTML = "http://www.w3.org/1999/xhtml"


def new_hocr(pages: Sequence[WrittenPage], *, level: Level, provenance: Provenance) -> bytes:
    """Return an hOCR 1.2 file in pixels, one ocr_page a page, one ocr_carea and ocr_par a region."""
    root = etree.Element("html", xmlns=_XHTML)
    head = etree.SubElement(root, "head")
    etree.SubElement(head, "title").text = writable(pages[0].image_name if pages else "")
    etree.SubElement(head, "meta", charset="utf-8")
    capabilities = "ocr_page ocr_carea ocr_par ocr_line" + ("" if level == "line" else " ocrx_word")
    for name, content in (
        ("ocr-system", f"{provenance.software} {provenance.version}; {provenance}"),
        ("ocr-capabilities", capabilities),
    ):
        etree.SubElement(head, "meta", name=name, content=writable(content))
    body, ids = etree.SubElement(root, "body"), Ids()
    for number, page in enumerate(pages):
        _add_page(body, page, number, ids, level)
    data: bytes = etree.tostring(root, xml_declaration=True, encoding="UTF-8", doctype="<!DOCTYPE html>")
    return data + b"\n"


def baseline_of(line: Line, box: Box) -> tuple[float, int]:
    """Return slope and constant of the baseline relative to the lower left corner of the line's box, y downwards."""
    (x0, y0), (x1, y1) = line.baseline[0], line.baseline[-1]
    slope = (y1 - y0) / (x1 - x0) if abs(x1 - x0) > 1 else 0.0
    at_left = y0 + slope * (box[0] - x0)
    return slope, round(at_left - box[3])


def _add_page(body: Element, page: WrittenPage, number: int, ids: Ids, level: Level) -> None:
    height, width = page.size_px
    # a quote would end the name early, and hOCR has no escape for it
    name = page.image_name.replace('"', "'")
    title = f'image "{name}"; bbox 0 0 {width} {height}; ppageno {number}'
    element = _add(body, "div", "ocr_page", title, ids.new(f"page_{number + 1}"))
    for index, group in groupby(page.lines, key=lambda written: written.line.region):
        lines = list(group)
        region = None if index is None else page.page.regions[index]
        box = (region.box or box_of(region.polygon)) if region else None
        box = box or box_around(b for w in lines if (b := _line_box(w.line)) is not None) or (0, 0, width, height)
        area = _add(element, "div", "ocr_carea", _bbox(box), ids.new((region.id if region else "") or "block"))
        paragraph = _add(area, "p", "ocr_par", _bbox(box), ids.new("par_1"))
        for written in lines:
            _add_line(paragraph, written, ids, level)


def _add_line(paragraph: Element, written: WrittenLine, ids: Ids, level: Level) -> None:
    line = written.line
    box = _line_box(line) or (0, 0, 0, 0)
    title = [_bbox(box)]
    if line.baseline:
        slope, constant = baseline_of(line, box)
        title.append(f"baseline {slope:.4f} {constant}")
    if line.polygon:
        title.append(f"poly {as_text(line.polygon, comma=False)}")
    if written.confidence is not None:
        title.append(f"x_wconf {100 * written.confidence:.0f}")
    element = _add(paragraph, "span", "ocr_line", "; ".join(title), ids.new(line.id or "line"))
    if line.language:
        element.set("lang", line.language)
    if line.right_to_left:
        element.set("dir", "rtl")
    if level == "line" or not written.words:
        element.text = writable(written.text)
    else:
        for number, word in enumerate(written.words):
            about = f"{_bbox(word.box)}; x_wconf {100 * word.confidence:.0f}"
            if level == "glyph":
                about += "; x_confs " + " ".join(f"{100 * glyph.confidence:.0f}" for glyph in word.glyphs)
            one = _add(element, "span", "ocrx_word", about, ids.new(f"{element.get('id')}_w{number + 1}"))
            one.text = writable(word.text)
            one.tail = " " if number + 1 < len(written.words) else ""
    element.tail = "\n"


def _line_box(line: Line) -> Box | None:
    return box_of(line.polygon) or line.box


def _bbox(box: Box) -> str:
    return "bbox " + " ".join(str(round(value)) for value in box)


def _add(parent: Element, tag: str, kind: str, title: str, name: str) -> Element:
    element = etree.SubElement(parent, tag)
    element.set("class", kind)
    element.set("id", name)
    element.set("title", writable(title))
    return element
