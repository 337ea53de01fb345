"""How good outlines are and what mends them: `python -m zoo_htr.repolygonize` on real files and made-up ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from page_data import PAGES, alto, needs_pages, page_picture, page_xml, picture_of, read, read_path, save

from zoo_core.errors import InputError
from zoo_core.io.inputs import Source
from zoo_htr.finding.quality import judge
from zoo_htr.pages.model import Points
from zoo_htr.pages.outline_write import with_outlines
from zoo_htr.repolygonize import BELOW, mend

BASES = tuple(((20.0, 60.0 + 80 * n), (380.0, 60.0 + 80 * n)) for n in range(3))


def box(top: float, bottom: float, left: float = 20, right: float = 380) -> Points:
    return (left, top), (right, top), (right, bottom), (left, bottom)


def quality_of(outline: Points) -> float:
    """The quality of an outline of the middle one of three lines, whose ink lies at 115 to 140."""
    found = judge(page_picture(), [(), outline, ()], BASES, distance_px=80)[1]
    assert found is not None
    return found.quality


def test_quality_is_one_for_the_whole_line_alone_and_falls_with_what_is_wrong() -> None:
    assert quality_of(box(105, 150)) == 1.0
    assert quality_of(box(128, 150)) < 0.8  # cuts through the letters
    assert quality_of(box(105, 150, right=200)) == pytest.approx(2 / 3, abs=0.05)  # half of the line
    assert quality_of(box(20, 150)) == pytest.approx(2 / 3, abs=0.05)  # takes in the line above
    assert quality_of(box(20, 70)) == 0.0  # is around another line
    assert quality_of(()) == quality_of(((20, 110), (380, 140))) == 0.0


def test_a_new_outline_holds_the_line_and_nothing_else_and_comes_only_where_it_is_better() -> None:
    for outline in ((), box(20, 150), box(128, 150)):
        found = judge(page_picture(), [(), outline, ()], BASES, distance_px=80)[1]
        assert found is not None
        assert found.better_quality == pytest.approx(quality_of(found.better)) == 1.0
        ys = [y for _, y in found.better]
        assert 90 <= min(ys) <= 115
        assert 140 <= max(ys) <= 165
    assert judge(page_picture(), [(), box(105, 150), ()], BASES, distance_px=80)[1].better == ()  # type: ignore[union-attr]


def test_lines_without_ink_and_upright_ones_are_not_judged() -> None:
    upright = ((10.0, 280.0), (10.0, 20.0))
    found = judge(page_picture(2), [box(185, 230)] * 3, (BASES[2], upright, ()), distance_px=80)
    assert found == [None, None, None]
    assert judge(np.full((30, 30), 200, np.uint8), [()], (((2.0, 20.0), (28.0, 20.0)),)) == [None]


def line(number: int, outline: str) -> str:
    top = 20 + 80 * number
    return (
        f'<TextLine ID="l{number}" BASELINE="20 {top + 40} 380 {top + 40}" HPOS="20" VPOS="{top}" WIDTH="360" '
        f'HEIGHT="55" odd="kept"><Shape><Polygon POINTS="{outline}"/></Shape><String CONTENT="a &amp; b"/></TextLine>'
    )


GOOD = "20 20 380 20 380 75 20 75"
ABOVE_TOO = "20 20 380 20 380 155 20 155"


def test_only_bad_outlines_of_a_file_change_and_a_second_run_finds_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", quality=95)
    xml = tmp_path / "a.xml"
    xml.write_text(alto(line(0, GOOD) + line(1, ABOVE_TOO) + line(2, "1 1 2 2")), "utf-8")
    found, data = mend(Source("a.xml", xml), below=BELOW)
    assert [(one.line, one.after is not None) for one in found] == [("l0", False), ("l1", True), ("l2", True)]
    before, after = read(xml.read_text()).pages[0].lines, read(data).pages[0].lines
    assert after[0] == before[0]
    assert [(b.id, b.baseline, b.text, b.tags) for b in before] == [(a.id, a.baseline, a.text, a.tags) for a in after]
    assert min(y for _, y in after[1].polygon) > 80
    assert after[1].box is not None
    assert after[1].box[1] == min(y for _, y in after[1].polygon)
    assert data.count(b'odd="kept"') == 3
    xml.write_bytes(data)
    assert all(one.after is None for one in mend(Source("a.xml", xml), below=BELOW)[0])


def test_outlines_are_written_in_the_units_and_the_spelling_of_the_file(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", page_picture().repeat(2, axis=0).repeat(2, axis=1), quality=95)
    xml = tmp_path / "a.xml"
    xml.write_text(alto(line(0, GOOD) + line(1, "20,20 380,20 380,155 20,155"), unit="mm10"))
    _, data = mend(Source("a.xml", xml), below=1.0)
    assert b"," in data.split(b'POINTS="')[2].split(b'"')[0]
    ys = [y for _, y in read(data).pages[0].lines[1].polygon]
    assert 80 < min(ys) < max(ys) < 170
    old = "<Point x='1' y='2'/><Point x='9' y='2'/><Point x='9' y='9'/>"
    for coords, expected in (
        (f"<Coords>{old}</Coords>", '<Point x="1" y="2"/>'),
        ("", 'points="1,2 3,4 5,7"'),
        ('<Coords points="1,1 2,2"/>', 'points="1,2 3,4 5,7"'),
    ):
        file = read(
            page_xml(
                f'<TextRegion id="r"><TextLine id="t">{coords}<Baseline points="1,2 3,4"/></TextLine></TextRegion>'
            )
        )
        written = with_outlines(file, {0: ((1, 2), (3, 4), (5, 7))})
        assert expected in written.decode().replace("ns0:", "")
        assert read(written).pages[0].lines[0].polygon == ((1, 2), (3, 4), (5, 7))
        assert read(written).pages[0].lines[0].baseline == ((1, 2), (3, 4))


@needs_pages
def test_outlines_of_real_pages_are_good_and_the_few_bad_ones_get_better() -> None:
    assert PAGES is not None
    path = PAGES / "hooker_2.page.xml"
    found, data = mend(Source(str(path), path), below=BELOW)
    quality = [one.quality or 0 for one in found]
    assert np.median(quality) > 0.95
    assert [one.line for one in found if one.after is not None] == ["l"]
    assert min(one.after for one in found if one.after is not None) > 0.95
    before, after = read_path(path).pages[0], read(data).pages[0]
    assert sum(a.polygon != b.polygon for a, b in zip(after.lines, before.lines, strict=True)) == 1
    assert picture_of(path).is_file()


def test_the_command_reports_mends_and_goes_on_after_a_bad_file(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", quality=95)
    (tmp_path / "a.xml").write_text(alto(line(0, GOOD) + line(1, ABOVE_TOO)))
    (tmp_path / "b.xml").write_text(alto(line(0, GOOD), file_name="lost.jpg"))
    (tmp_path / "mets.xml").write_text("<mets/>")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zoo_htr.repolygonize", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    said = run("-o", str(tmp_path / "out"))
    assert said.returncode == InputError.exit_code
    assert "its picture ('lost.jpg' in the XML) was not found" in said.stderr
    assert "2 lines, 1 with a quality below 0.8, 1 mended" in said.stderr
    assert [row.split()[2] for row in said.stdout.splitlines()[1:]] == ["l1"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.xml"]
    rows = [json.loads(row) for row in run("--format", "json").stdout.splitlines()]
    assert [(row["line"], row["quality"] >= 0.8, row["after"]) for row in rows] == [
        ("l0", True, None),
        ("l1", False, 1.0),
    ]
