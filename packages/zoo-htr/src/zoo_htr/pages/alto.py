"""Read ALTO (versions 2 to 4, with any namespace or none), as eScriptorium, Transkribus, kraken and others write it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast, get_args

from zoo_htr.pages import safe_xml as xml
from zoo_htr.pages.model import Box, Line, Page, Points, Region, Unit
from zoo_htr.pages.points import box_around, corners, number, numbers, points
from zoo_htr.pages.safe_xml import Element


def read_alto(root: Element) -> tuple[Page, ...]:
    """Return the pages of an ALTO tree, their lines in the order that the file asks for."""
    description = xml.child(root, "Description")
    image_name = ""
    unit: Unit = "pixel"
    notes: list[str] = []
    if description is not None:
        unit = _unit(xml.text_of(xml.child(description, "MeasurementUnit")), notes)
        image_name = _image_name(description)
    labels = _labels(root)
    ranks = _reading_order(root)
    held = list(root.iter())  # lxml makes an element's object anew each time unless it is held
    places = {line: place for place, line in enumerate(text_lines(root))}
    pages = tuple(
        _page(page, labels, ranks, places, unit=unit, image_name=image_name, notes=tuple(notes))
        for page in xml.descendants(root, "Page")
    )
    del held
    return pages


def text_lines(root: Element) -> Iterator[Element]:
    """Yield the line elements in the order of the file; a line's place is its number here."""
    return xml.descendants(root, "TextLine")


def _unit(text: str, notes: list[str]) -> Unit:
    said = text.strip().lower()
    for unit in get_args(Unit):
        if said == unit:
            return cast(Unit, unit)
    if said not in {"", "pixels", "px"}:
        notes.append(f"its unit {text.strip()!r} is not known: taken for pixels")
    return "pixel"


def _image_name(description: Element) -> str:
    for information in xml.children(description, "sourceImageInformation"):
        for name in xml.children(information, "fileName"):
            return xml.text_of(name).strip()
    return ""


def _labels(root: Element) -> dict[str, str]:
    """Return what each tag's ID stands for."""
    tags = xml.child(root, "Tags")
    found = (
        {}
        if tags is None
        else {tag.get("ID", ""): tag.get("LABEL") or tag.get("ID", "") for tag in tags.iter() if xml.local(tag)}
    )
    found.pop("", None)
    return found


def _tags(element: Element, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels that an element refers to; a reference to no tag stands for itself."""
    return tuple(labels.get(name, name) for name in (element.get("TAGREFS") or "").split())


def _reading_order(root: Element) -> dict[str, int]:
    """Return the rank of every ID that the reading order (ALTO 4.3) names."""
    ranks: dict[str, int] = {}
    for order in xml.descendants(root, "ReadingOrder"):
        for reference in xml.descendants(order, "ElementRef"):
            ranks.setdefault(reference.get("REF", ""), len(ranks))
    return ranks


def _page(
    page: Element,
    labels: Mapping[str, str],
    ranks: Mapping[str, int],
    places: Mapping[Element, int],
    *,
    unit: Unit,
    image_name: str,
    notes: tuple[str, ...],
) -> Page:
    blocks = list(xml.descendants(page, "TextBlock"))
    number_of = {block: index for index, block in enumerate(blocks)}
    regions = tuple(Region(b.get("ID", ""), _polygon(b), _box(b), _tags(b, labels)) for b in blocks)
    lines: list[tuple[int, Line]] = []
    for element in xml.descendants(page, "TextLine"):
        around = list(xml.ancestors(element))
        block = next((number_of[a] for a in around if a in number_of), None)
        rank = next((ranks[e.get("ID", "")] for e in (element, *around) if e.get("ID", "") in ranks), len(ranks))
        lines.append((rank, _line(element, labels, block, places[element])))
    lines.sort(key=lambda pair: pair[0])  # stable: what the order does not name stays as it stands in the file
    return Page(
        lines=tuple(line for _, line in lines),
        regions=regions,
        width=number(page.get("WIDTH")) or 0,
        height=number(page.get("HEIGHT")) or 0,
        unit=unit,
        image_name=image_name,
        id=page.get("ID", ""),
        notes=notes,
    )


def _line(element: Element, labels: Mapping[str, str], block: int | None, place: int) -> Line:
    box = _box(element) or box_around(b for b in map(_box, xml.children(element, "String")) if b is not None)
    return Line(
        id=element.get("ID", ""),
        polygon=_polygon(element),
        baseline=_baseline(element.get("BASELINE"), box),
        box=box,
        text=_text(element),
        tags=_tags(element, labels),
        region=block,
        language=element.get("LANG", ""),
        right_to_left=element.get("BASEDIRECTION", "") == "rtl",
        place=place,
    )


def _baseline(text: str | None, box: Box | None) -> Points:
    """Return the baseline; old files give its height alone."""
    found = numbers(text)
    if len(found) == 1 and box is not None:
        return (box[0], found[0]), (box[2], found[0])
    shape = points(text)
    return shape if len(shape) > 1 else ()


def _polygon(element: Element) -> Points:
    shape = xml.child(element, "Shape")
    polygon = None if shape is None else xml.child(shape, "Polygon")
    return () if polygon is None else points(polygon.get("POINTS"))


def _box(element: Element) -> Box | None:
    left, top, width, height = (number(element.get(key)) for key in ("HPOS", "VPOS", "WIDTH", "HEIGHT"))
    if left is None or top is None or width is None or height is None:
        return None
    return left, top, left + width, top + height


def box_polygon(element: Element) -> Points:
    """Return an element's box as a polygon, nothing if it has none."""
    box = _box(element)
    return () if box is None else corners(box)


def _text(element: Element) -> str | None:
    """Return the text of a line: its words with blanks between, whether or not the file writes these; None without."""
    words = [e.get("CONTENT") or "" for e in xml.children(element, "String")]
    if not words:
        return None
    hyphens = [e.get("CONTENT") or "-" for e in xml.children(element, "HYP")]
    return " ".join(words) + "".join(hyphens)
