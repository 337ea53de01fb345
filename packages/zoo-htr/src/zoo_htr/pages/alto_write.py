"""Write ALTO: edit the file that a page came with, so that all else in it survives, or make a new one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from lxml import etree

from zoo_htr.pages import safe_xml as xml
from zoo_htr.pages.alto import box_polygon, text_lines
from zoo_htr.pages.ids import Ids
from zoo_htr.pages.model import Box, Line, PageFile, Region
from zoo_htr.pages.points import as_text, box_of, corners
from zoo_htr.pages.safe_xml import Element
from zoo_htr.pages.written import Level, Provenance, WrittenLine, WrittenPage, WrittenWord

_NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"
_SCHEMA = "http://www.loc.gov/standards/alto/v4/alto-4-4.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
# of a word that is written over: what they say is about the text that was there
_OF_OLD_TEXT = ("CC", "SUBS_TYPE", "SUBS_CONTENT", "CS")


def edit_alto(file: PageFile, pages: Sequence[WrittenPage], *, level: Level, provenance: Provenance) -> bytes:
    """Return the file with the text of `pages` in place of its own; every other element and attribute stays.

    A new word takes over the element of the old one in its place, with its ID. A file without the name of its picture
    gets it, because eScriptorium imports none without.
    """
    root, _ = xml.parse(file.data, file.name)
    lines = list(text_lines(root))
    new = {written.line.place: written for page in pages for written in page.lines}
    for place, element in enumerate(lines):
        if place in new:
            _replace_text(element, new[place], level)
    description = xml.child(root, "Description")
    if description is None:
        description = etree.Element(xml.same_namespace(root, "Description"))
        root.insert(0, description)
    if pages and not any(True for _ in xml.descendants(description, "fileName")):
        _add_image_name(description, pages[0].image_name)
    _add_processing(description, provenance)
    return xml.serialise(root)


def new_alto(pages: Sequence[WrittenPage], *, level: Level, provenance: Provenance) -> bytes:
    """Return an ALTO 4.4 file in pixels, one Page element a page."""
    root = etree.Element(f"{{{_NAMESPACE}}}alto", nsmap={None: _NAMESPACE, "xsi": _XSI})
    root.set(f"{{{_XSI}}}schemaLocation", f"{_NAMESPACE} {_SCHEMA}")
    description = _add(root, "Description")
    _add(description, "MeasurementUnit").text = "pixel"
    _add_image_name(description, pages[0].image_name if pages else "")
    _add_processing(description, provenance)
    ids = Ids()
    regions = [region for page in pages for region in page.page.regions]
    tags = _add_tags(root, regions, [w.line for page in pages for w in page.lines], ids)
    layout = _add(root, "Layout")
    for number, page in enumerate(pages):
        _add_page(layout, page, number, tags, ids, level)
    etree.indent(root)
    return xml.serialise(root)


def _replace_text(element: Element, written: WrittenLine, level: Level) -> None:
    old = list(xml.children(element, "String"))
    if level == "line" and len(old) == 1:  # as eScriptorium has it: the geometry is that of the line and stays
        for below in list(xml.children(old[0], "ALTERNATIVE", "Glyph")):
            old[0].remove(below)
        _drop(old[0], *_OF_OLD_TEXT)
        old[0].set("CONTENT", xml.writable(written.text))
        _set_confidence(old[0], written.confidence)
        _add_alternatives(old[0], written.others)
        return
    parts = list(xml.children(element, "String", "SP", "HYP"))
    at = element.index(parts[0]) if parts else len(element)
    tail = parts[0].tail if parts else None
    for part in parts:
        element.remove(part)
    box = box_of(box_polygon(element)) or _box(written.line)
    for offset, new in enumerate(_content(element, written, level, box, old)):
        new.tail = tail
        element.insert(at + offset, new)


def _content(
    line: Element, written: WrittenLine, level: Level, box: Box | None, old: Sequence[Element] = ()
) -> Iterable[Element]:
    """Yield the String and SP elements of a line; `old` ones are used again, with what else they hold."""

    def string(number: int) -> Element:
        if number >= len(old):
            return etree.Element(xml.same_namespace(line, "String"))
        again = old[number]
        _drop(again, *_OF_OLD_TEXT)
        for below in list(xml.children(again, "Shape", "ALTERNATIVE", "Glyph")):
            again.remove(below)
        return again

    if level == "line" or not written.words:
        whole = string(0)
        whole.set("CONTENT", xml.writable(written.text))
        _set_confidence(whole, written.confidence)
        _set_box(whole, box)
        _add_alternatives(whole, written.others)
        yield whole
        return
    last: WrittenWord | None = None
    for number, word in enumerate(written.words):
        if last is not None:
            space = etree.Element(xml.same_namespace(line, "SP"))
            left, right = last.box[2], word.box[0]
            _set_box(space, (min(left, right), word.box[1], max(left, right), word.box[3]))
            _drop(space, "HEIGHT")  # a space has none in the schema
            yield space
        last, one = word, string(number)
        one.set("CONTENT", xml.writable(word.text))
        _set_confidence(one, word.confidence)
        _set_box(one, word.box)
        _add_alternatives(one, word.others)
        if level == "glyph":
            _add_glyphs(one, word)
        yield one


def _add_glyphs(string: Element, word: WrittenWord) -> None:
    for glyph in word.glyphs:
        element = _add(string, "Glyph")
        element.set("CONTENT", xml.writable(glyph.text))
        element.set("GC", f"{glyph.confidence:.4f}")
        _set_box(element, glyph.box)
        for text, confidence in glyph.alternatives:
            variant = _add(element, "Variant")
            variant.set("CONTENT", xml.writable(text))
            variant.set("VC", f"{confidence:.4f}")


def _add_alternatives(string: Element, texts: Iterable[str]) -> None:
    for text in texts:
        _add(string, "ALTERNATIVE").text = xml.writable(text)


def _add_image_name(description: Element, name: str) -> None:
    information = xml.child(description, "sourceImageInformation")
    if information is None:
        information = etree.Element(xml.same_namespace(description, "sourceImageInformation"))
        unit = xml.child(description, "MeasurementUnit")
        description.insert(0 if unit is None else description.index(unit) + 1, information)
    file_name = etree.Element(xml.same_namespace(description, "fileName"))
    file_name.text = xml.writable(name)
    information.insert(0, file_name)


def _add_processing(description: Element, provenance: Provenance) -> None:
    """Say what read the text: as ALTO 4 has it, or as the versions before."""
    taken = {e.get("ID", "") for e in description.getroottree().iter() if xml.local(e)}
    name = Ids(taken).new("zoo_htr")
    recent = (etree.QName(description).namespace or _NAMESPACE) == _NAMESPACE
    outer = etree.Element(xml.same_namespace(description, "Processing" if recent else "OCRProcessing"))
    outer.set("ID", name)
    step = outer if recent else _add(outer, "ocrProcessingStep")
    _add(step, "processingDateTime").text = datetime.now(UTC).isoformat(timespec="seconds")
    _add(step, "processingStepSettings").text = str(provenance)
    software = _add(step, "processingSoftware")
    _add(software, "softwareName").text = provenance.software
    _add(software, "softwareVersion").text = provenance.version
    before = list(xml.children(description, "MeasurementUnit", "sourceImageInformation", "OCRProcessing", "Processing"))
    description.insert(description.index(before[-1]) + 1 if before else 0, outer)


def _add_tags(root: Element, regions: Iterable[Region], lines: Iterable[Line], ids: Ids) -> dict[tuple[str, str], str]:
    """Write the tags that are in use and return their IDs by what they are for and their label.

    An ID of a tag is never its label: labels such as "textline" would collide with names of the schema elsewhere.
    """
    used = [("block", tag) for region in regions for tag in region.tags]
    used += [("line", tag) for line in lines for tag in line.tags]
    found: dict[tuple[str, str], str] = {}
    if not used:
        return found
    tags = _add(root, "Tags")
    for kind, label in dict.fromkeys(used):
        tag = _add(tags, "OtherTag")
        found[kind, label] = ids.new("BT1" if kind == "block" else "LT1")
        tag.set("ID", found[kind, label])
        tag.set("LABEL", label)
        tag.set("DESCRIPTION", f"{kind} type {label}")
    return found


def _add_page(
    layout: Element,
    written: WrittenPage,
    number: int,
    tags: dict[tuple[str, str], str],
    ids: Ids,
    level: Level,
) -> None:
    height, width = written.size_px
    page = _add(layout, "Page")
    page.set("WIDTH", str(width))
    page.set("HEIGHT", str(height))
    page.set("PHYSICAL_IMG_NR", str(number + 1))
    page.set("ID", ids.new(written.page.id or "page"))
    space = _add(page, "PrintSpace")
    _set_box(space, (0, 0, width, height))
    blocks: list[tuple[int | None, Element]] = []
    for line in written.lines:  # in reading order: a block that others interrupt is written in parts
        if not blocks or blocks[-1][0] != line.line.region:
            blocks.append((line.line.region, _add_block(space, written, line.line.region, tags, ids)))
        _add_line(blocks[-1][1], line, tags, ids, level)


def _add_block(
    space: Element, written: WrittenPage, index: int | None, tags: dict[tuple[str, str], str], ids: Ids
) -> Element:
    block = _add(space, "TextBlock")
    region = Region("block") if index is None else written.page.regions[index]
    block.set("ID", ids.new(region.id or "block"))
    _set_box(block, region.box or box_of(region.polygon))
    _set_tags(block, "block", region.tags, tags)
    _add_shape(block, region.polygon)
    return block


def _add_line(block: Element, written: WrittenLine, tags: dict[tuple[str, str], str], ids: Ids, level: Level) -> None:
    line, element = written.line, _add(block, "TextLine")
    box = _box(line)
    element.set("ID", ids.new(line.id or "line"))
    _set_tags(element, "line", line.tags, tags)
    if line.baseline:
        element.set("BASELINE", as_text(line.baseline, comma=False))
    if line.language:
        element.set("LANG", line.language)
    if line.right_to_left:
        element.set("BASEDIRECTION", "rtl")
    _set_box(element, box)
    _add_shape(element, line.polygon)
    for part in _content(element, written, level, box):
        element.append(part)


def _box(line: Line) -> Box | None:
    return line.box or box_of(line.polygon)


def _add_shape(element: Element, polygon: tuple[tuple[float, float], ...]) -> None:
    if polygon:
        _add(_add(element, "Shape"), "Polygon").set("POINTS", as_text(polygon, comma=False))


def _set_tags(element: Element, kind: str, labels: Iterable[str], tags: dict[tuple[str, str], str]) -> None:
    names = [tags[kind, label] for label in labels]
    if names:
        element.set("TAGREFS", " ".join(names))


def _set_confidence(string: Element, confidence: float | None) -> None:
    if confidence is None:
        _drop(string, "WC")
    else:
        string.set("WC", f"{confidence:.4f}")


def _set_box(element: Element, box: Box | None) -> None:
    if box is None:
        return
    (left, top), _, (right, bottom), _ = corners(box)
    for key, value in (("HPOS", left), ("VPOS", top), ("WIDTH", right - left), ("HEIGHT", bottom - top)):
        element.set(key, str(max(0, round(value))))


def _drop(element: Element, *keys: str) -> None:
    for key in keys:
        element.attrib.pop(key, None)


def _add(parent: Element, name: str) -> Element:
    return etree.SubElement(parent, xml.same_namespace(parent, name))
