"""What is written: the attributes and the order of elements that the schemas ask for, and no text lost or unescaped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lxml import etree
from page_data import alto, page_xml, read

from zoo_htr.cutting import cut, uncut
from zoo_htr.pages.alto_write import edit_alto, new_alto
from zoo_htr.pages.hocr import new_hocr
from zoo_htr.pages.model import Line, Page, Region
from zoo_htr.pages.page_xml_write import edit_page_xml, new_page_xml
from zoo_htr.pages.placing import placed
from zoo_htr.pages.tei import new_tei
from zoo_htr.pages.written import Level, Provenance, WrittenGlyph, WrittenLine, WrittenPage, WrittenWord
from zoo_htr.reading import Char, Reading

MADE = Provenance("zoo-htr", "0.1.0", "htr-jand-student", (("weights", "abc"), ("decoder", "greedy")))
POLYGON = ((10.0, 20.0), (210.0, 20.0), (210.0, 60.0), (10.0, 60.0))
LINE = Line("l1", POLYGON, ((10.0, 50.0), (210.0, 50.0)), tags=("Heading",), region=0, language="fr")
NASTY = 'd\'"été" & <b> ]]> \u200f\u05d0'


def word(text: str, left: float = 10) -> WrittenWord:
    glyphs = tuple(
        WrittenGlyph(c, 0.75, (left + 5 * i, 20, left + 5 * i + 5, 60), (("x", 0.125),)) for i, c in enumerate(text)
    )
    return WrittenWord(text, 0.5, (left, 20, left + 40, 60), glyphs)


def page_of(text: str = "two words", *, line: Line = LINE) -> WrittenPage:
    words = tuple(word(part, 10 + 60 * n) for n, part in enumerate(text.split()))
    written = WrittenLine(line, text, 0.9, words, ("two wards", "to words"))
    region = Region("r 1", POLYGON, None, ("MainZone",))
    return WrittenPage(Page((line,), (region,), 400, 300), (written,), "a letter.jpg", (300, 400))


def xpath(data: bytes, path: str) -> list[etree._Element]:
    """Find by local names, whatever the namespace."""
    steps = [f"*[local-name()='{name}']" for name in path.split("/")]
    return etree.fromstring(data).xpath("//" + "/".join(steps))


def names(element: etree._Element) -> list[str]:
    return [etree.QName(child).localname for child in element]


@pytest.mark.parametrize("level", ["line", "word", "glyph"])
def test_new_alto_has_what_the_schema_requires(level: Level) -> None:
    data = new_alto([page_of()], level=level, provenance=MADE)
    root = etree.fromstring(data)
    assert names(root) == ["Description", "Tags", "Layout"]
    (description,) = xpath(data, "Description")
    assert names(description) == ["MeasurementUnit", "sourceImageInformation", "Processing"]
    assert xpath(data, "fileName")[0].text == "a letter.jpg"
    (page,) = xpath(data, "Page")
    assert (page.get("WIDTH"), page.get("HEIGHT"), bool(page.get("PHYSICAL_IMG_NR"))) == ("400", "300", True)
    ids = [e.get("ID") for e in root.iter() if e.get("ID")]
    assert len(ids) == len(set(ids))
    assert all(etree.QName(name).localname == name for name in ids)  # NCNames: "r 1" is none
    references = {name for e in root.iter() for name in (e.get("TAGREFS") or "").split()}
    assert references <= set(ids)
    (line,) = xpath(data, "TextLine")
    assert [line.get(key) for key in ("HPOS", "VPOS", "WIDTH", "HEIGHT")] == ["10", "20", "200", "40"]
    assert names(line)[0] == "Shape"
    for string in xpath(data, "String"):
        assert string.get("CONTENT")
        assert 0 <= float(string.get("WC")) <= 1
        assert {"HPOS", "VPOS", "WIDTH", "HEIGHT"} <= set(string.attrib)
    expected = {"line": ["Shape", "String"], "word": ["Shape", "String", "SP", "String"]}
    assert names(line) == expected["line" if level == "line" else "word"]
    if level == "line":
        assert [e.text for e in xpath(data, "ALTERNATIVE")] == ["two wards", "to words"]
    if level == "glyph":
        glyphs = xpath(data, "Glyph")
        assert "".join(g.get("CONTENT") for g in glyphs) == "twowords"
        assert (glyphs[0].get("GC"), glyphs[0][0].get("CONTENT"), glyphs[0][0].get("VC")) == ("0.7500", "x", "0.1250")
    assert not xpath(data, "SP") or set(xpath(data, "SP")[0].attrib) == {"HPOS", "VPOS", "WIDTH"}


def test_processing_says_what_read_the_text() -> None:
    for data in (
        new_alto([page_of()], level="word", provenance=MADE),
        new_page_xml(page_of(), level="word", provenance=MADE),
        new_hocr([page_of()], level="word", provenance=MADE),
    ):
        assert b"model htr-jand-student; weights abc; decoder greedy" in data


@pytest.mark.parametrize("version", [2, 3, 4])
def test_edited_alto_has_processing_as_its_version_has_it(version: int) -> None:
    namespace = f' xmlns="http://www.loc.gov/standards/alto/ns-v{version}#"'
    file = read(alto('<TextLine ID="l1" HPOS="1" VPOS="1" WIDTH="90" HEIGHT="20"/>', namespace=namespace, file_name=""))
    page = replace(page_of(line=file.pages[0].lines[0]), page=file.pages[0])
    data = edit_alto(file, [page], level="word", provenance=MADE)
    kind = "Processing" if version == 4 else "OCRProcessing"
    assert names(xpath(data, "Description")[0]) == ["MeasurementUnit", "sourceImageInformation", kind]
    assert xpath(data, "fileName")[0].text == "a letter.jpg"  # eScriptorium imports none without
    assert {etree.QName(e).namespace for e in etree.fromstring(data).iter()} == {
        f"http://www.loc.gov/standards/alto/ns-v{version}#"
    }


@pytest.mark.parametrize("level", ["line", "word", "glyph"])
def test_new_page_has_the_order_of_the_schema(level: Level) -> None:
    data = new_page_xml(page_of(), level=level, provenance=MADE)
    assert names(xpath(data, "Metadata")[0]) == ["Creator", "Created", "LastChange", "Comments"]
    (page,) = xpath(data, "Page")
    assert dict(page.attrib) == {"imageFilename": "a letter.jpg", "imageWidth": "400", "imageHeight": "300"}
    (line,) = xpath(data, "TextLine")
    words = [] if level == "line" else ["Word", "Word"]
    assert names(line) == ["Coords", "Baseline", *words, "TextEquiv", "TextEquiv", "TextEquiv"]
    assert [e.get("index") for e in line if "TextEquiv" in e.tag] == ["0", "1", "2"]
    assert line.get("custom") == "structure {type:Heading;}"
    for one in xpath(data, "Word"):
        assert names(one)[0] == "Coords"
        assert names(one)[-1] == "TextEquiv"
        assert ("Glyph" in names(one)) is (level == "glyph")
    ids = [e.get("id") for e in etree.fromstring(data).iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    assert " " not in "".join(ids)


@pytest.mark.parametrize("level", ["line", "word", "glyph"])
def test_hocr_has_boxes_baselines_and_confidences(level: Level) -> None:
    line = replace(LINE, baseline=((10.0, 40.0), (210.0, 60.0)))
    data = new_hocr([page_of(line=line)], level=level, provenance=MADE)
    (page,) = etree.fromstring(data).xpath("//*[@class='ocr_page']")
    assert page.get("title") == 'image "a letter.jpg"; bbox 0 0 400 300; ppageno 0'
    (one,) = page.xpath(".//*[@class='ocr_line']")
    # the baseline rises from 20 above the lower left corner of the box (y 60) at a slope of 0.1
    assert one.get("title").startswith("bbox 10 20 210 60; baseline 0.1000 -20; poly 10 20 ")
    words = page.xpath(".//*[@class='ocrx_word']")
    assert "".join(one.itertext()).strip() == "two words"
    assert [w.text for w in words] == ([] if level == "line" else ["two", "words"])
    if level == "glyph":
        assert words[0].get("title") == "bbox 10 20 50 60; x_wconf 50; x_confs 75 75 75"


def test_tei_points_from_every_line_to_its_place_on_the_facsimile() -> None:
    nowhere = WrittenLine(Line("l1"), "lost", None)
    page = page_of(NASTY)
    page = replace(page, lines=(*page.lines, nowhere))
    data = new_tei([page, page], title="a letter", provenance=MADE)
    assert names(etree.fromstring(data)) == ["teiHeader", "facsimile", "text"]
    assert xpath(data, "titleStmt/title")[0].text == "a letter"
    assert [graphic.get("url") for graphic in xpath(data, "surface/graphic")] == ["a letter.jpg"] * 2
    zones = {zone.get("{http://www.w3.org/XML/1998/namespace}id"): zone for zone in xpath(data, "surface/zone")}
    beginnings = xpath(data, "lb")
    assert [lb.get("n") for lb in beginnings] == ["1", "2"] * 2
    assert beginnings[0].tail == NASTY
    assert [lb.get("facs") and zones[lb.get("facs")[1:]].get("points") for lb in beginnings] == [
        "10,20 210,20 210,60 10,60", None,
    ] * 2  # fmt: skip
    assert len(zones) == 2
    assert "weights abc" in xpath(data, "application/label")[0].text


@pytest.mark.parametrize("level", ["line", "word"])
def test_signs_of_xml_and_controls_in_the_text(level: Level) -> None:
    """Markup is escaped; what XML cannot hold at all is left out instead of breaking the file."""
    written = page_of(f"{NASTY}\x0b\x00\ufffe")
    for data in (
        new_alto([written], level=level, provenance=MADE),
        new_page_xml(written, level=level, provenance=MADE),
    ):
        assert read(data).pages[0].lines[0].text.split() == NASTY.split()
    assert NASTY.split()[-1] in "".join(etree.fromstring(new_hocr([written], level=level, provenance=MADE)).itertext())


@pytest.mark.parametrize("direction", [True, False])
def test_direction_is_written_for_right_to_left_alone(direction: bool) -> None:
    """kraken's template writes rtl for both."""
    data = new_alto([page_of(line=replace(LINE, right_to_left=direction))], level="word", provenance=MADE)
    assert xpath(data, "TextLine")[0].get("BASEDIRECTION") == ("rtl" if direction else None)
    assert read(data).pages[0].lines[0].right_to_left is direction


def test_editing_keeps_ids_of_words_and_what_is_unknown() -> None:
    file = read(
        alto(
            '<TextLine ID="l1" BASELINE="1 9 90 9" HPOS="1" VPOS="2" WIDTH="90" HEIGHT="9" MINE="kept"><Own/>'
            '<String ID="s1" CONTENT="old" STYLEREFS="f1" CC="000" WC="0.1"/><SP/><String ID="s2" CONTENT="text"/>'
            "</TextLine>"
        )
    )
    page = replace(page_of("new words here", line=file.pages[0].lines[0]), page=file.pages[0])
    data = edit_alto(file, [page], level="word", provenance=MADE)
    strings = xpath(data, "String")
    assert [(s.get("ID"), s.get("CONTENT")) for s in strings] == [("s1", "new"), ("s2", "words"), (None, "here")]
    assert (strings[0].get("STYLEREFS"), strings[0].get("CC"), strings[0].get("WC")) == ("f1", None, "0.5000")
    (line,) = xpath(data, "TextLine")
    assert (line.get("MINE"), names(line)) == ("kept", ["Own", "String", "SP", "String", "SP", "String"])


def test_string_of_a_whole_line_stays_one_as_escriptorium_has_it() -> None:
    file = read(
        alto(
            '<TextLine ID="l1" HPOS="1" VPOS="2" WIDTH="90" HEIGHT="9"><String CONTENT="old text" HPOS="1"/></TextLine>'
        )
    )
    page = replace(page_of("new words", line=file.pages[0].lines[0]), page=file.pages[0])
    (string,) = xpath(edit_alto(file, [page], level="line", provenance=MADE), "String")
    assert (string.get("CONTENT"), string.get("HPOS"), string.get("WC")) == ("new words", "1", "0.9000")


def test_a_line_that_was_not_read_is_empty_and_without_confidence() -> None:
    file = read(
        alto('<TextLine ID="l1" HPOS="1" VPOS="2" WIDTH="90" HEIGHT="9"><String CONTENT="old" WC="1"/></TextLine>')
    )
    page = WrittenPage(file.pages[0], (WrittenLine(file.pages[0].lines[0], "", None),), "a.jpg", (300, 400))
    (string,) = xpath(edit_alto(file, [page], level="word", provenance=MADE), "String")
    assert (string.get("CONTENT"), string.get("WC")) == ("", None)


def test_transkribus_marks_that_count_characters_go_with_the_text_they_counted() -> None:
    custom = "readingOrder {index:0;} unclear {offset:4; length:3;} structure {type:heading;}"
    lines = (
        f'<TextRegion id="r"><Coords points="0,0 9,0 9,9"/><TextLine id="l1" custom="{custom}">'
        '<Coords points="1,2 90,2 90,9"/>'
        '<Word id="w1"><TextEquiv><Unicode>two</Unicode></TextEquiv></Word><Word id="w2"/>'
        "<TextEquiv><Unicode>two words</Unicode></TextEquiv></TextLine></TextRegion>"
    )
    file = read(page_xml(lines))

    def edited(text: str) -> etree._Element:
        page = replace(page_of(text, line=file.pages[0].lines[0]), page=file.pages[0])
        return xpath(edit_page_xml(file, [page], level="line", provenance=MADE), "TextLine")[0]

    same, changed = edited("two words"), edited("other words")
    assert (same.get("custom"), "Word" in names(same)) == (custom, True)
    assert changed.get("custom") == "readingOrder {index:0;} structure {type:heading;}"
    assert "Word" not in names(changed)


def test_page_metadata_is_stamped_and_its_creator_kept() -> None:
    file = read(page_xml(metadata="<Comments>mine</Comments>"))
    data = edit_page_xml(file, [], level="line", provenance=MADE)
    values = {etree.QName(e).localname: e.text for e in xpath(data, "Metadata")[0]}
    assert (values["Creator"], values["Created"]) == ("a person", "2020-01-01T00:00:00")
    assert values["LastChange"] > "2020-01-02"
    assert values["Comments"].startswith("mine\nText read by zoo-htr 0.1.0: model htr-jand-student")


def test_what_stands_around_the_root_survives() -> None:
    text = alto().replace("?>", "?><!-- by hand --><?style sheet?>", 1)
    data = edit_alto(read(text), [], level="word", provenance=MADE)
    assert data.startswith(b"<?xml version='1.0' encoding='UTF-8'?>\n<!-- by hand -->")
    assert b"<?style sheet?>" in data


# -- boxes of words ----------------------------------------------------------------------------------------------------


def reading(*spans: tuple[str, int, int]) -> Reading:
    return Reading(tuple(Char(text, 0.9, start, end) for text, start, end in spans), 0.9, -1.0)


def test_words_lie_where_their_frames_are() -> None:
    """A level line of 60 px and its padding: 4 columns a frame at height 64, led back to the page."""
    line = Line("a", ((100.0, 200.0), (500.0, 200.0), (500.0, 260.0), (100.0, 260.0)), ((100.0, 250.0), (500.0, 250.0)))
    made = cut(np.full((400, 600), 200, np.uint8), line.polygon, line.baseline)
    scale = made.box_px[1] / 64
    written = placed(line, reading(("a", 10, 12), ("b", 20, 22), (" ", 30, 31), ("c", 50, 52)), made)
    assert [w.text for w in written.words] == ["ab", "c"]
    first, second = (w.box for w in written.words)
    left = 100 - made.pad_px
    assert first[0] == pytest.approx(left + (10 - 2) * 4 * scale, abs=1)
    assert first[2] == pytest.approx(left + (22 + 2) * 4 * scale, abs=1)
    assert second[0] == pytest.approx(left + (50 - 2) * 4 * scale, abs=1)
    assert (first[1], first[3]) == pytest.approx((200, 260), abs=1.5)


def test_words_name_what_the_next_best_texts_have_in_their_place() -> None:
    chars = tuple(Char(c, 0.9, 4 * i, 4 * i + 1) for i, c in enumerate("two words"))
    others = tuple((text, -1.0) for text in ("two wards", "tow words", "two w ords", "two wards "))
    made = placed(LINE, Reading(chars, 0.9, 0.0, others), uncut(np.zeros((64, 200), np.uint8)))
    assert [word.others for word in made.words] == [("tow",), ("wards",)]
    data = new_alto(
        [WrittenPage(Page((LINE,), (Region("r"),)), (made,), "a.jpg", (300, 400))], level="glyph", provenance=MADE
    )
    strings = xpath(data, "TextLine/String")
    assert [[e.text for e in string if etree.QName(e).localname == "ALTERNATIVE"] for string in strings] == [
        ["tow"],
        ["wards"],
    ]
    assert names(strings[0])[:2] == ["ALTERNATIVE", "Glyph"]  # the order of the schema


def test_words_of_a_turned_line_lie_along_it() -> None:
    line = Line("a", ((100, 100), (400, 400), (380, 420), (80, 120)), ((95, 112), (392, 410)))
    made = cut(np.full((500, 500), 200, np.uint8), line.polygon, line.baseline)
    frames = made.image.shape[1] // 4
    written = placed(line, reading(("a", 3, 5), (" ", 9, 10), ("b", frames - 5, frames - 3)), made)
    first, last = (w.box for w in written.words)
    assert max(first[2], first[3]) < 200
    assert min(last[0], last[1]) > 300


def test_neighbours_share_the_gap_and_boxes_stay_in_the_line() -> None:
    image = np.full((64, 80), 200, np.uint8)
    line = Line("a", ((0, 0), (79, 0), (79, 63), (0, 63)), ((0, 48), (79, 48)))
    written = placed(line, reading(("a", 0, 1), (" ", 1, 2), ("b", 2, 3), (" ", 18, 19), ("c", 19, 20)), uncut(image))
    boxes = [w.box for w in written.words]
    assert boxes[0][2] == boxes[1][0] == 6  # the middle of frames 1 and 2
    assert (boxes[0][0], boxes[-1][2]) == (0, 79)
    assert all(box[0] < box[2] for box in boxes)
    assert all(inner.box[0] >= w.box[0] - 1e-9 for w in written.words for inner in w.glyphs)


def test_a_picture_that_is_a_line_is_placed_in_its_own_pixels() -> None:
    image = np.full((128, 800), 200, np.uint8)  # twice the height of the network
    line = Line("a", ((0, 0), (799, 0), (799, 127), (0, 127)), ((0, 96), (799, 96)))
    (one,) = placed(line, reading(("a", 50, 51)), uncut(image)).words
    assert (one.box[0], one.box[2]) == pytest.approx((48 * 8, 53 * 8))
