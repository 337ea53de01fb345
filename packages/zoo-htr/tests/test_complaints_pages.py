"""What people complain of in public threads about other tools' pages: docs/handwriting-troubles.md lists all of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lxml import etree
from page_data import alto, page_xml, read
from PIL import Image

from zoo_core.io.inputs import Source
from zoo_htr.cutting import cut
from zoo_htr.doctor import examine
from zoo_htr.lines import Tally, read_lines
from zoo_htr.pages.alto_write import new_alto
from zoo_htr.pages.layout import lay_out
from zoo_htr.pages.order import by_place
from zoo_htr.pages.pairing import picture_for
from zoo_htr.pages.written import Provenance, WrittenLine, WrittenPage, WrittenWord
from zoo_htr.repolygonize import BELOW, mend

MADE = Provenance("zoo-htr", "0", "m")
PAPER = np.full((300, 400), 200, np.uint8)


def line(number: int, *, baseline: bool = True, outline: bool = True, text: str = "text", more: str = "") -> str:
    top = 20 + 80 * number
    return (
        f'<TextLine ID="l{number}" {more} '
        + (f'BASELINE="20 {top + 40} 380 {top + 40}" ' if baseline else "")
        + ">"
        + (f'<Shape><Polygon POINTS="20 {top} 380 {top} 380 {top + 55} 20 {top + 55}"/></Shape>' if outline else "")
        + f'<String CONTENT="{text}"/></TextLine>'
    )


@pytest.mark.parametrize(("baseline", "outline"), [(True, False), (False, True)])
def test_complaint_01_lines_without_baseline_or_outline_are_used(baseline: bool, outline: bool, tmp_path: Path) -> None:
    """kraken 352, 259, 272: skipped without a word, "No boundary given", or a crash. Here: derived, and said."""
    Image.fromarray(PAPER).save(tmp_path / "a.jpg")
    lines = "".join(line(n, baseline=baseline, outline=outline) for n in range(3))
    (tmp_path / "a.xml").write_text(alto(lines))
    tally = Tally()
    found = list(read_lines([tmp_path / "a.xml"], tally))
    assert (len(found), tally.left_out) == (3, {})
    heights = {made.cut.box_px[1] for made in found}
    assert all(40 <= height <= 110 for height in heights)
    assert "3 lines (l0, l1, l2): each had no" in lay_out(read(alto(lines)).pages[0], (300, 400)).notes[0]


def test_complaint_02_bad_polygons_are_repaired_and_cuts_stay_robust() -> None:
    """kraken 619, 360, 670: crossing, degenerate or far-off outlines ruin recognition. Here: mended and named."""
    bad = {
        "twice": "20 20 380 20 380 75 20 75 20 20 380 20 380 75 20 75",
        "point": "20 20 20 20 20 20",
        "outside": "-900 20 2000 20 2000 75 -900 75",
        "two": "20 20 380 75",
    }
    ink = PAPER.copy()
    ink[30:60, 100:300] = 20
    for name, points in bad.items():
        text = line(0).replace("20 20 380 20 380 75 20 75", points).replace("l0", name)
        layout = lay_out(read(alto(text)).pages[0], (300, 400))
        (mended,) = layout.page.lines
        assert mended.id == name
        assert name in layout.notes[0]
        made = cut(ink, mended.polygon, mended.baseline)
        assert made.image.min() < 40, name  # the writing is in the cut, not painted over


def test_complaint_02_bad_polygons_are_found_and_redrawn(tmp_path: Path) -> None:
    """Hours of mending by hand: an outline that takes in the line above has a low score and gets a better one."""
    ink = PAPER.copy()
    for n in range(3):
        ink[35 + 80 * n : 60 + 80 * n, 40:360:14] = ink[35 + 80 * n : 60 + 80 * n, 41:360:14] = 30
    Image.fromarray(ink).save(tmp_path / "a.jpg", quality=95)
    (tmp_path / "a.xml").write_text(alto(line(0) + line(1).replace("20 100 380 100", "20 20 380 20") + line(2)))
    found, data = mend(Source("a.xml", tmp_path / "a.xml"), below=BELOW)
    assert [(one.quality or 0) >= BELOW for one in found] == [True, False, True]
    assert (found[1].after or 0) > 0.95
    assert [one.id for one in read(data).pages[0].lines] == ["l0", "l1", "l2"]


@pytest.mark.parametrize("unit", ["mm10", "inch1200"])
def test_complaint_03_units_other_than_pixels_are_converted(unit: str) -> None:
    """kraken 735: refused."""
    layout = lay_out(read(alto(line(0), unit=unit, page='WIDTH="800" HEIGHT="600"')).pages[0], (300, 400))
    assert layout.page.lines[0].baseline == ((10, 30), (190, 30))


def test_complaint_04_alto_without_file_name_finds_its_picture_and_gets_the_name(tmp_path: Path) -> None:
    """HTR-United 124: ALTO of Transkribus has none, and eScriptorium cannot import it."""
    picture = tmp_path / "letter.jpg"
    picture.touch()
    xml = tmp_path / "letter.xml"
    xml.touch()
    file = read(alto(line(0), file_name=""))
    assert picture_for(Source(str(xml), xml), file.pages[0].image_name) == (picture, None)
    page = WrittenPage(file.pages[0], (), "letter.jpg", (300, 400))
    assert read(new_alto([page], level="line", provenance=MADE)).pages[0].image_name == "letter.jpg"


@pytest.mark.parametrize("label", ["textline", "textzone", "TextLine", "default", "LT1", "p1"])
def test_complaint_08_a_line_type_of_any_name_collides_with_nothing(label: str) -> None:
    """kraken 651: a type called textline broke what was written."""
    tags = f'<Tags><OtherTag ID="LT9" LABEL="{label}"/></Tags>'
    page = read(alto(line(0, more='TAGREFS="LT9"'), tags=tags)).pages[0]
    assert page.lines[0].tags == (label,)
    written = WrittenPage(page, tuple(WrittenLine(one, "x", 1.0) for one in page.lines), "a.jpg", (300, 400))
    data = new_alto([written], level="line", provenance=MADE)
    ids = [e.get("ID") for e in etree.fromstring(data).iter() if e.get("ID")]
    assert len(ids) == len(set(ids))
    assert read(data).pages[0].lines[0].tags == (label,)


def test_complaint_09_the_order_of_the_file_stays_and_that_of_the_page_is_on_offer() -> None:
    """kraken 212: lines come out in a wrong order."""
    page = read(alto(line(2) + line(0) + line(1))).pages[0]
    assert [one.id for one in page.lines] == ["l2", "l0", "l1"]
    assert [one.id for one in by_place(page).lines] == ["l0", "l1", "l2"]


def test_complaint_10_a_picture_that_cannot_be_read_well_is_said_to_be_so() -> None:
    """SimpleHTR 114, HTRPipeline 7, flor 14: nonsense on one's own handwriting, and nobody says why."""
    strokes = PAPER[:64].repeat(3, axis=1).copy()
    strokes[20:50, 40:1100:17] = 30
    assert examine(strokes).warnings == ()
    for spoilt, said in (
        (255 - strokes, "light ink"),
        (np.ascontiguousarray(np.rot90(strokes)), "90 degrees"),
        (strokes[16:54:2, ::2], "scan with more"),
        (np.vstack([strokes, strokes]), "two or more lines"),
    ):
        assert any(said in warning for warning in examine(spoilt).warnings), said


def test_complaint_13_converting_page_to_alto_keeps_lines_without_words() -> None:
    """prima-page-converter 13, page-to-alto 49: lines that have no Word elements are lost."""
    region = (
        '<TextRegion id="r"><Coords points="0,0 9,0 9,9"/>'
        '<TextLine id="plain"><Coords points="1,2 90,2 90,9"/><TextEquiv><Unicode>line text</Unicode></TextEquiv>'
        "</TextLine>"
        '<TextLine id="bare"><Coords points="1,12 90,12 90,19"/></TextLine></TextRegion>'
    )
    page = read(page_xml(region)).pages[0]
    words = [tuple(WrittenWord(w, 1.0, (1, 2, 3, 4)) for w in (one.text or "").split()) for one in page.lines]
    lines = tuple(WrittenLine(one, one.text or "", 1.0, w) for one, w in zip(page.lines, words, strict=True))
    written = WrittenPage(replace(page), lines, "a.jpg", (300, 400))
    again = read(new_alto([written], level="word", provenance=MADE)).pages[0]
    assert [(one.id, one.text) for one in again.lines] == [("plain", "line text"), ("bare", "")]
