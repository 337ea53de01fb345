"""The network as one graph of OpenVINO: the same function, and in 8 bits near it, for each line by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_core.catalog import find
from zoo_core.errors import InputError
from zoo_core.io.packs import packs_root
from zoo_core.weights.build import build, construct
from zoo_core.weights.find import find as find_weights
from zoo_htr.backends import STEP, Folded
from zoo_htr.confidence import read_calibration
from zoo_htr.eval import evaluate
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.int8 import supported
from zoo_htr.recognise import LineReader

pytest.importorskip("openvino", reason='needs pip install "zoo-htr[openvino]"')
from zoo_htr.graph8 import Graph8, find_bounds

STUDENT = find("htr-jand-student")
CALIBRATION = read_calibration(STUDENT.folder / "weights" / "htr-jand-student.calibration.json")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def student() -> HTRJAND:
    network = build(STUDENT, find_weights(STUDENT), device=torch.device("cpu"), dtype=torch.float32)
    assert isinstance(network, HTRJAND)
    return network


@pytest.fixture(scope="module")
def exact(student: HTRJAND) -> Graph8:
    return Graph8(student, None)


def writing(width: int, seed: int = 0) -> torch.Tensor:
    """Strokes on paper, as the network takes them."""
    random = np.random.default_rng(seed)
    ink = np.kron(random.random((8, -(-width // 6))) < 0.3, np.ones((8, 6)))[:, :width]
    return torch.from_numpy((5 * ink + random.normal(0, 0.1, ink.shape)).astype(np.float32))


@settings(max_examples=20, deadline=None)
@given(width=st.integers(1, 3 * STEP + 2), seed=st.integers(0, 9))
def test_without_rounding_it_is_the_folded_network(student: HTRJAND, exact: Graph8, width: int, seed: int) -> None:
    line = writing(width, seed)
    torch.testing.assert_close(exact(line), Folded(student)(line), rtol=1e-4, atol=1e-4)


def test_the_teacher_too() -> None:
    torch.manual_seed(0)
    teacher = construct(find("htr-jand-teacher")).eval()
    assert isinstance(teacher, HTRJAND)
    torch.testing.assert_close(Graph8(teacher, None)(writing(333)), Folded(teacher)(writing(333)), rtol=1e-4, atol=1e-4)


def test_in_8_bits_it_is_near_and_each_line_is_read_by_itself(student: HTRJAND, exact: Graph8) -> None:
    rounded, line = Graph8(student, CALIBRATION.bounds), writing(301)
    before = rounded(line)
    off = (before.softmax(1) - exact(line).softmax(1)).abs()
    assert 0 < off.mean() < 1e-3
    rounded(100 * writing(150, seed=1))
    assert torch.equal(rounded(line), before)


def test_bounds_hold_nine_lines_of_ten_and_are_of_the_numbers_that_are_rounded(student: HTRJAND) -> None:
    lines = [scale * writing(90, seed) for seed, scale in enumerate([1.0] * 19 + [1000.0])]
    found = find_bounds(student, lines)
    assert found.keys() == CALIBRATION.bounds.keys()
    highest = sorted(float(line.max()) for line in lines)
    assert found["stage1.conv"][1] == pytest.approx(np.percentile(highest, 90), abs=1e-3)


def test_bounds_of_another_network_are_refused(student: HTRJAND) -> None:
    few = {name: ends for name, ends in CALIBRATION.bounds.items() if name != "block2.qkv"}
    with pytest.raises(InputError, match=r"no bounds of block2\.qkv"):
        Graph8(student, few)


@pytest.mark.skipif(not supported(), reason="this processor has no VNNI instructions")
@pytest.mark.parametrize("threads", [1, 2])
def test_the_reader_takes_it_and_gives_each_line_its_own_result(student: HTRJAND, threads: int) -> None:
    random = np.random.default_rng(3)
    pictures = [np.kron(random.integers(90, 250, (8, w // 6)), np.ones((8, 6))).astype(np.uint8) for w in (96, 300, 90)]
    torch.set_num_threads(threads)
    try:
        reader = LineReader(student, precision="int8", bounds=CALIBRATION.bounds)
        together = reader.log_probs(pictures * 3)
    finally:
        torch.set_num_threads(1)
    assert reader.described == "OpenVINO, in 8 bits"
    alone = [LineReader(student, precision="int8", bounds=CALIBRATION.bounds).log_probs([p])[0] for p in pictures]
    assert all(torch.equal(a, b) for a, b in zip(together, alone * 3, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not supported(), reason="this processor has no VNNI instructions")
def test_it_costs_a_tenth_of_a_point_of_cer_at_most() -> None:
    root = packs_root()
    pack = root / "htr" / "lines" / "val.parquet" if root is not None else Path("nowhere")
    if not pack.is_file():
        pytest.skip("needs the packs below ZOO_PACKS")
    rates = [
        evaluate(STUDENT, data=str(pack), device="cpu", precision=precision).ours.metrics["cer"]
        for precision in ("fp32", "int8")
    ]
    assert rates[1] - rates[0] <= 0.001
