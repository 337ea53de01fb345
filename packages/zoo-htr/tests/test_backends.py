"""The engine for CPUs: what the network itself gives, whatever the width and whatever is read beside it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo_core.catalog import find
from zoo_core.weights.build import construct
from zoo_htr.backends import STEP, Folded, fits
from zoo_htr.greedy import greedy
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.recognise import LineReader

ALPHABET = ("", *"abcdefgh ")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(**changes: object) -> HTRJAND:
    torch.manual_seed(0)
    config = {"channels": (8, 12, 8, 8, 8, 8), "width": 16, "heads": 2, "feed_forward": 24, "blocks": 2, **changes}
    return HTRJAND(ALPHABET, **config)  # type: ignore[arg-type]


def trained(network: nn.Module) -> HTRJAND:
    """Give a fresh network the state of a trained one: statistics, shifts, offsets and gains that are not 0 or 1."""
    assert isinstance(network, HTRJAND)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                noise = 0.3 * torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor * noise.exp() if name.endswith("running_var") else tensor + noise)
    return network.eval()


def plainly(network: HTRJAND, line: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = network(line[None, None]).logits[0]
    return logits.log_softmax(1)


def pictures(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    widths = random.integers(60, 400, count)
    return [np.kron(random.integers(90, 250, (8, w // 6 + 1)), np.ones((8, 6)))[:, :w].astype(np.uint8) for w in widths]


@pytest.mark.parametrize("model", ["htr-jand-teacher", "htr-jand-student"])
@pytest.mark.parametrize("width", [1, 64, 333])
def test_a_line_is_what_the_network_reads(model: str, width: int) -> None:
    torch.manual_seed(0)
    network = trained(construct(find(model)))
    line = torch.randn(64, width)
    ours, expected = Folded(network)(line).log_softmax(1), plainly(network, line)
    assert (ours - expected).abs().max() < 1e-5
    assert torch.equal(ours.argmax(1), expected.argmax(1))


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 2 * STEP + 2), contrast=st.sampled_from([0.0, 0.3, 1.0, 20.0]))
def test_any_width_and_contrast(width: int, contrast: float) -> None:
    network = trained(tiny())
    line = contrast * torch.randn(64, width, generator=torch.Generator().manual_seed(width))
    ours, expected = Folded(network)(line).log_softmax(1), plainly(network, line)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_it_is_as_near_to_the_exact_values_as_the_network_itself() -> None:
    network, line = trained(tiny()), torch.randn(64, 150)
    ours, plain = Folded(network)(line).log_softmax(1), plainly(network, line)
    exact = plainly(network.double(), line.double())
    assert (ours - exact).abs().max() < 3 * (plain - exact).abs().max() + 1e-6


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_reader_gives_what_batches_give_and_the_same_bits_in_any_company(threads: int) -> None:
    network = trained(tiny())
    lines = pictures(9)
    torch.set_num_threads(threads)
    try:
        together = LineReader(network).log_probs(lines)
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as pool:  # a thread that PyTorch has not met
            assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(1)
    alone = [LineReader(network).log_probs([line])[0] for line in lines]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    batched = LineReader(network, plain=True).log_probs(lines)
    for ours, plain in zip(together, batched, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
        assert greedy(ours, network.alphabet).text == greedy(plain, network.alphabet).text


def test_as_many_lines_run_at_once_as_there_are_threads() -> None:
    """Pictures that wait for each other come only if nobody waits for one of them alone."""
    reader, (line, *_) = LineReader(trained(tiny())), pictures(1)
    meeting = Barrier(3, timeout=20)

    def picture() -> np.ndarray:
        meeting.wait()
        return line

    torch.set_num_threads(3)
    try:
        assert len(reader.log_probs([picture] * 6)) == 6
    finally:
        torch.set_num_threads(1)


def test_pictures_may_be_functions_that_read_them() -> None:
    reader, lines = LineReader(trained(tiny())), pictures(3)
    lazily = reader.log_probs([lambda line=line: line for line in lines])  # type: ignore[misc]
    assert all(torch.equal(a, b) for a, b in zip(lazily, reader.log_probs(lines), strict=True))


def test_a_picture_that_cannot_be_read_raises_its_own_error() -> None:
    def broken() -> np.ndarray:
        raise OSError("torn")

    torch.set_num_threads(2)
    try:
        with pytest.raises(OSError, match="torn"):
            LineReader(trained(tiny())).log_probs([broken, *pictures(2)])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_it_is_taken_where_it_fits_and_only_there() -> None:
    assert fits(tiny().eval())
    assert not fits(tiny())  # in training batch norm does something else
    assert not fits(tiny().eval().double())
    assert not fits(tiny(branches="mhsa").eval())
    assert not fits(tiny().eval().to("meta"))


def test_the_weights_are_copied() -> None:
    network, line = trained(tiny()), torch.randn(64, 50)
    engine = Folded(network)
    before = engine(line)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(engine(line), before)
