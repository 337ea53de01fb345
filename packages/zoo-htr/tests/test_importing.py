"""Packs from one's own material."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from page_data import PAGES, ROOT, alto, needs_pages, page_xml
from PIL import Image

from zoo_core.errors import InputError
from zoo_core.io.packs import open_pack
from zoo_htr.importing import rows, write_folder, write_parquet
from zoo_htr.lines import Tally, read_lines, symbols_to_text, text_to_symbols
from zoo_htr.marks import with_marks
from zoo_htr.truth import true_lines

LINES = "".join(
    f'<TextLine ID="l{n}" BASELINE="20 {60 + 80 * n} 380 {60 + 80 * n}" HPOS="20" VPOS="{20 + 80 * n}" WIDTH="360" '
    f'HEIGHT="55"><String CONTENT="{text}"/></TextLine>'
    for n, text in enumerate(("first >struck&lt; line", "", "third-"))
)


def picture(path: Path, size: tuple[int, int] = (300, 400)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size, np.uint8)).save(path)
    return path


def imported(*paths: Path, target: Path, **more: str) -> tuple[list[dict], Tally]:
    tally = Tally()
    settings = {"corpus": "mine", "writer": None, "split": "auto", "language": "fr", "marks": "keep", **more}
    write_parquet(target, rows(read_lines(paths, tally), **settings), overwrite=True)
    return pq.read_table(target).to_pylist(), tally


def test_columns_are_those_of_the_packs(tmp_path: Path) -> None:
    picture(tmp_path / "letters/a.jpg")
    (tmp_path / "letters/a.xml").write_text(alto(LINES))
    made, tally = imported(tmp_path / "letters", target=tmp_path / "m.parquet")
    assert [(row["text"], row["line"], row["flags"]) for row in made] == [
        ("first >struck< line", 0, ""),
        ("third-", 2, "hyphenated"),
    ]
    assert {row[key] for row in made for key in ("document", "writer")} == {"letters"}
    assert tally.left_out == {"without text": ["a.xml, l1"]}
    with Image.open(io.BytesIO(made[0]["image"])) as image:
        assert (image.height, image.width) == (64, made[0]["width"])
    if ROOT is not None:
        assert pq.read_schema(tmp_path / "m.parquet").equals(
            pq.read_schema(ROOT / "htr/lines/val.parquet"), check_metadata=False
        )
    assert open_pack(tmp_path / "m.parquet", plain_column="image", suffixes={".png"}).count == 2


@needs_pages
def test_real_pages_give_what_the_packs_hold(tmp_path: Path) -> None:
    assert PAGES is not None
    assert ROOT is not None
    made, _ = imported(PAGES / "copiste_3.alto.xml", target=tmp_path / "m.parquet", split="test")
    packed = pq.read_table(ROOT / "htr/lines/test.parquet", filters=[("page", "=", "imp_wikitexte_0111")]).to_pylist()
    ours = {row["line"]: row for row in made}
    assert len(packed) == 12
    for row in packed:
        own = ours[row["line"]]
        assert (own["text"], own["width"], own["orig_height"]) == (row["text"], row["width"], row["orig_height"])


def test_transkribus_export(tmp_path: Path) -> None:
    picture(tmp_path / "doc/p1.jpg")
    (tmp_path / "doc/page").mkdir()
    (tmp_path / "doc/mets.xml").write_text("<mets/>")
    line = (
        '<TextLine id="t"><Coords points="20,20 380,20 380,75 20,75"/><TextEquiv><Unicode>some text</Unicode>'
        "</TextEquiv></TextLine>"
    )
    (tmp_path / "doc/page/p1.xml").write_text(
        page_xml(f'<TextRegion id="r"><Coords points="0,0 9,0 9,9"/>{line}</TextRegion>', page='imageFilename="p1.jpg"')
    )
    made, tally = imported(tmp_path / "doc", target=tmp_path / "m.parquet")
    assert [(row["text"], row["document"], row["page"]) for row in made] == [("some text", "doc", "p1")]
    assert tally.left_out == {"neither ALTO nor PAGE": ["mets.xml"]}


def test_pairs_and_lists_in_and_out(tmp_path: Path) -> None:
    """Pictures with .gt.txt, as kraken has them, out as PyLaia's list and in again: the same lines."""
    texts = {"a": "two words", "b": "l'été"}
    for name, text in texts.items():
        picture(tmp_path / f"in/{name}.png", (64, 300))
        (tmp_path / f"in/{name}.gt.txt").write_text(text + "\n", encoding="utf-8")
    (tmp_path / "in/lost.gt.txt").write_text("no picture\n")
    (tmp_path / "in/latin.gt.txt").write_bytes(b"\xe9t\xe9")
    made, tally = imported(tmp_path / "in", target=tmp_path / "m.parquet", split="train")
    assert {row["page"]: row["text"] for row in made} == texts
    assert tally.left_out == {"not text in UTF-8": ["latin.gt.txt"], "without its picture": ["lost"]}
    write_folder(tmp_path / "laia", iter(made), "pylaia", overwrite=False)
    assert (tmp_path / "laia/syms.txt").read_text().splitlines()[0] == "<ctc> 0"
    assert "<space>" in (tmp_path / "laia/syms.txt").read_text()
    again, _ = imported(tmp_path / "laia/train.txt", target=tmp_path / "n.parquet")
    assert sorted(row["text"] for row in again) == sorted(texts.values())
    assert sorted(line.text for line in true_lines(tmp_path / "laia/train.txt")) == sorted(texts.values())
    next((tmp_path / "laia").glob("*.png")).unlink()
    with pytest.raises(InputError, match=r"train\.txt: \w+ has 0 pictures"):
        list(true_lines(tmp_path / "laia/train.txt"))
    write_folder(tmp_path / "pairs", iter(made), "pairs", overwrite=False)
    once_more, _ = imported(tmp_path / "pairs", target=tmp_path / "o.parquet")
    assert sorted(row["text"] for row in once_more) == sorted(texts.values())


def test_symbols() -> None:
    assert text_to_symbols("l' é") == "l ' <space> é"
    assert symbols_to_text("l ' <space> é") == "l' é"
    assert symbols_to_text("plain text stays") == "plain text stays"


@pytest.mark.parametrize(
    ("text", "dropped", "tei"),
    [
        ("a >b< c", "a c", "a <del>b</del> c"),  # Copiste, CREMMA 20
        ("a < b > c", "a c", "a <del>b</del> c"),  # CREMMA MSS 18
        ("a \u27e6b\u27e7 c", "a c", "a <del>b</del> c"),
        (">a< b >c<", "b", "<del>a</del> b <del>c</del>"),
        ("a > b", "a > b", "a > b"),
    ],
)
def test_three_conventions_of_struck_words(text: str, dropped: str, tei: str) -> None:
    assert (with_marks(text, "keep"), with_marks(text, "drop"), with_marks(text, "tei")) == (text, dropped, tei)


def test_one_bad_file_leaves_the_others_and_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.jpg")
    (tmp_path / "in/a.xml").write_text(alto(LINES))
    (tmp_path / "in/b.xml").write_text(alto(LINES, file_name="lost.jpg"))
    (tmp_path / "in/c.xml").write_text("<alto><Layout>")
    made, tally = imported(tmp_path / "in", target=tmp_path / "m.parquet")
    assert len(made) == 2
    assert sorted(name for names in tally.left_out.values() for name in names) == ["a.xml, l1", "b.xml", "c.xml"]
    with pytest.raises(InputError, match="holds neither"):
        imported(tmp_path, target=tmp_path / "n.parquet")
    with pytest.raises(InputError, match="does not exist"):
        imported(tmp_path / "nowhere", target=tmp_path / "n.parquet")


def test_the_commands(tmp_path: Path) -> None:
    picture(tmp_path / "in/a.jpg")
    (tmp_path / "in/a.xml").write_text(alto(LINES))

    def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"zoo_htr.{module}", *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    done = run("importing", "in", "-o", "m.parquet", "--format", "json")
    assert (done.returncode, json.loads(done.stdout)["lines"]) == (0, 2)
    assert "without text" in done.stderr
    again = run("importing", "in", "-o", "m.parquet")
    assert (again.returncode, "exists already" in again.stderr) == (3, True)
    looked = run("doctor", "in/a.jpg", "--format", "json")
    assert (looked.returncode, json.loads(looked.stdout)["size"]) == (0, [400, 300])
