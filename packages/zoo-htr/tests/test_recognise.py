"""LineReader: results in the order of the input, whatever is read together, lines of any size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from zoo_htr.htr_jand import HTRJAND
from zoo_htr.normalise import prepare, standardise
from zoo_htr.recognise import LineReader

ALPHABET = ("", *"abcdefgh ")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> HTRJAND:
    torch.manual_seed(0)
    return HTRJAND(ALPHABET, channels=(8,) * 6, width=16, heads=2, feed_forward=16, blocks=1).eval()


def line(width: int, height: int = 64) -> np.ndarray:
    random = np.random.default_rng(width)
    ink = np.kron(random.random((4, width // 8 + 1)) < 0.3, np.ones((height // 4, 8)))[:height, :width]
    return (220 - 160 * ink).astype(np.uint8)


def directly(network: HTRJAND, picture: np.ndarray) -> torch.Tensor:
    pixels = prepare(picture)
    widths = torch.tensor([pixels.shape[1]])
    with torch.inference_mode():
        return network(standardise(torch.from_numpy(pixels)[None], widths), widths).logits[0].log_softmax(1)


def test_each_line_is_what_it_is_alone_in_the_order_given(network: HTRJAND) -> None:
    pictures = [line(w) for w in (300, 40, 128, 700, 129, 64)] + [line(200, 100)]
    for reader in (LineReader(network), LineReader(network, pixels=300), LineReader(network, deterministic=True)):
        results = reader.log_probs(pictures)
        for picture, result in zip(pictures, results, strict=True):
            expected = directly(network, picture)
            # 1e-5 of a nat, or of the value where it is larger: a fresh network gives log-probabilities down to -9
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_the_deterministic_reader_gives_the_same_bits_in_any_company(network: HTRJAND) -> None:
    reader = LineReader(network, deterministic=True)
    pictures = [line(w) for w in (90, 200, 333)]
    together = reader.log_probs(pictures)
    for picture, result in zip(pictures[::-1], reader.log_probs(pictures[::-1]), strict=True):
        assert torch.equal(result, together[[p is picture for p in pictures].index(True)])


def test_no_lines_and_no_writing(network: HTRJAND) -> None:
    reader = LineReader(network)
    assert reader.log_probs([]) == []
    low, narrow, good = reader.log_probs([line(300)[:5], line(300)[:, :6], line(100)])
    assert low.shape == narrow.shape == (0, len(ALPHABET))
    assert good.shape == (25, len(ALPHABET))


def test_a_very_long_line_is_read_in_parts_that_fit_together(network: HTRJAND) -> None:
    picture = line(9001)
    (result,) = LineReader(network).log_probs([picture])
    whole = directly(network, picture)
    assert result.shape == whole.shape
    assert torch.allclose(result.exp().sum(1), torch.ones(len(result)), atol=1e-4)
    # each part has statistics of its own, and Proxima forgets what is far: nearly the same
    assert (result.argmax(1) == whole.argmax(1)).float().mean() > 0.9


def test_a_cut_goes_where_there_is_no_ink(network: HTRJAND) -> None:
    from zoo_htr.recognise import _parts

    picture = line(5000)
    picture[:, 3800:3900] = 220
    first, second = _parts(0, picture)
    assert second.start >= 3800
    assert first.end <= 3900
    assert second.start % 4 == 0
    assert 64 <= first.end - second.start < 68
