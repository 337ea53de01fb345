"""One normaliser: training and prediction see the same bits, and no line those of its batch mates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_htr.alphabet import Alphabet
from zoo_htr.augment import Choice, render, still
from zoo_htr.data import LineStore, scribbles
from zoo_htr.normalise import _percentile, prepare, standardise, standardise_one

CPU = torch.device("cpu")
ALPHABET = Alphabet(("", *"abcdefgh "))


def grey(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Dark strokes on light paper."""
    random = np.random.default_rng(seed)
    paper = random.normal(215, 6, (height, width))
    paper[height // 3 : height // 2, :: max(2, width // 9)] -= 150
    return paper.clip(0, 255).astype(np.uint8)


def alone(line: np.ndarray) -> torch.Tensor:
    return standardise(torch.from_numpy(line)[None], torch.tensor([line.shape[1]]))[0, 0]


@settings(max_examples=30, deadline=None)
@given(widths=st.lists(st.integers(1, 90), min_size=1, max_size=5), canvas=st.integers(90, 130))
def test_a_line_is_the_same_to_the_bit_alone_and_in_a_batch(widths: list[int], canvas: int) -> None:
    batch = torch.randint(0, 256, (len(widths), 64, canvas), generator=torch.Generator().manual_seed(sum(widths)))
    shades = standardise(batch, torch.tensor(widths))
    for line, shade, n in zip(batch, shades, widths, strict=True):
        assert torch.equal(shade[0, :, :n], standardise(line[None, :, :n], torch.tensor([n]))[0, 0])
        assert not shade[0, :, n:].any()


@settings(max_examples=100, deadline=None)
@given(levels=st.lists(st.integers(0, 255), min_size=1, max_size=300), percent=st.sampled_from([0, 1, 25, 50, 99, 100]))
def test_percentiles_are_those_that_sorting_gives(levels: list[int], percent: int) -> None:
    counts = np.bincount(levels, minlength=256)
    assert _percentile(counts, percent) == pytest.approx(np.percentile(levels, percent), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(low=st.integers(0, 255), high=st.integers(0, 255), width=st.integers(1, 90), seed=st.integers(0, 99))
def test_one_line_is_what_a_batch_of_one_is_to_the_bit(low: int, high: int, width: int, seed: int) -> None:
    line = np.random.default_rng(seed).integers(min(low, high), max(low, high) + 1, (64, width)).astype(np.uint8)
    batch = standardise(torch.from_numpy(line)[None], torch.tensor([width]))
    assert torch.equal(standardise_one(line), batch[0, 0])


def test_paper_is_zero_and_ink_positive_in_units_of_the_contrast() -> None:
    line = grey(64, 200)
    shade = alone(line)
    paper = np.quantile(line, 0.75, method="inverted_cdf")
    deviation = max(line.std(), 0.05 * 255)
    assert np.allclose(shade.numpy(), (paper - line.astype(float)) / deviation, atol=1e-6)
    assert shade[line < 100].min() > 1
    # an empty line stays quiet: the contrast has a floor
    empty = np.random.default_rng(0).normal(210, 1.5, (64, 100)).astype(np.uint8)
    assert alone(empty).abs().max() < 1


def test_training_sees_what_prediction_sees_bit_for_bit() -> None:
    """Prediction from batch to batch went wrong elsewhere because the two normalised differently."""
    lines = scribbles(7, ALPHABET, seed=1)
    store = LineStore(lines, ALPHABET, CPU)
    choice = Choice(torch.arange(7), torch.full((7,), -1), torch.zeros(7, dtype=torch.long), torch.arange(7))
    canvas = int(store.widths.max()) + 9
    torch.manual_seed(0)
    made = render(store, choice, still(store.widths_cpu), canvas)
    trained = standardise(made.grey, made.widths)
    for line, shade in zip(lines, trained, strict=True):
        width = line.pixels.shape[1]
        assert torch.equal(shade[0, :, :width], alone(prepare(line.pixels)))


def test_light_ink_on_dark_paper_is_turned_over() -> None:
    line = grey(64, 120)
    assert np.array_equal(prepare(255 - line), line)
    assert np.array_equal(prepare(line), line)
    # without contrast there is no telling
    dull = np.random.default_rng(0).integers(20, 40, (64, 50)).astype(np.uint8)
    assert np.array_equal(prepare(dull), dull)


@pytest.mark.parametrize("height", [16, 64, 65, 128, 300])
def test_every_height_becomes_64_in_proportion(height: int) -> None:
    line = grey(height, 3 * height)
    scaled = prepare(line)
    assert scaled.shape == (64, 192)
    assert abs(float(scaled.mean()) - float(line.mean())) < 3
    if height == 128:
        blocks = line.reshape(64, 2, 192, 2).astype(float).mean(axis=(1, 3))
        assert np.abs(scaled - blocks).max() <= 1


@pytest.mark.parametrize("wrong", [np.zeros((64, 9, 3), np.uint8), np.zeros((64, 9)), np.zeros((0, 9), np.uint8)])
def test_what_is_no_line_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        prepare(wrong)
