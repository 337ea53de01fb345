"""The doctor for single pictures: what it notices, what it shows, and which way it would turn them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from page_data import MODEL

from zoo_htr.doctor import better_turned, examine, turned_readings


def strokes(lines: int, height: int = 64) -> np.ndarray:
    """Rows of upright strokes at irregular places, as of letters."""
    page = np.full((30 + lines * height, 1200), 215, np.uint8)
    random = np.random.default_rng(0)
    for n in range(lines):
        base = 20 + round((n + 0.8) * height)
        x = 30 + random.integers(40)
        while x < 1150:
            high = round(height * (0.4 if random.random() < 0.8 else 0.65))
            page[base - high : base, x : x + max(2, height // 16)] = 40
            x += max(4, round(height * random.uniform(0.1, 0.35)))
    return page


@pytest.mark.parametrize(
    ("picture_", "said"),
    [
        (strokes(1), None),
        (strokes(8), None),
        (strokes(2), "two or more lines"),
        (255 - strokes(1), "light ink"),
        (np.ascontiguousarray(np.rot90(strokes(1))), "90 degrees"),
        (np.ascontiguousarray(np.rot90(strokes(12))), "90 degrees"),
        (strokes(1, 24)[10:34], "scan with more"),
        (np.full((600, 500), 230, np.uint8), "no lines were found"),
        (np.zeros((3, 500), np.uint8), "hold no writing"),
    ],
)
def test_doctor_says_what_is_wrong(picture_: np.ndarray, said: str | None) -> None:
    warnings = examine(picture_).warnings
    if said is None:
        assert warnings == ()
    else:
        assert any(said in warning for warning in warnings), warnings


def test_doctor_shows_what_the_network_gets() -> None:
    found = examine(strokes(8))
    assert (found.kind, len(found.lines)) == ("page", 8)
    assert {line.shape[0] for line in found.lines} == {64}


@pytest.mark.parametrize(
    ("sure", "said"),
    [
        ({0: 0.9, 90: 0.3, 180: 0.5, 270: 0.2}, None),
        ({0: 0.55, 90: 0.3, 180: 0.6, 270: 0.2}, None),  # not clearly
        ({0: 0.4, 90: 0.3, 180: 0.9, 270: 0.2}, "by 180 degrees"),
        ({0: 0.2, 90: 0.8, 180: 0.2, 270: 0.3}, "90 degrees to the left"),
        ({90: 0.3, 270: 0.7}, "90 degrees to the right"),  # no line is found as it is
    ],
)
def test_doctor_says_which_way_to_turn(sure: dict[int, float], said: str | None) -> None:
    warnings = better_turned(sure)
    assert (said is None) == (warnings == [])
    assert all(said in warning for warning in warnings if said)


def test_doctor_with_a_model_tries_all_four_ways(weights: Path) -> None:
    """The same line is found and read however the picture lies."""
    upright = turned_readings(strokes(1), MODEL, weights)
    lying = turned_readings(np.ascontiguousarray(np.rot90(strokes(1))), MODEL, weights)
    assert {0, 180} <= set(upright)
    assert lying[270] == pytest.approx(upright[0], abs=1e-6)
    assert lying[90] == pytest.approx(upright[180], abs=1e-6)
