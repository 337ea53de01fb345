"""Whatever an XML file holds: it is read, or it is one clear InputError; never a traceback."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from page_data import alto, page_xml, read

from zoo_core.errors import InputError
from zoo_htr.pages.alto_write import edit_alto
from zoo_htr.pages.layout import lay_out
from zoo_htr.pages.order import by_place
from zoo_htr.pages.page_xml_write import edit_page_xml
from zoo_htr.pages.written import Provenance, WrittenLine, WrittenPage

MADE = Provenance("zoo-htr", "0", "m")
ALTO = alto(
    '<TextLine ID="a" BASELINE="1 9 90 9" HPOS="1" VPOS="2" WIDTH="90" HEIGHT="9" TAGREFS="t"><Shape>'
    '<Polygon POINTS="1 2 90 2 90 9 1 9"/></Shape><String CONTENT="x"/><SP/><String CONTENT="y"/></TextLine>',
    tags='<Tags><OtherTag ID="t" LABEL="l"/></Tags>',
)
PAGE = page_xml(
    '<ReadingOrder><OrderedGroup id="o"><RegionRefIndexed index="0" regionRef="r"/></OrderedGroup></ReadingOrder>'
    '<TextRegion id="r" custom="structure {type:x;}"><Coords points="0,0 9,0 9,9"/><TextLine id="a" '
    'custom="readingOrder {index:0;}"><Coords points="1,2 90,2 90,9"/><Baseline points="1,9 90,9"/>'
    '<TextEquiv index="0"><Unicode>x</Unicode></TextEquiv></TextLine></TextRegion>'
)
NUMBERS = st.sampled_from(["nan", "inf", "1e999", "-1e308", "-5", "0", "", "x", "1e7 2e7", "٣", "9" * 400, "1,2 3"])


def survives(data: bytes) -> None:
    """Read, lay out, sort and edit; all that may be raised is an InputError with a sentence."""
    file, said = None, "fuzzed.xml."
    try:
        file = read(data, "fuzzed.xml")
    except InputError as error:
        said = error.message
    assert "fuzzed.xml" in said
    assert said.endswith((".", "?"))
    if file is None:
        return
    for page in file.pages:
        for size in ((300, 400), (1, 1)):
            assert len(lay_out(by_place(page), size).page.lines) == len(page.lines)
    written = [
        WrittenPage(page, tuple(WrittenLine(line, "t", 0.5) for line in page.lines), "a.jpg", (300, 400))
        for page in file.pages
    ]
    edit = edit_alto if file.kind == "alto" else edit_page_xml
    again = read(edit(file, written, level="word", provenance=MADE))
    assert {line.text for page in again.pages for line in page.lines} <= {"t"}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([ALTO, PAGE]), st.data())
def test_any_bytes_changed(text: str, data: st.DataObject) -> None:
    changed = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(changed) - 1))
        end = data.draw(st.integers(start, min(len(changed), start + 40)))
        changed[start:end] = data.draw(st.binary(max_size=6))
        if not changed:
            changed = bytearray(b"<")
    survives(bytes(changed))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([ALTO, PAGE]), st.data())
def test_any_attribute_of_any_value(text: str, data: st.DataObject) -> None:
    """Well-formed files whose values are nonsense."""
    parts = text.split('"')
    for _ in range(data.draw(st.integers(1, 5))):
        at = 1 + 2 * data.draw(st.integers(2, len(parts) // 2 - 1))
        parts[at] = data.draw(
            NUMBERS | st.text(st.characters(blacklist_characters='<&"', min_codepoint=32), max_size=9)
        )
    survives('"'.join(parts).encode("utf-8", "ignore"))


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_at_all(data: bytes) -> None:
    survives(data)
