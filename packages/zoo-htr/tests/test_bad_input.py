"""What goes wrong with pictures, weights and texts: the rest of the list in docs/handwriting-troubles.md.

Files of XML, archives, damaged files and options have tests of their own; the page names them all.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from page_data import MODEL, page_picture, save, texts
from PIL import Image

from zoo_core.catalog import find
from zoo_core.errors import UsageError, WeightsError
from zoo_core.predict import load, run
from zoo_core.weights.build import construct
from zoo_core.weights.files import write_tensors
from zoo_htr.alphabet import Alphabet, normal
from zoo_htr.data import Line, usable
from zoo_htr.eval import evaluate
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.metrics import score
from zoo_htr.predict import HTRPredictor

ENTRY = find(MODEL)
CONFIG: dict[str, Any] = dict(ENTRY.manifest.config)
ALPHABET = Alphabet(tuple(CONFIG["alphabet"]))
DOCS = Path(__file__).parents[3] / "docs" / "handwriting-troubles.md"


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.webp", "a.jp2", "a.bmp", "a.gif", "a.avif"])
def test_pictures_of_every_kind_of_file(name: str, tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    Image.fromarray(page_picture()).convert("RGB").save(tmp_path / name)
    assert len(texts(opened(segmenter="own").predict(tmp_path / name))[0]) == 3


@pytest.mark.parametrize(
    ("ink", "paper", "turned"),
    [
        ((30, 40, 140), (225, 215, 190), False),  # blue on cream
        ((150, 30, 40), (235, 235, 225), False),  # red on white
        ((240, 220, 90), (20, 30, 60), True),  # gold on dark blue
        ((250, 250, 250), (60, 60, 60), True),  # chalk
    ],
)
def test_inks_and_papers_of_any_colour(
    ink: tuple[int, int, int], paper: tuple[int, int, int], turned: bool, opened: Callable[..., HTRPredictor]
) -> None:
    written = page_picture() < 100
    page = np.where(written[..., None], np.array(ink), np.array(paper)).astype(np.uint8)
    result = opened(segmenter="own").predict(page)
    assert len(texts(result)[0]) == 3
    assert any("light ink" in note for note in result.notes) == turned


def test_a_line_beyond_4096_columns_is_read_in_parts_and_that_is_said(opened: Callable[..., HTRPredictor]) -> None:
    strokes = np.full((16, 1200), 210, np.uint8)  # 4,800 columns at the height of the network
    strokes[5:12, 10:1190:5] = 40
    result = opened().predict(strokes)
    assert len(result.pages[0].readings) == 1
    assert any("read in parts" in note for note in result.notes)
    assert not any("read in parts" in note for note in opened().predict(strokes[:, :300]).notes)


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"height": 80}, "proj.weight"),
        ({"alphabet": CONFIG["alphabet"][:-3]}, r"head\.bias \(file 137, model 140\)"),
        ({"channels": [8, 16, 24, 32, 40, 48]}, "stages"),
    ],
)
def test_weights_of_another_height_alphabet_or_size_are_refused(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    write_tensors(path, HTRJAND(**{**CONFIG, **change}).state_dict(), {})
    with pytest.raises(WeightsError, match=said):
        load(MODEL, device="cpu", weights=path)


def test_weights_that_are_no_safetensors_are_refused_unread(tmp_path: Path) -> None:
    torch.save(construct(ENTRY).state_dict(), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="pickle"):
        load(MODEL, device="cpu", weights=tmp_path / "a.pt")


def test_half_precision_keeps_padded_lines_finite() -> None:
    """A mask of -1e9 is minus infinity in float16, and a row of these is NaN."""
    torch.manual_seed(0)
    network = construct(ENTRY).half().eval()
    lines, widths = torch.randn(3, 1, 64, 128).half(), torch.tensor([128, 20, 0])
    with torch.inference_mode():
        logits, lengths = network(lines, widths)
    assert torch.isfinite(logits).all()
    assert lengths.tolist() == [32, 5, 0]


# -- texts -------------------------------------------------------------------------------------------------------------


def test_texts_of_any_unicode_form_and_symbols_of_two_marks_are_the_same_to_training_and_evaluation() -> None:
    """macOS writes accents apart; U+0303 after q has no letter of its own and stays a symbol."""
    assert normal("e\u0301te\u0301") == "été"
    assert ALPHABET.unknown("q\u0303ue 2^e \u00ac =") == ""
    assert ALPHABET.decode(ALPHABET.encode("q\u0303ue")) == "q\u0303ue"
    assert score(["e\u0301te\u0301"], ["été"]).rate("cer") == 0


def test_characters_beyond_the_alphabet_are_errors_in_evaluation_and_left_out_by_name_in_training(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "a.png", page_picture(1)[10:80])
    (tmp_path / "a.gt.txt").write_text("\u0416\u0416\u0416", "utf-8")
    report = evaluate(ENTRY, str(tmp_path), weights=weights, device="cpu")
    assert (report.n, report.more["characters"]) == (1, 3)
    assert report.metrics["cer"] >= 1.0
    pixels = np.full((64, 400), 200, np.uint8)
    kept = usable([Line("good", "a", pixels), Line("Cyrillic", "\u0416", pixels)], ALPHABET)
    assert [line.name for line in kept] == ["good"]
    assert "not in the alphabet: Cyrillic" in caplog.text
    with pytest.raises(UsageError, match=r"U\+0416"):
        ALPHABET.encode("\u0416")


# -- the batch ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_is_read(
    tmp_path: Path, opened: Callable[..., HTRPredictor]
) -> None:
    (tmp_path / "file").write_text("in the way")
    given = save(tmp_path / "a.png")
    with pytest.raises(Exception, match="file") as caught:
        list(run(opened(), [given], out=tmp_path / "file" / "out"))
    assert type(caught.value).__module__ == "zoo_core.errors"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_run_that_is_left_half_way_leaves_whole_files(tmp_path: Path, opened: Callable[..., HTRPredictor]) -> None:
    """As by Ctrl-C: what is there is complete, and --skip-existing goes on with the rest."""
    given = [save(tmp_path / f"{n}.png", page_picture(1)[10:80]) for n in range(6)]
    going = run(opened(format="alto"), given, out=tmp_path / "out")
    next(going)
    going.close()
    done = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert 1 <= len(done) < 6
    assert all((tmp_path / "out" / name).read_text().endswith("</alto>\n") for name in done)
    again = list(run(opened(format="alto"), given, out=tmp_path / "out", skip_existing=True))
    assert sum(outcome.skipped for outcome in again) == len(done)
    assert len(list((tmp_path / "out").iterdir())) == 6


# -- the page ----------------------------------------------------------------------------------------------------------


def test_every_test_that_the_page_of_troubles_names_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", DOCS.read_text(encoding="utf-8"))
    assert len(named) > 40
    root = DOCS.parents[1]
    folders = [Path(__file__).parent, root / "shared/zoo-core/tests", root / "tests"]
    for file, test in named:
        (path,) = [folder / file for folder in folders if (folder / file).is_file()][:1]
        known = {
            node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)
        }
        assert test in known, f"{file}::{test}"
