"""Write PAGE XML: edit the file that a page came with, so that all else in it survives, or make a new one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from lxml import etree

from zoo_htr.pages import safe_xml as xml
from zoo_htr.pages.ids import Ids
from zoo_htr.pages.model import Box, PageFile, Points
from zoo_htr.pages.page_xml import _CUSTOM, chosen_equivalent, read_page_xml, text_lines
from zoo_htr.pages.points import as_text, corners
from zoo_htr.pages.safe_xml import Element
from zoo_htr.pages.written import Level, Provenance, WrittenGlyph, WrittenLine, WrittenPage

_NAMESPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_REGION_TYPES = frozenset({
    "paragraph", "heading", "caption", "header", "footer", "page-number", "drop-capital", "credit", "floating",
    "signature-mark", "catch-word", "marginalia", "footnote", "footnote-continued", "endnote", "TOC-entry",
    "list-label", "other",
})  # fmt: skip
# what follows the text equivalents of an element in the schema
_AFTER_TEXT = ("TextStyle", "UserDefined", "Labels")


def edit_page_xml(file: PageFile, pages: Sequence[WrittenPage], *, level: Level, provenance: Provenance) -> bytes:
    """Return the file with the text of `pages` in place of its own; every other element and attribute stays.

    Words of the old text go where the text changes, and with them the parts of `custom` that count its characters.
    """
    root, _ = xml.parse(file.data, file.name)
    old = {line.place: line.text for page in read_page_xml(root) for line in page.lines}
    lines = list(text_lines(root))
    new = {written.line.place: written for page in pages for written in page.lines}
    ids = Ids({e.get("id", "") for e in root.iter() if xml.local(e)})
    for place, element in enumerate(lines):
        if place in new:
            _replace_text(element, new[place], level, ids, changed=old.get(place) != new[place].text)
    _stamp(root, provenance)
    return xml.serialise(root)


def new_page_xml(page: WrittenPage, *, level: Level, provenance: Provenance) -> bytes:
    """Return a PAGE 2019-07-15 file."""
    root = etree.Element(f"{{{_NAMESPACE}}}PcGts", nsmap={None: _NAMESPACE, "xsi": _XSI})
    root.set(f"{{{_XSI}}}schemaLocation", f"{_NAMESPACE} {_NAMESPACE}/pagecontent.xsd")
    metadata = _add(root, "Metadata")
    _add(metadata, "Creator").text = f"{provenance.software} {provenance.version}"
    _add(metadata, "Created").text = _add(metadata, "LastChange").text = _now()
    _stamp(root, provenance)
    height, width = page.size_px
    element = _add(root, "Page")
    element.set("imageFilename", xml.writable(page.image_name))
    element.set("imageWidth", str(width))
    element.set("imageHeight", str(height))
    ids = Ids()
    runs: list[tuple[int | None, list[WrittenLine]]] = []
    for line in page.lines:  # in reading order: a region that others interrupt is written in parts
        if not runs or runs[-1][0] != line.line.region:
            runs.append((line.line.region, []))
        runs[-1][1].append(line)
    for index, lines in runs:
        _add_region(element, page, index, lines, ids, level)
    etree.indent(root)
    return xml.serialise(root)


def _add_region(
    parent: Element, page: WrittenPage, index: int | None, lines: Sequence[WrittenLine], ids: Ids, level: Level
) -> None:
    element = _add(parent, "TextRegion")
    region = None if index is None else page.page.regions[index]
    element.set("id", ids.new((region.id if region else "") or "region"))
    shape: Points = ()
    if region is not None:
        _set_tags(element, region.tags)
        shape = region.polygon or (corners(region.box) if region.box else ())
    _add(element, "Coords").set("points", as_text(shape or _around(lines, page.size_px), comma=True))
    for line in lines:
        _add_line(element, line, ids, level)


def _around(lines: Sequence[WrittenLine], size_px: tuple[int, int]) -> Points:
    corners_ = [point for written in lines for point in written.line.polygon]
    if not corners_:
        return corners((0, 0, size_px[1], size_px[0]))
    xs, ys = zip(*corners_, strict=True)
    return corners((min(xs), min(ys), max(xs), max(ys)))


def _add_line(region: Element, written: WrittenLine, ids: Ids, level: Level) -> None:
    line, element = written.line, _add(region, "TextLine")
    element.set("id", ids.new(line.id or "line"))
    if line.language:
        element.set("primaryLanguage", line.language)
    if line.right_to_left:
        element.set("readingDirection", "right-to-left")
    if line.tags:
        element.set("custom", _structures(line.tags))
    polygon = line.polygon or (corners(line.box) if line.box else ())
    _add(element, "Coords").set("points", as_text(polygon, comma=True))
    if line.baseline:
        _add(element, "Baseline").set("points", as_text(line.baseline, comma=True))
    _replace_text(element, written, level, ids, changed=True)


def _set_tags(element: Element, tags: Sequence[str]) -> None:
    """Write kinds of a region: as `type` what the schema knows, else as a structure in `custom`."""
    if tags and tags[0] in _REGION_TYPES:
        element.set("type", tags[0])
        tags = tags[1:]
    if tags:
        element.set("custom", _structures(tags))


def _structures(tags: Sequence[str]) -> str:
    """Return tags in the syntax of `custom`, whose own signs they cannot hold."""
    return " ".join(f"structure {{type:{re.sub('[{};]', ' ', tag)};}}" for tag in tags)


def _replace_text(element: Element, written: WrittenLine, level: Level, ids: Ids, *, changed: bool) -> None:
    words = list(xml.children(element, "Word"))
    if level != "line" or changed:
        for word in words:
            element.remove(word)
    if changed:
        _drop_spans(element)
    if level != "line":
        _add_words(element, written, level, ids)
    _set_equivalents(element, written)


def _add_words(element: Element, written: WrittenLine, level: Level, ids: Ids) -> None:
    at = _before_text(element)
    for number, word in enumerate(written.words, start=1):
        one = etree.Element(xml.same_namespace(element, "Word"))
        one.set("id", ids.new(f"{element.get('id') or 'line'}_w{number}"))
        _set_coords(one, word.box)
        if level == "glyph":
            for index, glyph in enumerate(word.glyphs, start=1):
                _add_glyph(one, glyph, ids.new(f"{one.get('id')}_g{index}"))
        _add_equivalent(one, word.text, word.confidence)
        element.insert(at, one)
        at += 1


def _add_glyph(word: Element, glyph: WrittenGlyph, name: str) -> None:
    element = _add(word, "Glyph")
    element.set("id", name)
    _set_coords(element, glyph.box)
    several = bool(glyph.alternatives)
    _add_equivalent(element, glyph.text, glyph.confidence, index=0 if several else None)
    for index, (text, confidence) in enumerate(glyph.alternatives, start=1):
        _add_equivalent(element, text, confidence, index=index)


def _set_equivalents(element: Element, written: WrittenLine) -> None:
    """Write the text into the TextEquiv that counts, and the next best ones after it."""
    kept = chosen_equivalent(element)
    for other in list(xml.children(element, "TextEquiv")):
        if other is not kept:
            element.remove(other)
    if kept is None:
        kept = etree.Element(xml.same_namespace(element, "TextEquiv"))
        element.insert(_before_text(element), kept)
    plain = xml.child(kept, "PlainText")
    if plain is not None:
        kept.remove(plain)
    unicode = xml.child(kept, "Unicode")
    if unicode is None:
        unicode = _add(kept, "Unicode")
    for below in list(unicode):
        unicode.remove(below)
    unicode.text = xml.writable(written.text)
    if written.confidence is None:
        kept.attrib.pop("conf", None)
    else:
        kept.set("conf", f"{written.confidence:.4f}")
    if written.others:
        kept.set("index", "0")
    at = element.index(kept)
    for index, text in enumerate(written.others, start=1):
        other = etree.Element(xml.same_namespace(element, "TextEquiv"))
        other.set("index", str(index))
        _add(other, "Unicode").text = xml.writable(text)
        element.insert(at + index, other)


def _before_text(element: Element) -> int:
    """Return where in an element its words and texts go: before texts and what follows these in the schema."""
    for at, below in enumerate(element):
        if xml.local(below) in ("TextEquiv", *_AFTER_TEXT):
            return at
    return len(element)


def _drop_spans(element: Element) -> None:
    """Take out the parts of `custom` that count characters of a text that is no longer there."""
    said = element.get("custom")
    if said is None or "offset" not in said:
        return
    kept = _CUSTOM.sub(lambda m: "" if "offset" in m[2] else m[0], said)
    element.set("custom", " ".join(kept.split()))


def _stamp(root: Element, provenance: Provenance) -> None:
    """Say in the metadata when the file was changed, and what read its text; the creator stays."""
    metadata = xml.child(root, "Metadata")
    if metadata is None:
        metadata = etree.Element(xml.same_namespace(root, "Metadata"))
        root.insert(0, metadata)
        _add(metadata, "Creator").text = provenance.software
        _add(metadata, "Created").text = _now()
    changed = xml.child(metadata, "LastChange")
    if changed is None:
        changed = etree.Element(xml.same_namespace(root, "LastChange"))
        created = list(xml.children(metadata, "Creator", "Created"))
        metadata.insert(metadata.index(created[-1]) + 1 if created else 0, changed)
    changed.text = _now()
    comments = xml.child(metadata, "Comments")
    if comments is None:
        comments = etree.Element(xml.same_namespace(root, "Comments"))
        metadata.insert(metadata.index(changed) + 1, comments)
    said = f"Text read by {provenance.software} {provenance.version}: {provenance}"
    comments.text = f"{comments.text}\n{said}" if (comments.text or "").strip() else said


def _set_coords(element: Element, box: Box) -> None:
    _add(element, "Coords").set("points", as_text(corners(box), comma=True))


def _add_equivalent(element: Element, text: str, confidence: float, *, index: int | None = None) -> None:
    equivalent = _add(element, "TextEquiv")
    if index is not None:
        equivalent.set("index", str(index))
    equivalent.set("conf", f"{confidence:.4f}")
    _add(equivalent, "Unicode").text = xml.writable(text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _add(parent: Element, name: str) -> Element:
    return etree.SubElement(parent, xml.same_namespace(parent, name))
