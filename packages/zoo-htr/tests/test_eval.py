"""`zoo eval` and `zoo bench` on a user's own lines, whatever form they come in."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from zoo_core.catalog import find
from zoo_core.errors import InputError, MissingDependencyError, UsageError
from zoo_core.evaluate import Report
from zoo_core.weights.build import construct
from zoo_htr import peers
from zoo_htr.alphabet import Alphabet
from zoo_htr.bench import bench
from zoo_htr.data import scribbles
from zoo_htr.eval import evaluate, resampled_together
from zoo_htr.truth import TrueLine, true_lines

STUDENT = find("htr-jand-student")
ALPHABET = Alphabet(tuple(STUDENT.manifest.config["alphabet"]))
PACKS = Path(os.environ.get("ZOO_PACKS", Path(__file__).parents[3].parent / "shared/data"))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "fresh.safetensors"
    save_file(construct(STUDENT).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "name": f"line-{i}",
            "image": png(line.pixels),
            "text": f" {line.text}\u00a0é",
            "corpus": ("north", "south")[i % 2],
            "writer": f"hand {i % 4}" if i % 2 else "the only one",
            "document": f"letter {i % 6}",
        }
        for i, line in enumerate(scribbles(12, ALPHABET, seed=5))
    ]
    path = tmp_path_factory.mktemp("packs") / "mine.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def report(pack: Path, weights: Path) -> Report:
    return evaluate(STUDENT, str(pack), weights=weights, device="cpu", protocol="beam")


def test_the_figures_are_those_of_the_readings(report: Report, pack: Path) -> None:
    from zoo_htr.metrics import score

    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    rows = data["readings"]
    again = score([row["reference"] for row in rows], [row["text"] for row in rows])
    assert data["cer"] == pytest.approx(again.rate("cer"))
    assert data["wer"] == pytest.approx(again.rate("wer"))
    assert data["lines"] == 12
    assert data["lines_per_second"] > 0
    assert data["intervals"]["cer"][0] <= data["cer"] <= data["intervals"]["cer"][1]
    assert [row["reference"] for row in rows] == [line.text for line in true_lines(pack)]
    assert rows[0]["reference"].endswith(" é")
    edits = data["insertions"] + data["deletions"] + data["substitutions"]
    assert edits == pytest.approx(data["cer"] * data["characters"])


def test_post_correction_is_held_against_the_greedy_decoder(pack: Path, weights: Path) -> None:
    """Off by default, and worth switching on only where it costs no corpus anything: the report says so."""
    report = evaluate(STUDENT, str(pack), weights=weights, device="cpu", protocol="corrected", limit=4)
    assert [way.name for way in report.others] == ["greedy decoder"]
    assert report.facts["corrected"] is True
    (check,) = report.checks
    assert check.what == "the language model costs no corpus more than 0.1 points of CER"
    worse = [row["cer"] > row["against"]["greedy decoder"]["cer"] + 0.001 for row in report.more["corpora"].values()]
    assert check.passed == (not any(worse))


def test_corpora_and_writers_add_up(report: Report) -> None:
    data = report.as_dict()
    corpora, writers = data["corpora"], data["writers"]
    assert {name: row["lines"] for name, row in corpora.items()} == {"north": 6, "south": 6}
    assert {name: row["writers"] for name, row in corpora.items()} == {"north": 1, "south": 2}
    assert data["macro_cer"] == pytest.approx((corpora["north"]["cer"] + corpora["south"]["cer"]) / 2)
    characters = sum(row["characters"] for row in writers["rows"])
    assert sum(row["cer"] * row["characters"] for row in writers["rows"]) == pytest.approx(data["cer"] * characters)
    assert writers["count"] == 3
    greedy = corpora["north"]["against"]["greedy decoder"]
    assert greedy["ours_minus_this"]["mean"] == pytest.approx(corpora["north"]["cer"] - greedy["cer"])
    assert set(data["confidence"]["cer_after_rejecting_percent"]) == {"0", "10", "20", "30", "50"}


def test_writers_are_resampled_whole_and_documents_where_there_is_one_writer() -> None:
    def line(corpus: str, writer: str, document: str) -> TrueLine:
        return TrueLine("n", "t", b"", corpus, writer, document)

    lines = [line("a", "x", "1"), line("a", "y", "1"), line("b", "z", "1"), line("b", "z", "2"), line("c", "", "")]
    assert resampled_together(lines) == ["a/x", "a/y", "b/1", "b/2", "c/n"]


def test_a_folder_of_pairs_gives_the_figures_of_the_pack(
    report: Report, pack: Path, weights: Path, tmp_path: Path
) -> None:
    for line in true_lines(pack):
        name = line.name.rpartition(":")[2]
        (tmp_path / f"{name}.png").write_bytes(bytes(line.picture))
        (tmp_path / f"{name}.gt.txt").write_text(line.text + "\n", "utf-8")
    again = evaluate(STUDENT, str(tmp_path), weights=weights, device="cpu", protocol="greedy")
    greedy = next(way for way in report.others if way.name == "greedy decoder")
    assert again.metrics["cer"] == pytest.approx(greedy.metrics["cer"])
    (tmp_path / "line-3.png").unlink()
    with pytest.raises(InputError, match=r"line-3\.gt\.txt has 0 pictures"):
        list(true_lines(tmp_path))


def test_lines_of_pages_are_cut_where_their_xml_says(tmp_path: Path) -> None:
    """Two lines of a page, one of them without a text: only the other can be judged."""
    page = np.full((300, 500), 230, np.uint8)
    page[60:100, 50:450] = 60
    Image.fromarray(page).save(tmp_path / "p.png")
    (tmp_path / "p.xml").write_text(
        '<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"><Page imageFilename="p.png" '
        'imageWidth="500" imageHeight="300"><TextRegion id="r"><Coords points="0,0 499,0 499,299 0,299"/>'
        '<TextLine id="a"><Coords points="40,50 460,50 460,110 40,110"/><Baseline points="40,100 460,100"/>'
        "<TextEquiv><Unicode>Ma chère  mère</Unicode></TextEquiv></TextLine>"
        '<TextLine id="b"><Coords points="40,150 460,150 460,210 40,210"/></TextLine>'
        "</TextRegion></Page></PcGts>",
        "utf-8",
    )
    (tmp_path / "mets.xml").write_text("<mets/>", "utf-8")
    for given in (tmp_path, tmp_path / "p.xml"):
        lines = list(true_lines(given))
        assert [(line.text, line.document) for line in lines] == [("Ma chère mère", "p")]
        assert lines[0].pixels().shape[0] == 64
        assert lines[0].pixels().min() < 100


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"protocol": "beams"}, UsageError, "Did you mean 'beam'"),
        ({"precision": "fp8"}, UsageError, "fp8"),
        ({"official": Path("x")}, UsageError, "no official weights"),
        ({"against": ["rapid"]}, UsageError, "Did you mean 'rapidocr'"),
    ],
)
def test_what_cannot_be_is_refused(
    pack: Path, weights: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        evaluate(STUDENT, str(pack), weights=weights, device="cpu", **options)


def test_lines_that_cannot_be_read_are_named(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist([{"name": "x", "image": b"no picture", "text": "a"}]), path)
    with pytest.raises(InputError, match="bad:x"):
        evaluate(STUDENT, str(path), weights=weights, device="cpu")
    pq.write_table(pa.Table.from_pylist([{"name": "x", "picture": b"", "text": "a"}]), path)
    with pytest.raises(InputError, match="no column 'image'"):
        evaluate(STUDENT, str(path), weights=weights, device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        evaluate(STUDENT, str(tmp_path / "empty"), weights=weights, device="cpu")


def test_an_empty_reference_and_an_empty_picture_are_no_trouble(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.parquet"
    blank = np.full((64, 100), 255, np.uint8)
    rows = [{"image": png(p), "text": t} for p, t in ((blank, ""), (blank[:1, :1], "a"), (blank[:, :30], "bc"))]
    pq.write_table(pa.Table.from_pylist(rows), path)
    data = evaluate(STUDENT, str(path), weights=weights, device="cpu").as_dict()
    assert (data["lines"], data["empty_references"], data["characters"]) == (3, 1, 3)
    assert data["cer"] is not None


def test_the_command_prints_one_json_object(pack: Path, weights: Path) -> None:
    command = [sys.executable, "-m", "zoo_core.cli.main", "eval", "htr-jand-student", "--data", str(pack)]
    program = shutil.which("zoo")
    if program:
        command[:3] = [program]
    done = subprocess.run(
        [*command, "--weights", str(weights), "--format", "json", "--limit", "4"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["schema"] == "zoo.eval/1"
    assert {"cer", "wer", "lines", "lines_per_second", "corpora", "intervals"} <= set(data)
    assert data["lines"] == 4


def test_bench_says_speed_and_errors_of_each_way(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZOO_PACKS", str(tmp_path))
    report = bench(STUDENT, weights=weights, size="4", rounds=1, device="cpu")
    assert report.size == "4 lines of bar codes"
    assert set(report.facts["lines_per_second"]) == set(report.facts["cer"]) >= {"ours", "ours in batches", "ours beam"}
    assert report.agrees
    assert "lines a second" in report.text()
    for size in ("0", "64x800", "-3"):
        with pytest.raises(UsageError, match="no number of lines"):
            bench(STUDENT, weights=weights, size=size)
    with pytest.raises(UsageError, match="rapidocr"):
        bench(STUDENT, weights=weights, against=["tesseract"])


def test_a_peer_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rapidocr" else known(name))
    with pytest.raises(MissingDependencyError, match=r"pip install \"zoo-htr\[peers\]\""):
        peers.peer("rapidocr")


@pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="rapidocr is not installed")
@pytest.mark.skipif(not (PACKS / "htr/lines/val.parquet").is_file(), reason="no packs below ZOO_PACKS")
def test_rapidocr_reads_neat_modern_hands(weights: Path) -> None:
    """Its CER on Copiste is about 22 %: a fault in how we feed it would show as far more."""
    report = evaluate(
        STUDENT, str(PACKS / "htr/lines/val.parquet"), weights=weights, device="cpu", limit=12, against=["rapidocr"]
    )
    assert report.others[0].metrics["cer"] < 0.3
