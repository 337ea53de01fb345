"""`zoo predict` on pages: every kind of input, and one bad page never stops the others."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_data import LINES, PAGES, alto, page_picture, page_xml, save, texts
from PIL import Image

from zoo_core.errors import InputError, MissingDependencyError, UsageError
from zoo_core.io.inputs import expand
from zoo_core.predict import run
from zoo_htr.predict import HTRPredictor


def test_picture_with_xml_beside_it_uses_its_lines(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    save(tmp_path / "a.png")
    for name in ("a.xml", "a.alto.xml", "a.png.xml", "page/a.xml", "alto/a.xml"):
        xml = tmp_path / name
        xml.parent.mkdir(exist_ok=True)
        xml.write_text(alto(LINES))
        result = opened().predict(tmp_path / "a.png")
        assert [line.id for line in result.pages[0].layout.page.lines] == ["l0", "l1", "l2"]
        assert result.notes == ()
        xml.unlink()
    assert [line.id for line in opened().predict(tmp_path / "a.png").pages[0].page.lines] == [
        "line_1",
        "line_2",
        "line_3",
    ]


def test_xml_finds_its_picture(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    """By its name, whatever path or URL is around it; by its stem; by the XML's own; in the folder above; as told."""
    (tmp_path / "in/page").mkdir(parents=True)
    xml = tmp_path / "in/page/b.xml"

    def works(file_name: str, picture: str, **options: Any) -> bool:
        xml.write_text(alto(LINES, file_name=file_name))
        made = save(tmp_path / picture)
        try:
            return len(texts(opened(**options).predict(xml))[0]) == 3
        finally:
            made.unlink()

    assert works("a b.png", "in/page/a b.png")
    assert works("C:\\scans\\a.png", "in/a.png")
    assert works("https://x.org/iiif/a%20b.png?full", "in/a b.png")
    assert works("a.tif", "in/A.png")  # another extension, another case
    assert works("", "in/page/b.jpg")
    assert works("old name.jpg", "in/images/b.png")
    assert works("a.png", "else/a.png", image_dir=tmp_path / "else")
    table = tmp_path / "map.tsv"
    table.write_text(f"b.xml\t{tmp_path}/else/any.png\n")
    assert works("a.png", "else/any.png", image_map=table)
    with pytest.raises(InputError, match=r"b.xml: its picture \('a.png' in the XML\) was not found in .*--image-dir"):
        works("a.png", "else/c.png")


def test_two_pictures_of_one_stem_are_said(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    (tmp_path / "a.xml").write_text(alto(LINES, file_name="a.tif"))
    save(tmp_path / "a.jpg")
    save(tmp_path / "a.png")
    assert "several pictures are called a: a.jpg is used" in opened().predict(tmp_path / "a.xml").notes


def test_a_folder_is_read_once(
    tmp_path: Path, opened: Callable[..., HTRPredictor], caplog: pytest.LogCaptureFixture
) -> None:
    """A Transkribus export with its METS file, and a folder with pictures and XML side by side."""
    export, mixed = tmp_path / "export", tmp_path / "mixed"
    for folder, place in ((export, export / "page"), (mixed, mixed)):
        place.mkdir(parents=True)
        (folder / "mets.xml").write_text('<mets xmlns="http://www.loc.gov/METS/"/>')
        for name in ("1", "2", "10"):
            save(folder / f"{name}.jpg")
            (place / f"{name}.xml").write_text(page_xml(file_lines(f"{name}.jpg"), page=f'imageFilename="{name}.jpg"'))
    save(mixed / "alone.jpg")
    predictor = opened()
    caplog.set_level("INFO", "zoo_htr")
    for folder, expected in (
        (export, ["1.jpg", "2.jpg", "10.jpg"]),
        (mixed, ["1.xml", "2.xml", "10.xml", "alone.jpg"]),
    ):
        sources = predictor.select(expand([folder], suffixes=predictor.suffixes))
        assert [Path(source.name).name for source in sources] == expected
    assert "mets.xml is neither ALTO nor PAGE: left out" in caplog.text
    outcomes = list(run(predictor, [export], out=tmp_path / "out"))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1.txt", "10.txt", "2.txt"]


def file_lines(_: str) -> str:
    return (
        '<TextRegion id="r"><Coords points="0,0 400,0 400,300 0,300"/><TextLine id="t"><Coords '
        'points="20,20 380,20 380,75 20,75"/><Baseline points="20,60 380,60"/></TextLine></TextRegion>'
    )


def test_one_bad_page_never_stops_a_batch(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    save(tmp_path / "a_good.png")
    (tmp_path / "b_lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "c_cut.png").write_bytes((tmp_path / "a_good.png").read_bytes()[:200])
    (tmp_path / "d_broken.xml").write_text("<alto><Layout>")
    (tmp_path / "e_lost.xml").write_text(alto(LINES, file_name="nowhere.jpg"))
    (tmp_path / "f_empty.png").write_bytes(b"")
    save(tmp_path / "g_good.png")
    outcomes = list(run(opened(), sorted(tmp_path.glob("*_*")), out=tmp_path / "out"))
    assert [outcome.error is None for outcome in outcomes] == [True, False, False, False, False, False, True]
    for outcome in outcomes:
        if outcome.error is not None:
            assert isinstance(outcome.error, InputError)
            assert Path(outcome.source.name).name in outcome.error.message
    assert "a pointer of Git LFS" in str(outcomes[1].error)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_good.txt", "g_good.txt"]


def test_pages_of_a_tiff_and_a_bad_one_among_them(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    frames = [Image.fromarray(page_picture(n)) for n in (1, 2, 3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    result = opened(segmenter="own").predict(tmp_path / "a.tif")
    assert [len(lines) for lines in texts(result)] == [1, 2, 3]
    assert result.text.count("\f") == 2
    data = bytearray((tmp_path / "a.tif").read_bytes())
    damaged = opened(segmenter="own", max_pixels=300 * 400 - 1)
    with pytest.raises(InputError, match="million pixels"):
        damaged.predict(bytes(data))
    (path,) = opened(segmenter="own", format="alto").predict(tmp_path / "a.tif").save(tmp_path / "out")
    assert sorted(p.name for p in path.iterdir()) == ["00001.xml", "00002.xml", "00003.xml"]


def test_a_page_that_fails_leaves_the_others_of_its_document(
    tmp_path: Path, opened: Callable[..., HTRPredictor]
) -> None:
    """An ALTO file of two pages, one without its picture."""
    save(tmp_path / "a.jpg")
    second = '<Page ID="p2" WIDTH="400" HEIGHT="300"><PrintSpace/></Page>'
    (tmp_path / "d.xml").write_text(alto(LINES).replace("</Layout>", f"{second}</Layout>"))
    result = opened().predict(tmp_path / "d.xml")
    assert [len(lines) for lines in texts(result)] == [3, 0]
    assert "page 2: no lines were found" in result.notes


def test_pdf(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    pytest.importorskip("pypdfium2")
    page = Image.fromarray(page_picture(3, (900, 800))).convert("RGB")
    page.save(tmp_path / "a.pdf", save_all=True, append_images=[page], resolution=150)
    result = opened(pdf_dpi=150).predict(tmp_path / "a.pdf")
    assert [len(lines) for lines in texts(result)] == [3, 3]
    assert np.abs(np.subtract(result.pages[0].size_px, (900, 800))).max() <= 1
    with pytest.raises(InputError, match="cannot be opened as a PDF"):
        opened().predict(b"%PDF-1.4 and then nothing")
    with pytest.raises(InputError, match="Lower --pdf-dpi"):
        opened(pdf_dpi=1200, max_pixels=1000).predict(tmp_path / "a.pdf")


def test_pdf_without_pypdfium2_prints_the_install_line(
    opened: Callable[..., HTRPredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'zoo-htr\[pdf\]'"):
        opened().predict(b"%PDF-1.4")


def test_a_line_picture_is_one_line(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    line = page_picture(1)[10:80]
    for source in (save(tmp_path / "a.png", line), Image.fromarray(line), line, np.dstack([line] * 3)):
        result = opened().predict(source)
        assert len(result.pages[0].readings) == 1
        assert result.notes == ()
    wide = np.tile(page_picture(1)[10:80], (1, 1)).repeat(5, axis=0).repeat(5, axis=1)  # 350 px high, 2000 wide
    assert len(opened().predict(wide).pages[0].readings) == 1


def test_two_lines_in_one_crop_are_said(opened: Callable[..., HTRPredictor]) -> None:
    two = np.vstack([page_picture(1)[25:70]] * 2)
    assert "several lines" in opened().predict(two).notes[0]


def test_two_lines_in_one_outline_are_said(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    """An outline that takes in the line above: the network would read a muddle of both."""
    page = save(tmp_path / "a.jpg", page_picture(6, (560, 400)), quality=95)
    tops = [20 + 80 * n for n in range(6)]
    tops[3] -= 80
    lines = "".join(
        f'<TextLine ID="l{n}" BASELINE="20 {60 + 80 * n} 380 {60 + 80 * n}"><Shape><Polygon POINTS="20 {top} 380 {top} '
        f'380 {75 + 80 * n} 20 {75 + 80 * n}"/></Shape></TextLine>'
        for n, top in enumerate(tops)
    )
    (tmp_path / "a.xml").write_text(alto(lines, page='WIDTH="400" HEIGHT="560"'))
    (note,) = opened().predict(page).notes
    assert note.startswith("line l3: there seem to be several lines")
    if PAGES is not None:
        assert not any("several lines" in note for note in opened().predict(PAGES / "copiste_1.jpg").notes)


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7), (64, 2)])
def test_pictures_without_room_for_writing_are_empty(
    shape: tuple[int, int], opened: Callable[..., HTRPredictor]
) -> None:
    result = opened().predict(np.full(shape, 128, np.uint8))
    assert "".join(result.text.split()) == ""
    assert result.notes


def test_a_blank_page_is_empty_with_a_warning(opened: Callable[..., HTRPredictor]) -> None:
    result = opened().predict(np.full((900, 700), 230, np.uint8))
    assert (result.text, result.confidence, result.notes) == ("", None, ("no lines were found",))
    assert result.as_dict()["pages"][0]["lines"] == []


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_mode_give_the_lines_of_the_gray_one(
    mode: str, tmp_path: Path, opened: Callable[..., HTRPredictor]
) -> None:
    page = Image.fromarray(page_picture())
    if mode == "I;16":
        page = Image.fromarray(np.asarray(page).astype(np.uint16) * 20)  # 12 bits in 16
    elif mode in {"LA", "RGBA"}:
        page = page.convert(mode)
        page.putalpha(Image.fromarray(np.where(page_picture() < 100, 255, 0).astype(np.uint8)))  # ink on nothing
    else:
        page = page.convert(mode)
    path = tmp_path / ("a.tif" if mode in {"CMYK", "I;16", "1"} else "a.png")
    page.save(path)
    assert len(texts(opened(segmenter="own").predict(path))[0]) == 3


def test_exif_rotation_is_applied(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture is to be turned by 90 degrees
    turned = np.ascontiguousarray(np.rot90(page_picture()))
    result = opened(segmenter="own").predict(save(tmp_path / "a.jpg", turned, exif=exif, quality=95))
    assert result.pages[0].size_px == (300, 400)
    assert len(texts(result)[0]) == 3


def test_light_ink_on_a_dark_ground(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    (tmp_path / "a.xml").write_text(alto(LINES))
    plain = opened().predict(save(tmp_path / "a.png"))
    negative = opened().predict(save(tmp_path / "a.png", 255 - page_picture()))
    assert texts(plain) == texts(negative)
    assert "light ink on a dark ground: turned round" in negative.notes


def test_a_huge_page_is_refused_by_its_header(opened: Callable[..., HTRPredictor]) -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    with pytest.raises(InputError, match="400"):
        opened().predict(file.getvalue())


def test_reading_order_by_place(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    backwards = "".join(reversed(LINES.replace("</TextLine>", "</TextLine>|").split("|")))
    save(tmp_path / "a.jpg")
    (tmp_path / "a.xml").write_text(alto(backwards))

    def order(**options: Any) -> list[str]:
        return [line.id for line in opened(**options).predict(tmp_path / "a.xml").pages[0].page.lines]

    assert order() == ["l2", "l1", "l0"]
    assert order(reading_order="geometric") == ["l0", "l1", "l2"]


def test_wrong_options_are_said_before_anything_is_read(
    opened: Callable[..., HTRPredictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no folder"):
        opened(image_dir=tmp_path / "nowhere")
    (tmp_path / "map").write_text("no tab here\n")
    with pytest.raises(UsageError, match="line 1 has no tab"):
        opened(image_map=tmp_path / "map")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("KRAKEN", raising=False)
    with pytest.raises(MissingDependencyError, match="uv tool install kraken"):
        opened(segmenter="kraken")
