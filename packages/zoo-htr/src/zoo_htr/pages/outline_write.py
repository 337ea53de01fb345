"""Give lines of an ALTO or PAGE file other outlines; everything else in it stays."""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

from zoo_htr.pages import alto, page_xml
from zoo_htr.pages import safe_xml as xml
from zoo_htr.pages.model import PageFile, Points
from zoo_htr.pages.points import as_text, box_of
from zoo_htr.pages.safe_xml import Element


def with_outlines(file: PageFile, outlines: Mapping[int, Points]) -> bytes:
    """Return the file with other outlines.

    Args:
        file: as it was read.
        outlines: place of the line in the file -> outline in the units of the file.
    """
    root, _ = xml.parse(file.data, file.name)
    lines = list((alto if file.kind == "alto" else page_xml).text_lines(root))
    for place, outline in outlines.items():
        (_set_alto if file.kind == "alto" else _set_page)(lines[place], outline)
    return xml.serialise(root)


def _set_alto(line: Element, outline: Points) -> None:
    shape = xml.child(line, "Shape")
    if shape is None:
        shape = etree.Element(xml.same_namespace(line, "Shape"))
        line.insert(0, shape)
    polygon = xml.child(shape, "Polygon")
    if polygon is None:
        polygon = etree.SubElement(shape, xml.same_namespace(line, "Polygon"))
    polygon.set("POINTS", as_text(outline, comma="," in polygon.get("POINTS", "")))
    box = box_of(outline)
    if box is not None and line.get("HPOS") is not None:  # the box of a line is that of its outline
        left, top, right, bottom = (round(value) for value in box)
        for key, value in (("HPOS", left), ("VPOS", top), ("WIDTH", right - left), ("HEIGHT", bottom - top)):
            line.set(key, str(value))


def _set_page(line: Element, outline: Points) -> None:
    coords = xml.child(line, "Coords")
    if coords is None:
        coords = etree.Element(xml.same_namespace(line, "Coords"))
        line.insert(0, coords)
    old = list(xml.children(coords, "Point"))
    if not old:
        coords.set("points", as_text(outline, comma=True))
        return
    for point in old:  # PAGE 2010
        coords.remove(point)
    for x, y in outline:
        point = etree.SubElement(coords, xml.same_namespace(line, "Point"))
        point.set("x", str(round(x)))
        point.set("y", str(round(y)))
