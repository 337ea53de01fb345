"""Convolutions in 8 bits: near the exact ones, without help from other lines, and only where they can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_core.catalog import find
from zoo_core.errors import UsageError
from zoo_core.weights.build import construct
from zoo_htr.backends import Convolution, Folded
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.int8 import Convolution8, convolution, supported
from zoo_htr.recognise import LineReader

here = pytest.mark.skipif(not supported(), reason="this processor has no VNNI instructions")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def student() -> HTRJAND:
    torch.manual_seed(0)
    network = construct(find("htr-jand-student"))
    assert isinstance(network, HTRJAND)
    return network.eval()


@here
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    middle=st.sampled_from([-100.0, -2.0, 0.0, 1.0, 30.0]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
    stride=st.sampled_from([(1, 1), (2, 1), (2, 2)]),
)
def test_each_sum_is_off_by_what_rounding_explains(
    seed: int, middle: float, spread: float, stride: tuple[int, int]
) -> None:
    """Half a step of each number and of each weight, over the 9 C products of a sum; at the borders too."""
    generator = torch.Generator().manual_seed(seed)
    x = (middle + spread * torch.randn(1, 16, 6, 21, generator=generator)).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(24, 16, 3, 3, generator=generator), torch.randn(24, generator=generator)
    exact = Convolution(weight.double(), bias.double(), stride)(x.double())
    rounded = Convolution8(weight, bias, stride)(x)
    step = (max(float(x.max()), 0) - min(float(x.min()), 0)) / 254
    most = weight.abs().sum((1, 2, 3)) * step * 0.51 + weight.abs().amax((1, 2, 3)) / 254 * 144 * float(x.abs().max())
    assert ((rounded - exact).abs() <= 1.01 * most[:, None, None] + 1e-4).all()


@here
def test_a_scale_of_the_channels_is_that_of_the_map() -> None:
    torch.manual_seed(0)
    x, scale = torch.randn(1, 16, 8, 20).contiguous(memory_format=torch.channels_last), torch.rand(16)
    made = Convolution8(torch.randn(24, 16, 3, 3), torch.randn(24), (1, 1))
    assert torch.equal(made(x, scale), made(x * scale[:, None, None]))


@here
def test_the_student_reads_nearly_the_same_and_each_line_by_itself(student: HTRJAND) -> None:
    line, other = torch.randn(64, 301), torch.randn(64, 150)
    exact, rounded = Folded(student)(line).softmax(1), Folded(student, convolution)
    before = rounded(line)
    assert 0 < (before.softmax(1) - exact).abs().max() < 0.02
    rounded(100 * other)
    assert torch.equal(rounded(line), before)


def test_it_is_refused_where_it_cannot_run(student: HTRJAND) -> None:
    with pytest.raises(UsageError, match="VNNI"):
        LineReader(construct(find("htr-jand-student")).to("meta").eval(), device="meta", precision="int8")  # type: ignore[arg-type]


@here
def test_small_maps_stay_exact() -> None:
    assert type(convolution(torch.randn(12, 1, 3, 3), torch.zeros(12), (2, 2))) is Convolution
    assert type(convolution(torch.randn(96, 48, 3, 3), torch.zeros(96), (1, 1))) is Convolution8
