"""The line finder: what it finds on the packs' pages, and what it must not do on anything."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from page_data import PAGES, needs_pages, picture_of, read_path
from PIL import Image

from zoo_core.errors import InputError, MissingDependencyError
from zoo_htr import kraken
from zoo_htr.cutting import Gray, cut
from zoo_htr.finding import find_lines, has_several_lines
from zoo_htr.finding.ink import is_light_on_dark
from zoo_htr.line_recall import matches


def written(
    lines: int, *, size: tuple[int, int] = (900, 700), slope: float = 0.0, ruled: bool = False
) -> tuple[Gray, list[float]]:
    """Return a page with rows of strokes like letters, and the heights of their baselines at the left."""
    page = np.full(size, 215, np.uint8)
    random = np.random.default_rng(0)
    baselines = []
    for number in range(lines):
        base = 120 + 70 * number
        baselines.append(float(base))
        if ruled:
            cv2.line(page, (0, base + 4), (size[1], round(base + 4 + slope * size[1])), 160, 2)
        x = 80
        while x < size[1] - 80:
            y = base + slope * (x - 80)
            for _ in range(random.integers(3, 8)):
                high = 22 if random.random() < 0.75 else 40
                cv2.line(page, (x, round(y)), (x + 6, round(y - high)), 50, 3)
                cv2.line(page, (x + 6, round(y - 18)), (x + 12, round(y)), 50, 3)
                x += 13
            x += 24
    return page, baselines


@needs_pages
@pytest.mark.parametrize(
    ("xml", "recall", "extra"),
    [("copiste_1.alto", 1.0, 0), ("copiste_2.alto", 1.0, 0), ("hooker_1.page", 0.95, 1), ("poilus_1.alto", 0.85, 4)],
)
def test_lines_of_clean_pages_are_found(xml: str, recall: float, extra: int) -> None:
    assert PAGES is not None
    path = PAGES / f"{xml}.xml"
    truth = read_path(path).pages[0]
    picture = np.asarray(Image.open(picture_of(path)))
    found = find_lines(picture)
    agreed = matches(truth.lines, found.lines, picture.shape)
    assert agreed >= recall * len(truth.lines)
    assert len(found.lines) - agreed <= extra


@pytest.mark.parametrize("slope", [-0.05, 0.0, 0.04])
@pytest.mark.parametrize("ruled", [False, True])
def test_rows_of_strokes_with_slope_and_rulings(slope: float, ruled: bool) -> None:
    page, baselines = written(8, slope=slope, ruled=ruled)
    lines = find_lines(page).lines
    assert len(lines) == 8
    for line, base in zip(lines, baselines, strict=True):
        (x0, y0), (x1, y1) = line.baseline[0], line.baseline[-1]
        assert y0 == pytest.approx(base + slope * (x0 - 80), abs=11)  # a ruling takes the feet of letters with it
        assert (y1 - y0) / (x1 - x0) == pytest.approx(slope, abs=0.01)
        assert x1 - x0 > 450
        ys = [y for _, y in line.polygon]
        assert min(ys) < base - 20 + min(0, slope * 500)
        assert cut(page, line.polygon, line.baseline).image.min() < 100


def test_a_blank_page_has_no_lines() -> None:
    assert find_lines(np.full((800, 600), 230, np.uint8)).lines == ()
    noise = np.random.default_rng(0).normal(200, 4, (800, 600)).clip(0, 255).astype(np.uint8)
    assert find_lines(noise).lines == ()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (8, 8), (30, 3000), (64, 64)])
def test_any_size_and_any_content(shape: tuple[int, int]) -> None:
    for page in (np.zeros(shape, np.uint8), np.random.default_rng(1).integers(0, 256, shape, np.uint8)):
        for line in find_lines(page).lines:
            assert len(line.polygon) >= 3
            assert all(0 <= x < shape[1] and 0 <= y < shape[0] for x, y in (*line.polygon, *line.baseline))
        has_several_lines(page)
        is_light_on_dark(page)


def test_dark_margins_and_a_dark_ground_are_no_writing() -> None:
    page, baselines = written(6)
    around = np.full((1200, 1000), 12, np.uint8)
    around[150:1050, 150:850] = page
    lines = find_lines(around).lines
    inside = [line for line in lines if 150 <= line.baseline[0][0] <= 850]
    assert len(inside) == len(baselines)
    assert len(lines) == len(inside)


def test_a_negative_is_noticed_and_a_sheet_on_black_is_none() -> None:
    page, _ = written(6)
    assert is_light_on_dark(255 - page)
    around = np.full((2000, 2000), 5, np.uint8)
    around[150:1050, 150:850] = page
    assert not is_light_on_dark(around)


def test_two_lines_in_a_picture_of_one() -> None:
    one, two, five = (written(n, size=(120 + 70 * n - 40, 700))[0][60:] for n in (1, 2, 5))
    assert not has_several_lines(one)
    assert has_several_lines(two)
    assert has_several_lines(five)


# -- kraken ------------------------------------------------------------------------------------------------------------


def test_without_kraken_the_install_line_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("KRAKEN", raising=False)
    with pytest.raises(MissingDependencyError, match="uv tool install kraken") as caught:
        kraken.find_lines(np.zeros((9, 9), np.uint8))
    assert caught.value.exit_code == 5


def program(folder: Path, body: str) -> str:
    """A program that takes kraken's place: what we start is its command line, and what it says is ours to check."""
    script = folder / "kraken.py"
    script.write_text(f"import sys, pathlib, shutil\nimage, result = sys.argv[3:5]\n{body}\n")
    return f"{sys.executable} {script}"


def test_krakens_answer_is_read_and_its_random_ids_become_numbers(tmp_path: Path) -> None:
    answer = tmp_path / "answer.xml"
    answer.write_text(
        '<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#"><Layout><Page WIDTH="40" HEIGHT="30"><PrintSpace>'
        '<TextBlock ID="_x"><TextLine ID="_f50f" BASELINE="1 9 20 9" HPOS="1" VPOS="1" WIDTH="9" HEIGHT="9"/>'
        "</TextBlock></PrintSpace></Page></Layout></alto>"
    )
    body = (
        "assert sys.argv[1:3] == ['-a', '-i'] and sys.argv[5:] == ['segment', '-bl']\nassert image.endswith('.png')\n"
    )
    page = kraken.find_lines(
        np.zeros((30, 40), np.uint8), command=program(tmp_path, f"{body}shutil.copy({str(answer)!r}, result)")
    )
    assert [line.id for line in page.lines] == ["line_1"]
    assert page.lines[0].baseline == ((1, 9), (20, 9))


@pytest.mark.parametrize("body", ["sys.exit('no model')", "pass", "pathlib.Path(result).write_text('<mets/>')"])
def test_kraken_that_fails_is_one_sentence(tmp_path: Path, body: str) -> None:
    with pytest.raises(InputError, match="kraken"):
        kraken.find_lines(np.zeros((30, 40), np.uint8), command=program(tmp_path, body))
