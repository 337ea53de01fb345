"""Zip archives: exports of eScriptorium and Transkribus are read as they come, and nothing in one can do harm."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_data import LINES, alto, page_picture, page_xml, save
from PIL import Image

from zoo_core.errors import InputError
from zoo_core.io.inputs import Source
from zoo_core.predict import run
from zoo_htr.lines import Tally, read_lines
from zoo_htr.pages import archive
from zoo_htr.pages.archive import is_zip, unpack
from zoo_htr.predict import HTRPredictor
from zoo_htr.truth import true_lines

PAGE_LINE = (
    '<TextRegion id="r"><Coords points="0,0 400,0 400,300 0,300"/><TextLine id="t"><Coords '
    'points="20,20 380,20 380,75 20,75"/><Baseline points="20,60 380,60"/><TextEquiv><Unicode>old</Unicode></TextEquiv>'
    "</TextLine></TextRegion>"
)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(page_picture()).save(file, "JPEG", quality=95)
    return file.getvalue()


def packed(path: Path, members: dict[str, bytes | str], **more: int) -> Path:
    with zipfile.ZipFile(path, "w", **more) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def transkribus(path: Path, pages: int = 2) -> Path:
    """An export in both formats: pictures, page/, alto/, a METS file, all in folders of numbers and titles."""
    members: dict[str, bytes | str] = {"17/my letters/mets.xml": '<mets xmlns="http://www.loc.gov/METS/"/>'}
    for number in range(1, pages + 1):
        name = f"{number:04d}_scan"
        members[f"17/my letters/{name}.jpg"] = jpeg()
        page = f'imageFilename="{name}.jpg" imageWidth="400" imageHeight="300"'
        members[f"17/my letters/page/{name}.xml"] = page_xml(PAGE_LINE, page=page)
        members[f"17/my letters/alto/{name}.xml"] = alto(LINES, file_name=f"{name}.jpg")
    return packed(path, members)


def escriptorium(path: Path) -> Path:
    """Flat: pictures and ALTO side by side, not always of the same stem."""
    return packed(
        path,
        {
            "page_10.jpg": jpeg(),
            "page_2.jpg": jpeg(),
            "export_2.xml": alto(LINES, file_name="page_2.jpg"),
            "page_10.xml": alto(LINES, file_name="page_10.jpg"),
            "METS.xml": '<mets xmlns="http://www.loc.gov/METS/"/>',
        },
    )


def test_an_export_of_escriptorium_is_read_page_by_page(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    given = escriptorium(tmp_path / "export.zip")
    outcomes = list(run(opened(format="alto"), [given], out=tmp_path / "out"))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert [outcome.source.name for outcome in outcomes] == [f"{given}/export_2.xml", f"{given}/page_10.xml"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export_2.alto.xml", "page_10.alto.xml"]
    assert 'ID="l2"' in (tmp_path / "out/export_2.alto.xml").read_text()


@pytest.mark.parametrize(("kind", "lines"), [("alto", 3), ("page", 1), ("txt", 1)])
def test_an_export_of_transkribus_in_two_formats_is_read_once(
    kind: str, lines: int, tmp_path: Path, opened: Callable[..., HTRPredictor]
) -> None:
    """The format that is written is read, so that its ids survive; for another one PAGE, as beside a picture."""
    given = transkribus(tmp_path / "export.zip")
    outcomes = list(run(opened(format=kind), [given]))
    assert [len(outcome.result.pages[0].cuts) for outcome in outcomes if outcome.result] == [lines, lines]


def test_pictures_without_xml_in_an_archive_are_pages(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    given = packed(tmp_path / "scans.zip", {"b/2.jpg": jpeg(), "a/1.jpg": jpeg()})
    outcomes = list(run(opened(), [given], out=tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.txt", "2.txt"]
    assert all(outcome.error is None for outcome in outcomes)


def test_one_damaged_member_leaves_the_others(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    given = packed(tmp_path / "scans.zip", {"1.jpg": jpeg(), "2.jpg": jpeg(), "3.jpg": b"no picture"})
    data = bytearray(given.read_bytes())
    data[data.index(b"1.jpg") + 300] ^= 255  # in the pixels of the first: its check sum is off
    given.write_bytes(data)
    outcomes = list(run(opened(), [given], out=tmp_path / "out"))
    said = {Path(outcome.source.name).name: str(outcome.error) for outcome in outcomes}
    assert said["2.jpg"] == "None"
    assert "1.jpg in scans.zip cannot be unpacked (Bad CRC-32" in said["1.jpg"]
    assert "is not a picture" in said["3.jpg"]


def test_lines_for_training_and_evaluation_come_from_archives_too(tmp_path: Path) -> None:
    given = transkribus(tmp_path / "export.zip")
    tally = Tally()
    assert [line.text for line in read_lines([given], tally)] == ["old", "old"]
    twice = tally.left_out["pages that are there in another format too"]
    assert twice == ["0001_scan.xml", "0002_scan.xml"]
    assert [line.text for line in true_lines(given)] == ["old", "old"]
    pairs = packed(tmp_path / "pairs.zip", {"a/1.jpg": jpeg(), "a/1.gt.txt": "truth"})
    assert [line.text for line in read_lines([pairs], Tally())] == ["truth"]
    assert [line.text for line in true_lines(pairs)] == ["truth"]


def test_a_folder_with_both_formats_gives_every_line_once(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    (tmp_path / "a.alto.xml").write_text(alto(LINES))
    (tmp_path / "a.page.xml").write_text(page_xml(PAGE_LINE))
    assert len(list(read_lines([tmp_path], Tally()))) == len(list(true_lines(tmp_path))) == 3


@pytest.mark.parametrize("name", ["../evil.xml", "/etc/evil.xml", "a/../../evil.xml", "..\\evil.xml", "C:\\evil.xml"])
def test_members_that_lead_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    given = packed(tmp_path / "a.zip", {"1.xml": "<a/>", name: "<a/>"})
    with pytest.raises(InputError, match=r"a\.zip holds a file that leads out of the folder"):
        unpack(Source(str(given), given), tmp_path / "place")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [given]


def test_links_hidden_files_and_programs_stay_in_the_archive(tmp_path: Path) -> None:
    given = packed(tmp_path / "a.zip", {"1.xml": "<a/>", ".2.xml": "x", "__MACOSX/3.xml": "x", "4.exe": "x"})
    link = zipfile.ZipInfo("5.xml")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(given, "a") as file:
        file.writestr(link, "/etc/passwd")
    found = unpack(Source(str(given), given), tmp_path / "place")
    assert [source.name for source in found] == [f"{given}/1.xml"]
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["1.xml"]


def test_sizes_are_counted_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive that unpacks to much: nothing that it says of itself is believed."""
    bomb = packed(tmp_path / "b.zip", {"1.xml": bytes(1 << 22)}, compression=zipfile.ZIP_DEFLATED)
    data = bomb.read_bytes()
    assert len(data) < 10_000
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"b\.zip holds more than 0 GiB"):
        unpack(Source(str(bomb), bomb), tmp_path / "place")
    assert sum(path.stat().st_size for path in (tmp_path / "place").iterdir()) <= 3 << 20
    monkeypatch.setattr(archive, "MAX_FILES", 0)
    with pytest.raises(InputError, match="holds 1 files; the limit is 0"):
        unpack(Source("b.zip", data=data), tmp_path / "other")


def test_what_is_no_archive_or_of_no_use_is_one_sentence(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    useless = packed(tmp_path / "useless.zip", {"a.exe": "x"})
    cut = tmp_path / "cut.zip"
    cut.write_bytes(transkribus(tmp_path / "whole.zip").read_bytes()[:5000])
    assert not is_zip(Source("none", data=b"PKzip"))
    said = [str(outcome.error) for outcome in run(opened(), [useless, cut], out=tmp_path / "out")]
    assert "useless.zip holds no picture, PDF or XML" in said[0]
    assert "cut.zip cannot be opened as a zip archive" in said[1]
    with pytest.raises(InputError, match=r"Give it to zoo predict or zoo_core\.predict\.run"):
        opened().predict(useless)


def test_two_members_of_one_name_and_a_file_for_a_folder(tmp_path: Path) -> None:
    given = tmp_path / "a.zip"
    file = zipfile.ZipFile(given, "w")
    file.writestr("a.xml", "first")
    with pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("a.xml", "second")
    file.writestr("a.xml/b.xml", "third")
    file.close()
    good, *bad = unpack(Source(str(given), given), tmp_path / "place")
    assert good.read_bytes() == b"first"
    assert [source.problem is not None for source in bad] == [True, True]
    assert "there are two of that name" in str(bad[0].problem)


def test_a_member_without_a_name_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a.xml", "<a/>")
    nameless = file.getvalue().replace(b"a.xml", b"\0.xml")  # what follows a zero is no part of a name
    with pytest.raises(InputError, match=r"a\.zip"):
        unpack(Source("a.zip", data=nameless), tmp_path / "place")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_changed_in_an_archive_are_a_sentence_or_a_member_that_is_named(draw: st.DataObject) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/1.xml", "<a>" + "text " * 50 + "</a>")
        made.writestr("2.xml", "<b/>")
    data = bytearray(file.getvalue())
    for place in draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=6)):
        data[place] ^= draw.draw(st.integers(1, 255))
    with TemporaryDirectory() as folder:
        try:
            found = unpack(Source("a.zip", data=bytes(data)), Path(folder) / "place")
            assert all(source.problem or (source.path is not None and source.path.is_file()) for source in found)
        except InputError as error:
            assert "a.zip" in error.message  # noqa: PT017 (most damage raises nothing)
