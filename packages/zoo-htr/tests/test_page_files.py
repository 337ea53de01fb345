"""ALTO and PAGE as people have them: every dialect, unit, hole and fault is read, or said in one sentence."""

from __future__ import annotations

import codecs

import pytest
from page_data import alto, page_xml, read

from zoo_core.errors import InputError
from zoo_core.io.inputs import Source
from zoo_htr.pages.layout import lay_out
from zoo_htr.pages.model import Line
from zoo_htr.pages.read import kind_of

LINE = '<TextLine ID="l1" HPOS="10" VPOS="20" WIDTH="200" HEIGHT="40"{more}>{shape}{words}</TextLine>'
SHAPE = '<Shape><Polygon POINTS="{points}"/></Shape>'
TEXT = '<String CONTENT="a word"/>'


def alto_line(more: str = "", points: str = "10 20 210 20 210 60 10 60", words: str = TEXT, **kept: str) -> Line:
    shape = SHAPE.format(points=points) if points else ""
    return read(alto(LINE.format(more=f" {more}", shape=shape, words=words), **kept)).pages[0].lines[0]


def region(lines: str, name: str = "r1", more: str = "") -> str:
    return f'<TextRegion id="{name}"{more}><Coords points="0,0 400,0 400,300 0,300"/>{lines}</TextRegion>'


def page_line(name: str, text: str = "", more: str = "", inner: str = "") -> str:
    equivalent = f"<TextEquiv><Unicode>{text}</Unicode></TextEquiv>" if text else ""
    return f'<TextLine id="{name}"{more}><Coords points="10,20 210,20 210,60 10,60"/>{inner}{equivalent}</TextLine>'


# -- ALTO --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "namespace",
    ["", *(f' xmlns="http://www.loc.gov/standards/alto/ns-v{n}#"' for n in (2, 3, 4)), ' xmlns="urn:anything"'],
)
def test_alto_of_any_version_and_without_namespace(namespace: str) -> None:
    line = alto_line('BASELINE="10 50 210 50"', namespace=namespace)
    assert (line.id, line.text, line.baseline) == ("l1", "a word", ((10, 50), (210, 50)))
    assert line.polygon == ((10, 20), (210, 20), (210, 60), (10, 60))


@pytest.mark.parametrize(
    "points", ["10 20 210 20 210 60", "10,20 210,20 210,60", "10.0,20 210,20.0  210 60.0", "10, 20 210, 20, 210 60"]
)
def test_points_in_every_spelling(points: str) -> None:
    assert alto_line(points=points).polygon == ((10, 20), (210, 20), (210, 60))


def test_baseline_of_old_alto_is_one_number() -> None:
    assert alto_line('BASELINE="52"').baseline == ((10, 52), (210, 52))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ('<String CONTENT="two"/><SP/><String CONTENT="words"/>', "two words"),
        ('<String CONTENT="two"/><String CONTENT="words"/>', "two words"),
        ('<String CONTENT="cut"/><HYP CONTENT="-"/>', "cut-"),
        ('<String CONTENT="l&#x27;&quot;&amp;&lt;"/>', "l'\"&<"),
        ('<String CONTENT=""/>', ""),
        ("", None),
    ],
)
def test_text_of_strings(words: str, text: str | None) -> None:
    assert alto_line(words=words).text == text


def test_tags_are_resolved_and_unknown_ones_stand_for_themselves() -> None:
    tags = '<Tags><OtherTag ID="LT1" LABEL="Heading"/><LayoutTag ID="x" LABEL="zone"/></Tags>'
    assert alto_line('TAGREFS="LT1 x lost"', tags=tags).tags == ("Heading", "zone", "lost")


def test_nested_blocks_margins_and_several_pages_are_read() -> None:
    one = LINE.format(more="", shape="", words=TEXT)
    text = alto(one).replace(
        "<PrintSpace>",
        f'<TopMargin><TextBlock ID="m">{one.replace("l1", "top")}</TextBlock></TopMargin><PrintSpace>'
        f'<ComposedBlock ID="c"><TextBlock ID="b0">{one.replace("l1", "deep")}</TextBlock></ComposedBlock>',
    )
    page = read(text.replace("</Layout>", '<Page ID="p2" WIDTH="7"><PrintSpace/></Page></Layout>')).pages
    assert [line.id for line in page[0].lines] == ["top", "deep", "l1"]
    assert [page[0].regions[line.region or 0].id for line in page[0].lines] == ["m", "b0", "b1"]
    assert (page[1].id, page[1].lines) == ("p2", ())


def test_alto_reading_order_of_blocks_and_lines() -> None:
    lines = "".join(LINE.format(more="", shape="", words=TEXT).replace("l1", name) for name in "abc")
    order = (
        '<ReadingOrder><OrderedGroup ID="o"><ElementRef ID="e1" REF="c"/><ElementRef ID="e2" REF="a"/>'
        "</OrderedGroup></ReadingOrder>"
    )
    assert [line.id for line in read(alto(lines, after=order)).pages[0].lines] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("unit", "dpi", "scale"), [("mm10", 254, 1.0), ("mm10", 300, 300 / 254), ("inch1200", 300, 0.25)]
)
def test_units_are_converted(unit: str, dpi: float, scale: float) -> None:
    """Tenths of millimetres and twelve-hundredths of inches, by the resolution of the picture."""
    page = read(
        alto(LINE.format(more="", shape=SHAPE.format(points="0 0 200 0 200 40"), words=TEXT), unit=unit, page="")
    ).pages[0]
    layout = lay_out(page, (300, 400), dpi)
    assert layout.page.lines[0].polygon[1] == pytest.approx((200 * scale, 0))
    assert not [note for note in layout.notes if "assumed" in note]
    assert any("300 pixels an inch are assumed" in note for note in lay_out(page, (300, 400), None).notes)


def test_units_are_converted_by_the_size_of_the_page_where_it_is_given() -> None:
    page = read(alto(LINE.format(more="", shape="", words=TEXT), unit="mm10", page='WIDTH="2000" HEIGHT="1500"')).pages[
        0
    ]
    assert lay_out(page, (300, 400)).page.lines[0].box == pytest.approx((2, 4, 42, 12))


def test_unknown_unit_is_said() -> None:
    assert "furlong" in read(alto(unit="furlong")).pages[0].notes[0]


# -- PAGE --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version", ["2010-03-19", "2010-01-12", "2013-07-15", "2016-07-15", "2017-07-15", "2018-07-15", "2019-07-15"]
)
def test_page_of_any_version(version: str) -> None:
    inner = '<Baseline points="10,50 210,50"/>'
    (line,) = read(page_xml(region(page_line("l1", "text", inner=inner)), version=version)).pages[0].lines
    assert (line.text, line.baseline, len(line.polygon)) == ("text", ((10, 50), (210, 50)), 4)


def test_page_2010_has_an_element_a_point() -> None:
    text = page_xml(
        region(
            '<TextLine id="l1"><Coords><Point x="1" y="2"/><Point x="30" y="4"/><Point x="5" y="60"/></Coords>'
            "</TextLine>"
        )
    )
    (line,) = read(text).pages[0].lines
    assert (line.polygon, line.baseline, line.text) == (((1, 2), (30, 4), (5, 60)), (), None)


def test_transkribus_order_of_regions_and_lines() -> None:
    """ReadingOrder for regions, `custom` for the lines in them; what neither names follows in the order of the file."""
    order = (
        '<ReadingOrder><OrderedGroup id="o"><RegionRefIndexed index="1" regionRef="r1"/>'
        '<RegionRefIndexed index="0" regionRef="r2"/></OrderedGroup></ReadingOrder>'
    )
    first = region(
        page_line("a", more=' custom="readingOrder {index:1;}"')
        + page_line("b", more=' custom="readingOrder {index:0;} x {y:z;}"')
    )
    second = region(page_line("c"), "r2")
    third = region(page_line("d"), "r3")
    lines = read(page_xml(order + third + first + second)).pages[0].lines
    assert [line.id for line in lines] == ["c", "b", "a", "d"]
    assert [line.place for line in lines] == [3, 2, 1, 0]


def test_nested_groups_nested_regions_and_tables() -> None:
    order = (
        '<ReadingOrder><UnorderedGroup id="u"><OrderedGroupIndexed id="g" index="0">'
        '<RegionRefIndexed index="0" regionRef="t"/></OrderedGroupIndexed><RegionRef regionRef="r1"/>'
        "</UnorderedGroup></ReadingOrder>"
    )
    table = f'<TableRegion id="t"><TableCell row="0" col="0" id="c1">{page_line("cell")}</TableCell></TableRegion>'
    inner = region(page_line("inner"), "r9")
    lines = read(page_xml(order + region(page_line("outer") + inner) + table)).pages[0].lines
    assert [line.id for line in lines] == ["cell", "outer", "inner"]


def test_text_equivalents() -> None:
    """The lowest index counts, else the first; the line's own text before its words'."""

    def equivalent(text: str, index: str = "") -> str:
        return f"<TextEquiv{index}><Unicode>{text}</Unicode></TextEquiv>"

    def text_of(inner: str) -> str | None:
        return read(page_xml(region(f'<TextLine id="l">{inner}</TextLine>'))).pages[0].lines[0].text

    assert text_of(equivalent("second", ' index="1"') + equivalent("first", ' index="0"')) == "first"
    assert text_of(equivalent("a") + equivalent("b")) == "a"
    words = "".join(f'<Word id="w{t}">{equivalent(t)}</Word>' for t in ("of", "words"))
    assert text_of(words) == "of words"
    assert text_of(words + equivalent("of line")) == "of line"
    assert text_of("<TextEquiv><PlainText>plain</PlainText></TextEquiv>") == "plain"
    assert text_of("<TextEquiv><Unicode/></TextEquiv>") == ""
    assert text_of("") is None


def test_kinds_and_directions() -> None:
    more = ' custom="structure {type:heading;}" readingDirection="right-to-left" primaryLanguage="Hebrew"'
    page = read(page_xml(region(page_line("a", more=more), more=' type="marginalia"'))).pages[0]
    assert (page.lines[0].tags, page.lines[0].right_to_left) == (("heading",), True)
    assert (page.lines[0].language, page.regions[0].tags) == ("Hebrew", ("marginalia",))


def test_transkribus_metadata_that_no_schema_knows_is_tolerated() -> None:
    metadata = '<TranskribusMetadata docId="0" status="DONE"/>'
    assert read(page_xml(region(page_line("a")), metadata=metadata)).pages[0].lines


# -- bad files ---------------------------------------------------------------------------------------------------------


def test_byte_order_marks_and_wrong_labels() -> None:
    text = alto(LINE.format(more="", shape="", words='<String CONTENT="été"/>'))
    utf16 = text.replace("UTF-8", "UTF-16").encode("utf-16")
    latin = text.replace('encoding="UTF-8"', 'encoding="ISO-8859-1"')
    for data, said in (
        (codecs.BOM_UTF8 + text.encode(), False),
        (utf16, False),
        (latin.encode("latin-1"), False),
        (latin.encode(), True),  # says Latin-1, is UTF-8
        (text.encode("cp1252"), True),  # says UTF-8, is not
    ):
        page = read(data).pages[0]
        assert page.lines[0].text == "été"
        assert bool(page.notes) is said


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<alto><Layout>", "not well-formed"),
        (b"plain text", "not well-formed"),
        (b'<?xml version="1.0"?><mets xmlns="x"/>', "METS"),
        (b"<TEI/>", "TEI"),
        (b"<alto/>", "describes no page"),
        (b"<PcGts/>", "describes no page"),
        (b'<!DOCTYPE alto [<!ENTITY a "b">]><alto>&a;</alto>', "declares entities"),
        (b'<!DOCTYPE alto [<!ENTITY x SYSTEM "file:///etc/passwd">]><alto>&x;</alto>', "declares entities"),
        (
            '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE alto [<!ENTITY a "b">]><alto/>'.encode("utf-16"),
            "declares entities",
        ),
        (b"<a>" * 400 + b"</a>" * 400, "not well-formed"),
    ],
)
def test_what_is_no_page_is_one_sentence(data: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        read(data, "odd.xml")
    assert "odd.xml" in caught.value.message
    assert caught.value.remedy


def test_xml_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(InputError, match="limit"):
        read(b" " * (64 * 2**20 + 1))


def test_a_dtd_on_the_network_or_disk_is_not_fetched(tmp_path) -> None:
    """A DOCTYPE alone does no harm; what it points to is never opened."""
    text = alto(LINE.format(more="", shape="", words=TEXT))
    head, body = text.split("?>", 1)
    data = f'{head}?><!DOCTYPE alto SYSTEM "{tmp_path}/nowhere.dtd">{body}'
    assert read(data).pages[0].lines[0].text == "a word"


def test_kind_is_seen_by_the_first_bytes() -> None:
    def kind(data: bytes) -> str | None:
        return kind_of(Source("a", data=data))

    assert kind(codecs.BOM_UTF8 + b"<?xml version='1.0'?><!-- <PcGts> --><alto>") == "alto"
    assert kind("<?xml version='1.0' encoding='UTF-16'?><x:PcGts xmlns:x='y'>".encode("utf-16")) == "page"
    assert kind(b"<mets:mets>") is None
    assert kind(b"\xff\xd8\xff") is None
