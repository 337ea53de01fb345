"""Read PAGE XML (2010-03-19 to 2019-07-15), as Transkribus, eScriptorium, Aletheia and others write it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from zoo_htr.pages import safe_xml as xml
from zoo_htr.pages.model import Line, Page, Points, Region
from zoo_htr.pages.points import number, points
from zoo_htr.pages.safe_xml import Element

_CUSTOM = re.compile(r"([\w:.-]+)\s*\{([^{}]*)\}")


class Custom(NamedTuple):
    """One part of a `custom` attribute, such as `structure {type:heading;}`."""

    name: str
    values: dict[str, str]


def read_page_xml(root: Element) -> tuple[Page, ...]:
    """Return the pages of a PAGE tree (by its schema one), their lines in the order that the file asks for."""
    held = list(root.iter())  # lxml makes an element's object anew each time unless it is held
    places = {line: place for place, line in enumerate(text_lines(root))}
    pages = tuple(_page(page, places) for page in xml.descendants(root, "Page"))
    del held
    return pages


def text_lines(root: Element) -> Iterator[Element]:
    """Yield the line elements in the order of the file; a line's place is its number here."""
    return xml.descendants(root, "TextLine")


def custom(element: Element) -> list[Custom]:
    """Return what the `custom` attribute of an element says; what is not in its syntax is left out."""
    parts = []
    for name, body in _CUSTOM.findall(element.get("custom") or ""):
        pairs = (pair.partition(":") for pair in body.split(";") if ":" in pair)
        parts.append(Custom(name, {key.strip(): value.strip() for key, _, value in pairs}))
    return parts


def chosen_equivalent(element: Element) -> Element | None:
    """Return the TextEquiv that counts: that of the lowest index, else the first."""
    equivalents = list(xml.children(element, "TextEquiv"))

    def rank(equivalent: Element) -> float:
        index = number(equivalent.get("index"))
        return float("inf") if index is None else index

    return min(equivalents, key=rank, default=None)


def _page(page: Element, places: Mapping[Element, int]) -> Page:
    blocks = [e for e in page.iter() if e is not page and _is_block(e)]
    number_of = {block: index for index, block in enumerate(blocks)}
    regions = tuple(Region(b.get("id", ""), _coords(b), None, _tags(b)) for b in blocks)
    ranks = _block_ranks(page, blocks)
    mirrored = page.get("readingDirection") == "right-to-left"
    lines: list[tuple[float, int, float, Line]] = []
    for element in xml.descendants(page, "TextLine"):
        block = next((a for a in xml.ancestors(element) if a in number_of), None)
        own = number_of[block] if block is not None else -1
        direction = element.get("readingDirection") or (block.get("readingDirection") if block is not None else None)
        line = Line(
            id=element.get("id", ""),
            polygon=_coords(element),
            baseline=_points(xml.child(element, "Baseline")),
            text=_text(element),
            tags=_tags(element),
            region=own if own >= 0 else None,
            language=element.get("primaryLanguage", ""),
            right_to_left=direction == "right-to-left" if direction else mirrored,
            place=places[element],
        )
        lines.append((ranks.get(block, float("inf")), own, _index(element), line))
    lines.sort(key=lambda entry: entry[:3])
    return Page(
        lines=tuple(line for *_, line in lines),
        regions=regions,
        width=number(page.get("imageWidth")) or 0,
        height=number(page.get("imageHeight")) or 0,
        image_name=(page.get("imageFilename") or "").strip(),
        id=page.get("id") or page.get("pcGtsId") or "",
    )


def _is_block(element: Element) -> bool:
    name = xml.local(element)
    return name.endswith("Region") or name == "TableCell"


def _block_ranks(page: Element, blocks: list[Element]) -> dict[Element, float]:
    """Return the rank of every block: by ReadingOrder, where that is silent by `custom`, else as they stand.

    A block in another one that has no rank of its own takes that of the other.
    """
    order = xml.child(page, "ReadingOrder")
    named = {reference: float(rank) for rank, reference in enumerate(_references(order))} if order is not None else {}
    ranks: dict[Element, float] = {}
    for block in blocks:
        outer = next((ranks[a] for a in xml.ancestors(block) if a in ranks), None)
        rank = named.get(block.get("id", ""))
        if rank is None and outer is None:
            # named ones come first, then those with an index of their own, then the rest
            rank = len(named) + _index(block)
        ranks[block] = rank if rank is not None else outer if outer is not None else float("inf")
    return ranks


def _references(group: Element) -> Iterator[str]:
    """Yield the ids of regions in the order of a (nested) group; groups themselves may stand for a region."""

    def rank(element: Element) -> float:
        return number(element.get("index")) or 0.0

    members = list(xml.children(group))
    if xml.local(group).startswith("OrderedGroup"):
        members.sort(key=rank)
    for member in members:
        if reference := member.get("regionRef"):
            yield reference
        yield from _references(member)


def _index(element: Element) -> float:
    """Return the place that Transkribus gives an element among its siblings, infinity without one."""
    for part in custom(element):
        if part.name == "readingOrder" and (index := number(part.values.get("index"))) is not None:
            return index
    return float("inf")


def _tags(element: Element) -> tuple[str, ...]:
    """Return the kinds of an element: its `type`, and the structure types of `custom`."""
    found = [element.get("type") or ""]
    found += [part.values.get("type", "") for part in custom(element) if part.name == "structure"]
    return tuple(dict.fromkeys(tag for tag in found if tag))


def _coords(element: Element) -> Points:
    return _points(xml.child(element, "Coords"))


def _points(element: Element | None) -> Points:
    """Return the points of a Coords or Baseline element; PAGE 2010 has an element for each."""
    if element is None:
        return ()
    if element.get("points") is not None:
        return points(element.get("points"))
    pairs = [(number(p.get("x")), number(p.get("y"))) for p in xml.children(element, "Point")]
    return tuple((x, y) for x, y in pairs if x is not None and y is not None)


def _text(element: Element) -> str | None:
    """Return the text of a line: its own, else that of its words with blanks between, None without either."""
    if (own := _unicode(element)) is not None:
        return own
    words = [text for text in map(_unicode, xml.children(element, "Word")) if text is not None]
    return " ".join(words) if words else None


def _unicode(element: Element) -> str | None:
    chosen = chosen_equivalent(element)
    if chosen is None:
        return None
    found = xml.child(chosen, "Unicode")
    if found is None:
        found = xml.child(chosen, "PlainText")
    return xml.text_of(found) if found is not None else None
