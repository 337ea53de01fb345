"""Drawn textures: reproducible, as fine as they say, and a pack that the trainer takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from zoo_sr.data import PhotoPool, read_photos
from zoo_sr.textures import FINER, KINDS, checks, main, photographed, picture, rows, stripes, surface


def square(side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows and columns of a square, in pixels."""
    y, x = np.meshgrid(*[np.arange(side, dtype=np.float32)] * 2, indexing="ij")
    return y, x


def strongest_period(image: NDArray[np.generic]) -> float:
    """The period, in pixels, of the strongest plane wave of an (n, n) image."""
    side = len(image)
    window = np.hanning(side)[:, None] * np.hanning(side)
    power = np.abs(np.fft.rfft2((image - image.mean()) * window))
    row, column = np.unravel_index(power.argmax(), power.shape)
    return side / float(np.hypot(min(row, side - row), column))


@pytest.mark.parametrize("period", [3.0, 4.0, 7.3, 12.0])
@pytest.mark.parametrize("seed", range(4))
def test_stripes_have_their_period_in_every_direction(period: float, seed: int) -> None:
    chance = np.random.default_rng(seed)
    u, v = surface(*square(192), chance, bend=False)
    assert strongest_period(stripes(u, v, period, chance)) == pytest.approx(period, rel=0.05)
    # squares of half a period each way: the strongest wave runs along their diagonal
    assert strongest_period(checks(u, v, period, chance)) == pytest.approx(period / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_patterns_stay_within_their_range_and_are_patterns(kind: Callable[..., NDArray[np.float32]]) -> None:
    for seed in range(5):
        chance = np.random.default_rng(seed)
        found = kind(*surface(*square(64), chance), 6.0, chance)
        assert found.shape == (64, 64)
        assert found.dtype == np.float32
        assert -1.001 < found.min() < found.mean() < found.max() < 1.001
        assert found.std() > 0.1


def test_what_pixels_cannot_hold_becomes_grey_instead_of_another_stripe() -> None:
    _, x = square(192)

    def contrast(period: float) -> float:
        wave = 0.5 + 0.4 * np.sin(2 * np.pi * x / (period * FINER))
        return float(photographed(np.stack([wave] * 3, axis=2), np.random.default_rng(0))[8:-8, 8:-8].std())

    assert contrast(8.0) > 60
    assert contrast(1.25) < 5


def test_most_pictures_hold_periods_that_a_reduction_by_three_folds() -> None:
    def share_below_six_pixels(pixels: NDArray[np.generic]) -> float:
        grey = pixels.mean(axis=2)
        power = np.abs(np.fft.fft2((grey - grey.mean()) * np.hanning(96)[:, None] * np.hanning(96))) ** 2
        turns = np.fft.fftfreq(96)
        return float(power[np.hypot(turns[:, None], turns) > 1 / 6].sum() / power.sum())

    shares = [share_below_six_pixels(picture(96, 96, np.random.default_rng(seed))) for seed in range(12)]
    assert np.median(shares) > 0.1
    assert min(shares) < 0.1 < 0.3 < max(shares)  # and coarse ones are there as well


def test_a_picture_depends_on_the_seed_and_its_number_only() -> None:
    three, five, other = (
        [row["image"] for row in rows(count, width=96, height=96, seed=seed)]
        for count, seed in ((3, 1), (5, 1), (3, 2))
    )
    assert three == five[:3]
    assert not set(three) & set(other)


def test_the_trainer_reads_the_pack_in_both_splits_at_all_sizes(tmp_path: Path) -> None:
    file = tmp_path / "textures.parquet"
    arguments = [str(file), "--images", "10", "--size", "180", "160"]
    told = CliRunner().invoke(main, arguments)
    assert told.exit_code == 0, told.output
    train, val = read_photos([file], "train"), read_photos([file], "val")
    assert (len(train), len(val)) == (9, 1)
    assert all(photo.pixels.shape == (160, 180, 3) for photo in train + val)
    pool = PhotoPool(train, scale=3, patch=32, batch=4, seed=1, device=torch.device("cpu"))
    assert pool.counts.tolist() == [4] * 9
    assert pool.cut(pool.draw(0)).high.shape == (4, 3, 96, 96)
    before = file.read_bytes()
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert "textures.parquet" in again.output
    assert file.read_bytes() == before
