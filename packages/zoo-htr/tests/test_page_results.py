"""What `zoo predict` makes of pages: every format, boxes, names of files, and the command itself."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from page_data import LINES, MODEL, PAGES, alto, needs_pages, page_picture, read_path, save, texts
from PIL import Image
from torch import Tensor

from zoo_core.errors import InputError
from zoo_core.io.inputs import Source
from zoo_htr.predict import HTRPredictor
from zoo_htr.recognise import LineReader


@needs_pages
def test_the_xml_of_a_real_page_is_edited(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    """Read a page by its own ALTO, write ALTO: ids, outlines, baselines and tags stay, text and words are ours."""
    assert PAGES is not None
    before = read_path(PAGES / "poilus_2.alto.xml").pages[0]
    result = opened(format="alto", draw=True).predict(PAGES / "poilus_2.jpg")
    path, drawing = result.save(tmp_path / "p.alto.xml")
    after = read_path(path).pages[0]
    assert [(a.id, a.polygon, a.baseline, a.tags, a.box) for a in after.lines] == [
        (b.id, b.polygon, b.baseline, b.tags, b.box) for b in before.lines
    ]
    assert [line.text for line in after.lines] == [" ".join(text.split()) for text in texts(result)[0]]
    words = etree.parse(path).getroot().findall(".//{*}String[@WC]")
    boxes = [(float(w.get("HPOS")), float(w.get("VPOS"))) for w in words if w.get("CONTENT")]
    assert boxes
    assert all(0 <= x < before.width and 0 <= y < before.height for x, y in boxes)
    with Image.open(drawing) as drawn:
        assert (drawn.format, max(drawn.size)) == ("JPEG", 2400)


def test_boxes_are_written_in_the_units_of_the_file(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    """A page in tenths of millimetres, its picture of another size."""
    save(tmp_path / "a.jpg", page_picture().repeat(2, axis=0).repeat(2, axis=1))
    (tmp_path / "a.xml").write_text(alto(LINES, unit="mm10"))
    result = opened(format="alto").predict(tmp_path / "a.xml")
    assert result.pages[0].layout.scale == (2.0, 2.0)
    root = etree.fromstring(result.as_text().encode())
    assert root.findtext(".//{*}MeasurementUnit") == "mm10"
    for number, line in enumerate(root.findall(".//{*}TextLine")):
        assert line.get("VPOS") == str(20 + 80 * number)
        for word in line.findall("{*}String[@HPOS]"):
            assert 20 + 80 * number - 1 <= float(word.get("VPOS")) <= 75 + 80 * number
            assert float(word.get("HPOS")) + float(word.get("WIDTH")) <= 381


@pytest.mark.parametrize("kind", ["txt", "json", "csv", "alto", "page", "hocr", "tei"])
def test_every_format_holds_every_line(kind: str, tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    picture = save(tmp_path / "a.png")
    predictor = opened(format=kind, segmenter="own", string_level="word")
    result = predictor.predict(picture)
    (name,) = predictor.file_names(Source("a.png", picture))
    (path,) = result.save(tmp_path / name)
    content = path.read_text(encoding="utf-8")
    assert content == result.as_text()
    expected = [" ".join(text.split()) for text in texts(result)[0]]
    assert len(expected) == 3
    if kind == "txt":
        found = [" ".join(line.split()) for line in content.splitlines()]
    elif kind == "json":
        records = [json.loads(line) for line in content.splitlines()]
        assert {record["schema"] for record in records} == {"zoo.htr.line/1"}
        assert all("".join(c["text"] for c in record["chars"]) == record["text"] for record in records)
        found = [" ".join(record["text"].split()) for record in records]
    elif kind == "csv":
        rows = list(csv.DictReader(io.StringIO(content)))
        assert {row["page"] for row in rows} == {"1"}
        assert all(0 <= int(row["left"]) < int(row["right"]) <= 400 for row in rows)
        found = [" ".join(row["text"].split()) for row in rows]
    elif kind == "tei":
        found = [" ".join((lb.tail or "").split()) for lb in etree.fromstring(content.encode()).findall(".//{*}lb")]
    elif kind == "hocr":
        spans = etree.fromstring(content.encode()).xpath("//*[@class='ocr_line']")
        found = [" ".join("".join(span.itertext()).split()) for span in spans]
    else:
        found = [line.text or "" for line in read_path(path).pages[0].lines]
    assert found == expected


def test_nothing_is_overwritten_unasked(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    result = opened(draw=True).predict(save(tmp_path / "a.png"))
    result.save(tmp_path / "a.txt")
    with pytest.raises(InputError, match="exists already"):
        result.save(tmp_path / "a.txt")
    result.save(tmp_path / "a.txt", overwrite=True)


def test_the_result_names_what_read_it(opened: Callable[..., HTRPredictor], weights: Path) -> None:
    made = opened().predict(page_picture()).as_dict()["provenance"]
    assert set(made) == {"weights", "normaliser", "engine", "decoder", "language model"}
    assert len(made["weights"]) == 16
    assert made["decoder"] == "greedy"
    searched = opened(decoder="beam", charset="a-z ", lm="fr", format="json").predict(page_picture())
    assert searched.as_dict()["provenance"]["decoder"] == "beam, width 16, below 0.97, charset"
    read_by = [json.loads(line)["read_by"] for line in searched.as_text().splitlines()]
    assert {(r["model"], r["weights"], r["normaliser"], r["language model"]) for r in read_by} == {
        (MODEL, made["weights"], "1", "fr")
    }


def test_lines_do_not_depend_on_what_else_is_on_the_page(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    """A line read on its page and as a picture that holds its cut alone: the same text."""
    save(tmp_path / "a.jpg", quality=95)
    (tmp_path / "a.xml").write_text(alto(LINES))
    page = opened().predict(tmp_path / "a.jpg").pages[0]
    for made, reading in zip(page.cuts, page.readings, strict=True):
        assert made is not None
        assert reading is not None
        alone = opened(segmenter="line").predict(made.image)
        assert texts(alone) == [[reading.text]]


def test_complaint_12_lines_of_a_page_are_read_together(
    tmp_path: Path, opened: Callable[..., HTRPredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """htrflow 34: one line at a time is slow. The reader is given all at once and orders them as is fastest."""
    save(tmp_path / "a.jpg")
    (tmp_path / "a.xml").write_text(alto(LINES))
    sizes: list[int] = []
    read = LineReader.log_probs

    def counted(self: LineReader, lines: Sequence[Any]) -> list[Tensor]:
        sizes.append(len(lines))
        return read(self, lines)

    monkeypatch.setattr(LineReader, "log_probs", counted)
    assert len(opened().predict(tmp_path / "a.jpg").pages[0].readings) == 3
    assert sizes == [3]


# -- the command -------------------------------------------------------------------------------------------------------


def zoo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("zoo")), "predict", MODEL, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_format_names_files_and_json_prints_too(tmp_path: Path, weights: Path) -> None:
    save(tmp_path / "a.png")
    shared = ("a.png", "--weights", str(weights), "--device", "cpu")
    printed = zoo(tmp_path, *shared, "--format", "alto")
    assert printed.returncode == 0, printed.stderr
    assert len(etree.fromstring(printed.stdout.encode()).findall(".//{*}TextLine")) == 3
    done = zoo(tmp_path, *shared, "--format", "json", "-o", "out")
    record = json.loads(done.stdout)
    assert (record["schema"], record["files"]) == ("zoo.predict/1", ["out/a.jsonl"])
    assert len(record["result"]["pages"][0]["lines"]) == len((tmp_path / "out/a.jsonl").read_text().splitlines()) == 3
    wrong = zoo(tmp_path, *shared, "--format", "docx")
    assert (wrong.returncode, "'hocr'" in wrong.stderr) == (2, True)
