"""Whole pages: what a wrong order, a lost line and a wrong word each cost, and that the figures tell them apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_data import LINES, MODEL, alto, save
from rapidfuzz.distance import Levenshtein

from zoo_htr.page_eval import bag_edits, match_baselines, pages_of, score_page
from zoo_htr.pages.model import Line, Points

TEXTS = ("the first of all", "the second line", "and a third one")


def base(number: int, left: float = 20, right: float = 380, drop: float = 0) -> Points:
    return (left, 60 + 80 * number), (right, 60 + 80 * number + drop)


TRUTH = [Line(f"l{n}", (), base(n), text=text) for n, text in enumerate(TEXTS)]
READ = [(base(n), text) for n, text in enumerate(TEXTS)]


def test_a_page_that_is_read_right_has_no_error() -> None:
    page = score_page("p", TRUTH, READ)
    assert (page.matched, page.wer, page.bag_wer, page.cer, page.words) == (3, 0, 0, 0, 11)


def test_a_wrong_order_costs_words_in_order_and_none_in_the_bag() -> None:
    page = score_page("p", TRUTH, READ[::-1])
    assert page.wer > 0.5
    assert (page.bag_wer, page.matched, page.cer) == (0, 3, 0)


def test_a_lost_and_an_invented_line_cost_their_words_in_both() -> None:
    lost = score_page("p", TRUTH, READ[:2])
    assert (lost.word_edits, lost.bag_edits, lost.matched, lost.cer) == (4, 4, 2, 0)
    more = score_page("p", TRUTH, [*READ, (base(4), "a stamp")])
    assert (more.word_edits, more.bag_edits, more.matched) == (2, 2, 3)


def test_a_wrong_letter_is_a_word_in_both_and_a_character_of_its_line() -> None:
    page = score_page("p", TRUTH, [(READ[0][0], "tho first of all"), *READ[1:]])
    assert (page.word_edits, page.bag_edits, page.character_edits) == (1, 1, 1)


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abcd"), max_size=8))
def test_a_bag_never_costs_more_than_a_sequence_and_forgets_the_order(left: list[str], right: list[str]) -> None:
    assert bag_edits(left, right) <= Levenshtein.distance(left, right)
    assert bag_edits(left, right) == bag_edits(left[::-1], sorted(right)) == bag_edits(right, left)
    assert (bag_edits(left, right) == 0) == (sorted(left) == sorted(right))


def test_baselines_match_by_the_way_that_they_share() -> None:
    lines = [base(n) for n in range(3)]
    moved = [base(2, drop=15), base(0, left=60), base(1, right=150)]  # sloping, shorter, far too short
    assert sorted(match_baselines(lines, moved, 80)) == [(0, 1), (2, 0)]
    assert match_baselines(lines, [((20, 100), (380, 100)), ()], 80) == []  # between two lines; nowhere
    halves = [base(0, right=190), base(0, left=190)]
    assert len(match_baselines(lines[:1], halves, 80)) == 1
    assert np.all(np.diff([j for _, j in match_baselines(lines, lines, 80)]) == 1)


def test_the_command_measures_found_lines_and_given_ones(tmp_path: Path, weights: Path) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(alto(LINES, file_name="a.png"))
    (tmp_path / "a.page.xml").write_text("<PcGts/>")
    (tmp_path / "empty.xml").write_text(alto("", file_name="a.png"))
    (tmp_path / "mets.xml").write_text("<mets/>")
    assert [path.name for path in pages_of(tmp_path)] == ["a.page.xml", "empty.xml"]
    (tmp_path / "a.page.xml").unlink()
    for segmenter in ("own", "auto"):
        command = [sys.executable, "-m", "zoo_htr.page_eval", MODEL, "--data", str(tmp_path), "--weights", str(weights)]
        done = subprocess.run(
            [*command, "--segmenter", segmenter, "--format", "json", "--device", "cpu"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        page, total = (json.loads(row) for row in done.stdout.splitlines())
        assert (page["page"], page["lines"], page["found"], page["matched"]) == ("a.xml", 3, 3, 3)
        assert {key: page[key] for key in ("wer", "bag_wer")} == {key: total[key] for key in ("wer", "bag_wer")}
        assert "95th percentile" in done.stderr
    assert page["wer"] == pytest.approx(page["bag_wer"] + page["order"], abs=1e-3)
