"""The decoders agree with the definition of CTC: every path written out, where that can be done."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from posteriors import chance, every_text, spoken

from zoo_htr.align import best_spans, log_likelihoods
from zoo_htr.alphabet import Alphabet
from zoo_htr.beam import beam_search
from zoo_htr.greedy import greedy, greedy_lines

ABC = Alphabet(("", " ", "a", "b", "c"))
EXACT = {"width": 10_000, "least_log": -np.inf, "skipped": 2.0}


@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_is_exact(seed: int) -> None:
    logs = chance(6, 4, seed, sharp=2.0)
    totals = every_text(logs)
    found = beam_search(logs, **EXACT)
    assert {h.label for h in found} == set(totals)
    assert found[0].label == max(totals, key=totals.__getitem__)
    assert [h.acoustic for h in found] == pytest.approx([totals[h.label] for h in found], abs=1e-12)
    assert sum(np.exp(h.acoustic) for h in found) == pytest.approx(1, abs=1e-12)


class _Bigram:
    """A scorer with a memory, so that a wrong state would show."""

    def __init__(self, symbols: int) -> None:
        self.table = np.random.default_rng(5).normal(size=(symbols, symbols))

    def start(self) -> int:
        return 0

    def row(self, state: int) -> np.ndarray:
        return self.table[state]

    def step(self, state: int, symbol: int) -> int:
        return symbol

    def of(self, text: tuple[int, ...]) -> float:
        return sum(self.table[a, b] for a, b in zip((0, *text), (*text, 0), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_with_a_scorer_is_exact(seed: int) -> None:
    logs, scorer = chance(6, 4, seed, sharp=2.0), _Bigram(4)
    totals = {text: total + scorer.of(text) + 0.3 * len(text) for text, total in every_text(logs).items()}
    found = beam_search(logs, scorer, bonus=0.3, **EXACT)
    assert found[0].label == max(totals, key=totals.__getitem__)
    assert [h.score for h in found] == pytest.approx([totals[h.label] for h in found], abs=1e-9)


def test_likelihoods_are_the_sums_over_paths() -> None:
    logs = chance(6, 4, 9)
    totals = every_text(logs)
    texts = list(totals)
    assert log_likelihoods(logs, texts) == pytest.approx([totals[t] for t in texts], abs=1e-10)
    assert log_likelihoods(logs, [(1, 1, 1, 1)]) == [-np.inf]  # needs seven frames
    assert log_likelihoods(logs[:0], [(), (1,)]) == [0.0, -np.inf]


@pytest.mark.parametrize("label", [[1, 2, 3], [2, 2, 1], [3]])
def test_spans_are_those_of_the_best_path(label: list[int]) -> None:
    logs = chance(7, 4, 3)
    spans = best_spans(logs, label)
    rebuilt = np.zeros(7, int)
    for (start, end), symbol in zip(spans, label, strict=True):
        rebuilt[start:end] = symbol
    paths = [p for p in itertools.product(range(4), repeat=7) if [s for s, _ in itertools.groupby(p) if s] == label]
    best = max(float(logs[np.arange(7), path].sum()) for path in paths)
    assert logs[np.arange(7), rebuilt].sum() == pytest.approx(best)
    with pytest.raises(ValueError, match="2 frames"):
        best_spans(logs[:2], [1, 1])


@pytest.mark.parametrize("seed", range(30))
def test_a_beam_of_eight_never_finds_a_less_likely_text_than_greedy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logs = spoken(rng.integers(1, 30, 25).tolist(), 30, seed, unsure=0.5) if seed % 2 else chance(30, 12, seed)
    alphabet = Alphabet(("", *map(chr, range(65, 65 + logs.shape[1] - 1))))
    plain = greedy(torch.from_numpy(logs), alphabet)
    best = beam_search(logs, width=8)[0]
    theirs, ours = log_likelihoods(logs, [alphabet.encode(plain.text), best.label])
    assert ours >= theirs - 1e-9
    assert best.acoustic <= ours + 1e-9  # what is pruned can only be missing


@pytest.mark.parametrize("seed", range(30))
def test_skipping_sure_blanks_changes_no_text(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logs = spoken(rng.integers(1, 40, 30).tolist(), 40, seed, unsure=0.4)
    assert (logs[:, 0] > np.log(0.9995)).sum() > 10
    assert beam_search(logs)[0].label == beam_search(logs, skipped=2.0)[0].label


def test_a_skipped_blank_still_parts_two_equal_symbols() -> None:
    logs = np.log(np.array([[0.05, 0.95], [0.9999, 0.0001], [0.05, 0.95]]))
    assert beam_search(logs)[0].label == (1, 1)


def test_greedy_gives_spans_and_the_mean_posterior() -> None:
    probs = torch.tensor([[0.1, 0.0, 0.8, 0.1, 0.0], [0.1, 0.0, 0.6, 0.3, 0.0], [0.9, 0.1, 0.0, 0.0, 0.0],
                          [0.2, 0.0, 0.5, 0.3, 0.0], [0.1, 0.0, 0.2, 0.3, 0.4]])  # fmt: skip
    reading = greedy(probs.log(), ABC)
    assert reading.text == "aac"
    assert [(c.start, c.end) for c in reading.chars] == [(0, 2), (3, 4), (4, 5)]
    assert [c.confidence for c in reading.chars] == pytest.approx([0.7, 0.5, 0.4])
    assert reading.chars[2].alternatives == (("b", pytest.approx(0.3)), ("a", pytest.approx(0.2)))
    assert reading.confidence == pytest.approx((0.7 * 0.5 * 0.4) ** (1 / 3))
    assert reading.score == pytest.approx(np.log(0.8 * 0.6 * 0.9 * 0.5 * 0.4), rel=1e-6)


def test_a_batch_reads_every_line_as_if_it_were_alone() -> None:
    """Equal symbols at the seam of two lines must not run together, and lines without frames may stand anywhere."""
    lines = [torch.from_numpy(chance(n, 5, n, sharp=3.0)) for n in (0, 7, 1, 0, 12, 3, 0)]
    lines.insert(2, lines[1].flip(0))  # begins with what the line before it ends with
    together = greedy_lines(lines, ABC)
    assert together == [greedy(line, ABC) for line in lines]
    assert (together[0].text, together[0].confidence) == ("", 1.0)
    assert greedy_lines([], ABC) == []


def test_an_empty_line_is_as_sure_as_its_blanks() -> None:
    probs = torch.tensor([[0.9, 0.1, 0, 0, 0], [0.7, 0.3, 0, 0, 0]])
    reading = greedy(probs.log(), ABC)
    assert (reading.text, reading.chars) == ("", ())
    assert reading.confidence == pytest.approx(0.8)
    assert beam_search(probs.log().numpy())[0].label == ()
