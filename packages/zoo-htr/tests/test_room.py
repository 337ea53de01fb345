"""Pictures of lines that are cropped to their letters: noticed, said, and given room if that is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from zoo_core.io.packs import packs_root
from zoo_htr.doctor import examine
from zoo_htr.predict import HTRPredictor
from zoo_htr.room import is_tight, letter_band, with_room
from zoo_htr.truth import true_lines

PACK = (packs_root() or Path(os.devnull)) / "htr/lines/val.parquet"


def strokes(height: int = 64, top: float = 0.45, bottom: float = 0.7, width: int = 600) -> np.ndarray:
    """A line whose letters stand between two shares of its height, some with ascenders."""
    line = np.full((height, width), 215, np.uint8)
    for n, x in enumerate(range(20, width - 20, 12)):
        high = top - 0.2 * (n % 5 == 0)
        line[max(0, round(high * height)) : round(bottom * height), x : x + 4] = 40
    return line


@pytest.mark.parametrize("height", [32, 64, 200])
def test_the_band_of_letters_is_found_at_any_size(height: int) -> None:
    band = letter_band(strokes(height))
    assert band is not None
    assert np.allclose(np.array(band) / height, (0.45, 0.7), atol=0.05)
    assert letter_band(np.full((height, 300), 200, np.uint8)) is None


def test_a_tight_line_gets_room_and_others_stay_as_they_are() -> None:
    tight, roomy = strokes()[26:48], strokes()
    assert (is_tight(tight), is_tight(roomy)) == (True, False)
    assert with_room(roomy).image is roomy
    made = with_room(tight)
    band = letter_band(made.image)
    assert band is not None
    assert (band[1] - band[0]) / made.image.shape[0] == pytest.approx(0.25, abs=0.05)
    assert (band[0] + band[1]) / 2 / made.image.shape[0] == pytest.approx(0.59, abs=0.05)
    top = round(-made.to_page[1, 2])
    assert np.array_equal(made.image[top : top + tight.shape[0]], tight)
    assert set(np.unique(np.delete(made.image, np.s_[top : top + tight.shape[0]], axis=0))) == {215}
    assert made.on_page(((0, top),)) == ((0, 0),)


@pytest.mark.skipif(not PACK.is_file(), reason="the data packs are not here (ZOO_PACKS)")
def test_lines_of_the_packs_have_room_and_their_crops_do_not() -> None:
    lines = [line.pixels() for line in true_lines(PACK, limit=120)]
    assert not any(map(is_tight, lines))
    cropped = []
    for line in lines:
        band = letter_band(line)
        assert band is not None
        quarter = (band[1] - band[0]) / 4
        part = line[max(0, round(band[0] - quarter)) : round(band[1] + quarter)]
        if part.shape[0] >= 10:
            cropped.append(cv2.resize(part, None, fx=64 / part.shape[0], fy=64 / part.shape[0]))
    assert np.mean([is_tight(np.asarray(line)) for line in cropped]) > 0.75


def test_prediction_says_it_and_adds_room_if_it_may(opened: Callable[..., HTRPredictor]) -> None:
    tight = strokes(200)[80:150]
    told, fitted = opened().predict(tight), opened(fit_lines=True).predict(tight)
    assert "--fit-lines gives them room" in told.notes[0]
    assert fitted.notes == ("the letters fill the picture's height: paper was added",)
    cut = fitted.pages[0].cuts[0]
    assert cut is not None
    assert cut.image.shape[0] > 1.5 * tight.shape[0]
    for written in fitted.pages[0].lines():
        assert all(0 <= word.box[1] < word.box[3] <= tight.shape[0] for word in written.words)
    assert not any("letters fill" in note for note in opened().predict(strokes()).notes)
    assert any("--fit-lines" in warning for warning in examine(tight).warnings)
    assert not any("--fit-lines" in warning for warning in examine(strokes()).warnings)
