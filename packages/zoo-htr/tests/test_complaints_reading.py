"""What people complain of in public threads about reading: 6 and 11 of docs/handwriting-troubles.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo_core.catalog import find
from zoo_htr.alphabet import Alphabet
from zoo_htr.decode import Decoder
from zoo_htr.language import Language

ALPHABET = Alphabet(tuple(find("htr-jand-student").manifest.config["alphabet"]))


def sure_of(text: str) -> Tensor:
    """Log-probabilities of a network that sees a text without doubt."""
    table = np.full((2 * len(text) + 1, len(ALPHABET)), 1e-5)
    table[::2, 0] = 1
    for i, symbol in enumerate(text):
        table[2 * i + 1, ALPHABET.index(symbol)] = 1
    return torch.from_numpy(np.log(table / table.sum(axis=1, keepdims=True))).float()


def test_complaint_06_language_models_speak_in_the_symbols_of_the_network() -> None:
    """kraken 682: labels of the net and code points of the model differ. Here both are rows of one alphabet."""
    other = Alphabet((ALPHABET.symbols[0], "\u0416", *reversed(ALPHABET.symbols[1:])))
    text = "la maison"
    for alphabet in (ALPHABET, other):
        mixture = Language("fr").mixture([], alphabet, scale=1.0)
        row = mixture.row(mixture.start())
        assert row.shape == (len(alphabet),)
        assert np.isfinite(row).all()
        assert np.exp(row).sum() == pytest.approx(1, abs=0.02)
        totals = sum(mixture.symbol_logs(alphabet.encode(text)))
        expected = sum(Language("fr").mixture([], ALPHABET, scale=1.0).symbol_logs(ALPHABET.encode(text)))
        assert totals == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("options", [{"decoder": "beam", "below": 1.0}, {"correct": True}])
def test_complaint_11_no_words_are_invented(options: dict[str, object]) -> None:
    """unilm 1709: fluent text where there is none. CTC has a frame for each symbol, or no symbol."""
    nonsense = "qxjz wkvb"
    decoder = Decoder(ALPHABET, language="fr", **options)  # type: ignore[arg-type]
    blank, written, half = sure_of(""), sure_of(nonsense), sure_of("la mai")
    readings = decoder.read([blank.repeat(50, 1), written, half])
    assert [reading.text for reading in readings] == ["", nonsense, "la mai"]
    for reading in readings:
        spans = [(char.start, char.end) for char in reading.chars]
        assert spans == sorted(spans)
        assert all(start < end for start, end in spans)
