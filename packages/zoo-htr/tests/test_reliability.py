"""Confidences are fitted so that they keep what they say; the measures of that are what their definitions are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from posteriors import chance, spoken

from zoo_htr.align import log_likelihoods
from zoo_htr.alphabet import Alphabet
from zoo_htr.calibrate import Examples, calibrate, cross_fitted, read_all
from zoo_htr.confidence import Calibration, features, tempered
from zoo_htr.eval import reliability
from zoo_htr.fitting import fit_logistic, fit_monotone, fit_temperature, least
from zoo_htr.metrics import score
from zoo_htr.reliability import (
    area_under_risk_coverage,
    brier,
    expected_calibration_error,
    rate_after_rejection,
)
from zoo_htr.truth import TrueLine

RNG = np.random.default_rng(11)


def test_calibration_error_is_nought_for_honest_confidences_and_the_gap_for_others() -> None:
    sure = RNG.random(60_000)
    honest = RNG.random(60_000) < sure
    assert expected_calibration_error(sure, honest) < 0.01
    assert expected_calibration_error(np.full(1000, 0.9), np.arange(1000) < 500) == pytest.approx(0.4)
    assert brier(np.array([1.0, 0.5]), np.array([True, False])) == pytest.approx(0.125)
    assert np.isnan(expected_calibration_error(np.zeros(0), np.zeros(0)))


def test_calibration_error_is_that_of_bins_of_equal_mass_whatever_the_order() -> None:
    sure = np.array([0.1, 0.2, 0.3, 0.8, 0.85, 0.9])
    right = np.array([0, 1, 0, 1, 1, 0])
    by_hand = (abs((0.1 + 0.2 + 0.3) - 1) + abs((0.8 + 0.85 + 0.9) - 2)) / 6
    assert expected_calibration_error(sure, right, bins=2) == pytest.approx(by_hand)
    order = RNG.permutation(6)
    assert expected_calibration_error(sure[order], right[order], bins=2) == pytest.approx(by_hand)
    # equal confidences are one bin: else the order of the lines would make an error
    same, alternating = np.full(40, 0.5), np.arange(40) % 2
    assert expected_calibration_error(same, alternating) == expected_calibration_error(same, np.sort(alternating)) == 0


def test_rejection_takes_the_least_sure_lines_and_counts_characters() -> None:
    sure, errors, units = np.array([0.9, 0.1, 0.8, 0.5]), np.array([0, 5, 1, 2.0]), np.array([10, 10, 20, 10.0])
    assert rate_after_rejection(sure, errors, units, 0) == pytest.approx(8 / 50)
    assert rate_after_rejection(sure, errors, units, 0.25) == pytest.approx(3 / 40)
    assert rate_after_rejection(sure, errors, units, 0.5) == pytest.approx(1 / 30)
    assert np.isnan(rate_after_rejection(sure, errors, units, 1.0))
    assert area_under_risk_coverage(sure, errors, units) == pytest.approx(np.mean([0, 1 / 30, 3 / 40, 8 / 50]))


def test_a_monotone_fit_is_the_best_one_that_never_falls() -> None:
    x, y = np.arange(6.0), np.array([0, 1, 0, 1, 1, 0.0])
    made = fit_monotone(x, y, np.full(6, 1e6))  # so heavy that the prior does not show
    np.testing.assert_allclose(made(x), [0, 0.5, 0.5, 2 / 3, 2 / 3, 2 / 3], atol=0.2)
    wild = fit_monotone(RNG.random(500), (RNG.random(500) < 0.5).astype(float))
    values = wild(np.linspace(-1, 2, 200))
    assert (np.diff(values) >= 0).all()
    assert 0 < values.min() <= values.max() < 1  # nothing is ever certain
    assert fit_monotone(np.zeros(0), np.zeros(0))(0.3) == 0.5


def test_a_regression_finds_the_odds_that_made_the_data() -> None:
    table = RNG.normal(size=(20_000, 2))
    p = 1 / (1 + np.exp(-(1.5 * table[:, 0] - 0.5 * table[:, 1] + 0.3)))
    slope, bias = fit_logistic(table, RNG.random(20_000) < p)
    np.testing.assert_allclose([*slope, bias], [1.5, -0.5, 0.3], atol=0.15)  # the ridge draws them in a little


def test_the_temperature_is_where_the_labels_are_likeliest() -> None:
    assert least(lambda x: (x - 1.7) ** 2, 0, 5, steps=30) == pytest.approx(1.7, abs=1e-4)
    logs = chance(20, 6, 2, sharp=3.0).astype(np.float32)
    label = [1, 2, 3, 4]
    found = fit_temperature([logs], [label])
    there = log_likelihoods(tempered(logs, found), [label])[0]
    assert all(log_likelihoods(tempered(logs, t), [label])[0] <= there + 1e-3 for t in (0.6, 1.0, 2.0, 3.0, 3.9))
    np.testing.assert_allclose(np.exp(tempered(logs, 1.7)).sum(axis=1), 1, rtol=1e-5)


def noisy_examples(count: int, alphabet: Alphabet) -> Examples:
    """Lines of a network that is too sure: its posteriors say 0.9 where it is right half the time."""
    letters = [i for i, s in enumerate(alphabet.symbols) if s.isalpha() and s.isascii() and s.islower()]
    space = alphabet.index(" ")
    lines, log_probs = [], []
    for n in range(count):
        rng = np.random.default_rng(n)
        label = rng.choice(letters, 24).tolist()
        label[5::6] = [space] * len(label[5::6])
        seen = [int(rng.choice(letters)) if s != space and rng.random() < 0.25 else s for s in label]
        lines.append(TrueLine(str(n), alphabet.decode(label).strip(), b"", "made", f"hand {n % 10}", f"page {n % 20}"))
        logs = spoken(seen, len(alphabet), n, unsure=0.0)
        # where it read wrongly it is a little less sure, so there is something to learn
        wrong = {s for s, t in zip(seen, label, strict=True) if s != t}
        logs[np.isin(logs.argmax(1), list(wrong))] *= 0.6
        logs -= np.log(np.exp(logs).sum(1, keepdims=True))
        log_probs.append(torch.from_numpy(logs).float())
    return Examples(lines, log_probs)


def test_fitted_confidences_keep_what_they_say_for_hands_they_never_saw() -> None:
    alphabet = Alphabet(("", " ", *"abcdefghijklmnopqrstuvwxyz"))
    examples = noisy_examples(60, alphabet)
    base = Calibration(model="m", weights="0" * 16, fitted_on="x", temperature=1.0, language_scale=0.5, bonus=1.0)
    readings, features = read_all(examples, alphabet, base, "greedy")
    scores = score([line.text for line in examples.lines], [r.text for r in readings])
    bare = reliability(examples.lines, readings, scores)
    fitted = reliability(examples.lines, cross_fitted(readings, features, examples.lines, base), scores)
    assert fitted["ece"] < 0.6 * bare["ece"]
    assert fitted["ece"] < 0.06
    assert fitted["brier"] < bare["brier"]
    assert "exact_ece" not in bare  # posteriors claim nothing about whole lines
    assert fitted["exact_ece"] < 0.1


def test_everything_is_fitted_at_once_and_the_language_never_makes_it_worse() -> None:
    alphabet = Alphabet(("", " ", *"abcdefghijklmnopqrstuvwxyz"))
    examples = noisy_examples(5, alphabet)
    said: list[str] = []
    made = calibrate(examples, alphabet, model="m", weights="0" * 16, fitted_on="x", say=said.append)
    assert set(made.maps) == {"greedy", "beam"}
    tried = {line.partition(": CER")[0]: float(line.split()[-2]) for line in said if "CER" in line}
    assert tried[f"alpha {made.language_scale:.2f}, beta {made.bonus:.2f}"] == min(tried.values())


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), max_size=6), gaps=st.lists(st.integers(0, 9), min_size=7), seed=st.integers()
)
def test_features_of_characters_are_those_of_each_by_itself(lengths: list[int], gaps: list[int], seed: int) -> None:
    spans, at = [], gaps[0]
    for length, gap in zip(lengths, gaps[1:], strict=False):
        spans.append((at, at + length))
        at += length + gap
    logs, random = chance(at, 9, seed % 1000, sharp=3).astype(np.float32), np.random.default_rng(seed % 1000)
    label, language = random.integers(1, 9, len(spans)).tolist(), random.normal(-3, 1, len(spans)).tolist()
    table = features(logs, label, spans, language)
    assert table.shape == (len(spans), 4)
    for i, (symbol, (start, end)) in enumerate(zip(label, spans, strict=True)):
        own = [float(logs[t, symbol]) for t in range(start, end)]
        rivals = [max(float(logs[t, c]) for c in range(1, 9) if c != symbol) for t in range(start, end)]
        before = spans[i - 1][1] if i else max(start - 4, 0)
        behind = spans[i + 1][0] if i + 1 < len(spans) else min(end + 4, at)
        margin = max(mine - other for mine, other in zip(own, rivals, strict=True))
        room = max(end - start + (behind - before) / 2, 0.5)
        assert table[i] == pytest.approx([sum(own) / len(own), margin, language[i], math.log(room)], rel=1e-9)
