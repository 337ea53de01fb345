"""What must hold whatever the numbers are: no oracle is needed to see it broken."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from zoo_core.attention import Causal, DenseBias, Distance, Padding, Result, Window, attend, merge

BACKENDS = ("reference", "chunked", "sdpa")
pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, 13, 8), torch.randn(2, 2, 13, 8), torch.randn(2, 2, 13, 6)


def near(a: Tensor, b: Tensor, limit: float = 2e-6) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=limit)


def test_the_order_of_keys_does_not_matter(qkv: tuple[Tensor, Tensor, Tensor], backend: str) -> None:
    q, k, v = qkv
    order = torch.randperm(13)
    near(attend(q, k[:, :, order], v[:, :, order], backend=backend).out, attend(q, k, v, backend=backend).out)


def test_a_constant_for_a_row_moves_its_lse_and_nothing_else(qkv: tuple[Tensor, Tensor, Tensor], backend: str) -> None:
    constant = 5 * torch.randn(1, 4, 13, 1)
    plain = attend(*qkv, mask=Causal(), need=("out", "lse"), backend=backend)
    moved = attend(
        *qkv, mask=Causal(), bias=DenseBias(constant.expand(-1, -1, -1, 13)), need=("out", "lse"), backend=backend
    )
    assert plain.lse is not None
    assert moved.lse is not None
    near(moved.out, plain.out)
    near(moved.lse, plain.lse + constant.squeeze(-1), 1e-5)


def test_the_future_does_not_matter(qkv: tuple[Tensor, Tensor, Tensor], backend: str) -> None:
    q, k, v = qkv
    before = attend(q, k, v, mask=Causal(), backend=backend).out
    k, v = k.clone(), v.clone()
    k[:, :, 7:], v[:, :, 7:] = 100, -100
    assert torch.equal(attend(q, k, v, mask=Causal(), backend=backend).out[:, :, :7], before[:, :, :7])


def test_a_wide_window_is_none(qkv: tuple[Tensor, Tensor, Tensor], backend: str) -> None:
    near(attend(*qkv, mask=Window(12, 12), backend=backend).out, attend(*qkv, backend=backend).out)


def test_an_example_is_what_it_is_in_a_batch(qkv: tuple[Tensor, Tensor, Tensor], backend: str) -> None:
    bias = Distance("laplace", torch.rand(4))
    together = attend(*qkv, mask=Padding([13, 6]), bias=bias, backend=backend).out
    alone = attend(*(x[1:] for x in qkv), mask=Padding([6]), bias=bias, backend=backend).out
    near(together[1:], alone)


@pytest.mark.parametrize("cuts", [(4, 11), (0, 13), (1, 2)])
def test_attention_to_parts_of_the_keys_merges_to_the_whole(
    qkv: tuple[Tensor, Tensor, Tensor], backend: str, cuts: tuple[int, int]
) -> None:
    q, k, v = (x.double().requires_grad_() for x in qkv)
    allowed = torch.rand(13, 13) < 0.3
    allowed[5] = False  # a row that sees nothing anywhere
    edges = (0, *cuts, 13)

    def parts() -> list[Result]:
        found = []
        for a, b in pairwise(edges):
            able = "reference" if a == b else backend
            mask = allowed[:, a:b]
            found.append(attend(q, k[:, :, a:b], v[:, :, a:b], mask=mask, need=("out", "lse"), backend=able))  # type: ignore[arg-type]
        return found

    whole = attend(q, k, v, mask=allowed, need=("out", "lse"), backend=backend)
    merged = merge(parts())
    assert merged.lse is not None
    assert whole.lse is not None
    near(merged.out, whole.out, 1e-12)
    near(merged.lse, whole.lse, 1e-12)
    weight = torch.randn_like(whole.out)
    for mine, truth in zip(
        torch.autograd.grad((merged.out * weight).sum(), (q, k, v)),
        torch.autograd.grad((whole.out * weight).sum(), (q, k, v)),
        strict=True,
    ):
        near(mine, truth, 1e-12)


def test_merging_without_lse_is_said_in_words(qkv: tuple[Tensor, Tensor, Tensor], backend: str) -> None:
    with pytest.raises(ValueError, match="each with its lse"):
        merge([attend(*qkv, backend=backend)])
