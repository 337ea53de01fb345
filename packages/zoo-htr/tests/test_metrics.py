"""Error rates as the definitions have them, and as other people's libraries compute them."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest

from zoo_htr.metrics import confusions, flor_legacy, graphemes, right, score, words_and_signs

LINES = [
    ("Ma chère Élise,", "Ma chere Elise"),
    ("l'eau de vie", "leau de  vie"),
    ("à Paris ce 4 Juillet 1824.", "a Paris ce 4 juillet 1324."),
    ("même", "même"),
]


def rate(reference: str, text: str, metric: str = "cer") -> float:
    return score([reference], [text]).rate(metric)


def test_the_strict_rate_keeps_case_accents_and_punctuation() -> None:
    assert rate("Élise.", "elise") == pytest.approx(2 / 6)
    assert rate("Élise.", "elise", "cer_caseless") == pytest.approx(2 / 6)
    assert rate("Élise.", "elise", "cer_accentless") == pytest.approx(2 / 6)
    assert rate("Élise.", "Elise.", "cer_accentless") == 0
    assert rate("Élise.", "ÉLISE", "cer_unpunctuated") == pytest.approx(4 / 5)


def test_normal_forms_and_white_space_never_count() -> None:
    reference = "déjà  vu "
    assert rate(unicodedata.normalize("NFD", reference), "\tdéjà\u00a0vu") == 0
    assert score([unicodedata.normalize("NFD", reference)], [""]).weights["cer"][0] == 7


def test_rates_are_micro() -> None:
    """A short bad line weighs by its characters; a mean of ratios would give 0.5."""
    assert score(["a", "bcdefghij"], ["x", "bcdefghij"]).rate("cer") == pytest.approx(0.1)
    assert score(["aa"], ["bbbbbb"]).rate("cer") == 3  # may exceed 1


def test_empty_references_are_counted_apart() -> None:
    scores = score(["", "ab", ""], ["xyz", "ab", ""])
    assert (scores.rate("cer"), scores.empty, scores.invented) == (0, 2, 3)
    assert scores.rate("exact") == 1
    assert np.isnan(score([""], ["a"]).rate("cer"))


def test_words_by_two_rules() -> None:
    assert words_and_signs("Qu'il vienne, l'eau (3^e) d'où?") == (
        ["Qu'", "il", "vienne", ",", "l'", "eau", "(", "3", "^", "e", ")", "d'", "où", "?"]
    )
    assert words_and_signs("'tis q\u0303 don't") == ["'", "tis", "q\u0303", "don'", "t"]
    assert graphemes("q\u0303e") == ["q\u0303", "e"]
    assert rate("l'eau, ici", "l'eau ici", "wer") == pytest.approx(1 / 2)
    assert rate("l'eau, ici", "l'eau ici", "wer_signs") == pytest.approx(1 / 4)


def test_the_legacy_figure_is_lower_in_all_three_ways() -> None:
    assert flor_legacy("AB", "ab") == 0
    assert flor_legacy("ab", "wxyz") == 1  # strict: 2
    assert flor_legacy("", "") == 0
    assert score(["a", "bcdefghij"], ["x", "bcdefghij"]).rate("flor_legacy") == pytest.approx(0.5)


def test_confusions_add_up_to_the_edits() -> None:
    references, texts = zip(*LINES, strict=True)
    found, scores = confusions(references, texts), score(references, texts)
    edits = found.insertions + found.deletions + found.substitutions
    assert edits == pytest.approx((scores.values["cer"] * scores.weights["cer"]).sum())
    assert found.pairs["É", "E"] == 1
    assert found.pairs[",", ""] == 1


def test_right_marks_what_a_reader_may_trust() -> None:
    assert right("chère", "chare").tolist() == [True, True, False, True, True]
    assert right("abc", "xabc").tolist() == [False, True, True, True]
    assert right([], ["a"]).tolist() == [False]


def noisy(text: str, rng: random.Random) -> str:
    kept = [rng.choice("abé .") if rng.random() < 0.2 else c for c in text if rng.random() > 0.1]
    return "".join(kept) or "x"


def test_jiwer_agrees() -> None:
    jiwer = pytest.importorskip("jiwer")
    rng = random.Random(3)
    references = ["".join(rng.choice("abcdé ,'") for _ in range(30)).strip() + "z" for _ in range(200)]
    references = [" ".join(r.split()) for r in references]
    texts = [" ".join(noisy(r, rng).split()) or "x" for r in references]
    scores = score(references, texts)
    assert scores.rate("cer") == pytest.approx(jiwer.cer(references, texts), abs=1e-12)
    assert scores.rate("wer") == pytest.approx(jiwer.wer(references, texts), abs=1e-12)
    counts = jiwer.process_characters(references, texts)
    found = confusions(references, texts)
    assert found.insertions + found.deletions + found.substitutions == (
        counts.insertions + counts.deletions + counts.substitutions
    )
