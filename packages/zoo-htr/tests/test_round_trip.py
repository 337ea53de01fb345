"""Reading and writing real files loses nothing: every id, outline, baseline, tag and unknown attribute survives."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree
from page_data import XML, every_page, needs_pages, read, read_path

from zoo_htr.pages.alto_write import edit_alto, new_alto
from zoo_htr.pages.model import PageFile
from zoo_htr.pages.page_xml_write import edit_page_xml, new_page_xml
from zoo_htr.pages.written import Level, Provenance, WrittenLine, WrittenPage, WrittenWord

PROVENANCE = Provenance("zoo-htr", "0.1.0", "htr-jand-student", (("decoder", "greedy"),))


def with_text(file: PageFile, text: str | None = None) -> WrittenPage:
    """Return the page with its own texts as if they had been read, or with `text` on every line."""
    page = file.pages[0]
    lines = []
    for line in page.lines:
        said = (line.text or "") if text is None else text
        words = tuple(WrittenWord(word, 0.9, (10.0, 20.0, 30.0, 40.0)) for word in said.split())
        lines.append(WrittenLine(line, said, 0.9, words, ("second best",)))
    return WrittenPage(page, tuple(lines), "other.jpg", (int(page.height), int(page.width)))


def edited(file: PageFile, page: WrittenPage, level: Level = "word") -> bytes:
    edit = edit_alto if file.kind == "alto" else edit_page_xml
    return edit(file, [page], level=level, provenance=PROVENANCE)


@every_page
@pytest.mark.parametrize("level", ["line", "word"])
def test_own_text_comes_back_with_everything_else(path: Path, level: Level) -> None:
    file = read_path(path)
    again = read(edited(file, with_text(file), level))
    words = [replace(line, text=" ".join((line.text or "").split())) for line in file.pages[0].lines]
    kept = [replace(line, text=" ".join((line.text or "").split())) for line in again.pages[0].lines]
    assert kept == words
    assert replace(again.pages[0], lines=()) == replace(file.pages[0], lines=())


@every_page
def test_every_other_element_and_attribute_survives_new_text(path: Path) -> None:
    """Compare the trees themselves, not what our reader makes of them."""
    file = read_path(path)
    again = edited(file, with_text(file, "new words here"))

    def parts(data: bytes) -> Counter[tuple[str, ...]]:
        texts = {
            "String",
            "SP",
            "HYP",
            "Word",
            "TextEquiv",
            "Unicode",
            "Processing",
            "OCRProcessing",
            "LastChange",
            "Comments",
        }
        found: Counter[tuple[str, ...]] = Counter()
        for element in etree.fromstring(data).iter("{*}*"):
            name = etree.QName(element).localname
            around = {etree.QName(a).localname for a in element.iterancestors()}
            # what counts characters of the old text (a struck word of hooker_1) goes with it
            attributes = {key: re.sub(r" ?\w+ \{offset[^}]*\}", "", value) for key, value in element.attrib.items()}
            if name not in texts and not around & texts:
                found[name, element.tag, str(sorted(attributes.items())), (element.text or "").strip()] += 1
        return found

    assert parts(again) == parts(file.data)
    assert {line.text for line in read(again).pages[0].lines} == {"new words here"}


@needs_pages
def test_timeus_gives_the_same_lines_as_page_and_as_alto() -> None:
    first, second = (read_path(path).pages[0] for path in XML if path.name.startswith("timeus"))
    assert [(a.id, a.polygon, a.baseline, a.text) for a in first.lines] == [
        (b.id, b.polygon, b.baseline, b.text) for b in second.lines
    ]
    assert (first.width, first.height, first.image_name) == (second.width, second.height, second.image_name)
    assert len(first.lines) == 25


@every_page
def test_converting_to_the_other_format_keeps_lines(path: Path) -> None:
    file = read_path(path)
    page = with_text(file)
    for data in (
        new_alto([page], level="word", provenance=PROVENANCE),
        new_page_xml(page, level="line", provenance=PROVENANCE),
    ):
        lines = read(data).pages[0].lines
        assert [(a.id, a.polygon, a.baseline, a.tags) for a in lines] == [
            (b.id, b.polygon, b.baseline, b.tags) for b in file.pages[0].lines
        ]
        assert [a.text.split() for a in lines] == [b.text.split() for b in file.pages[0].lines]
