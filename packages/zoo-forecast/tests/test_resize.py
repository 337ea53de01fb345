"""Tokens of any length through layers made for 48 points."""

from __future__ import annotations

import pytest
import torch

from zoo_forecast.resize import Resize, interpolation, into, out_of

LIKE = torch.empty(0, dtype=torch.float64)
LENGTHS = (1, 8, 12, 24, 36, 96, 192, 288)


@pytest.mark.parametrize("way", ["official", "even"])
def test_the_own_length_is_left_alone(way: Resize) -> None:
    assert torch.equal(into(way, 48, 48, LIKE), torch.eye(48, dtype=torch.float64))
    assert torch.equal(out_of(way, 48, 48, LIKE), torch.eye(48, dtype=torch.float64))


@pytest.mark.parametrize("length", LENGTHS)
def test_even_keeps_levels(length: int) -> None:
    level = torch.ones(48, dtype=torch.float64)
    torch.testing.assert_close(torch.ones(length, dtype=torch.float64) @ into("even", length, 48, LIKE), level)
    torch.testing.assert_close(level @ out_of("even", length, 48, LIKE), torch.ones(length, dtype=torch.float64))


@pytest.mark.parametrize("length", LENGTHS)
def test_even_keeps_slopes_in_the_middle(length: int) -> None:
    if length < 4:
        pytest.skip("too short for a slope")
    slope = (torch.arange(48, dtype=torch.float64) + 0.5) / 48
    wanted = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    middle = slice(length // 4, -length // 4)
    torch.testing.assert_close((slope @ out_of("even", length, 48, LIKE))[middle], wanted[middle], rtol=0, atol=0.01)


# measured beside the authors' code: what becomes of a constant 1
@pytest.mark.parametrize(
    ("length", "level"), [(12, 1.0), (24, 1.414), (36, 1.155), (96, 0.707), (192, 0.5), (288, 0.408)]
)
def test_official_does_not_keep_levels(length: int, level: float) -> None:
    out = torch.ones(48, dtype=torch.float64) @ out_of("official", length, 48, LIKE)
    assert float(out.mean()) == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("length", [96, 192, 100])
def test_official_embeds_a_resized_signal_as_the_signal_times_a_factor(length: int) -> None:
    signal = torch.randn(48, dtype=torch.float64)
    resized = interpolation(48, length, antialias=False) @ signal
    factor = (length / 48) ** 0.5
    torch.testing.assert_close(resized @ into("official", length, 48, LIKE), factor * signal)
