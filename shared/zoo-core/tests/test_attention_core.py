"""One function, several ways to compute it: they agree, rows without keys are defined, and padding does not leak."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo_core.attention import (
    Causal,
    Distance,
    Document,
    LowRank,
    Padding,
    PerHead,
    Prefix,
    Sink,
    Window,
    attend,
)
from zoo_core.attention.biases import Bias
from zoo_core.attention.blockwise import StridedBlock
from zoo_core.attention.masks import Mask
from zoo_core.errors import UsageError

FAST = ("chunked", "sdpa")
ALL = ("reference", *FAST)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def qkv(batch: int = 2, heads: int = 4, queries: int = 9, keys: int | None = None, width: int = 8) -> list[Tensor]:
    return [torch.randn(batch, heads, n, width) for n in (queries, keys or queries, keys or queries)]


@pytest.mark.parametrize("backend", ALL)
def test_a_row_without_keys_gives_zero_and_minus_infinity_and_no_gradient(backend: str) -> None:
    q, k, v = (x.requires_grad_() for x in qkv())
    lam = torch.rand(4, requires_grad=True)
    result = attend(q, k, v, mask=Padding([0, 5]), bias=Distance("laplace", lam), need=("out", "lse"), backend=backend)
    assert result.lse is not None
    assert (result.out[0] == 0).all()
    assert result.lse[0].isneginf().all()
    assert result.lse[1].isfinite().all()
    result.out.sum().backward()
    for x in (q, k, v):
        assert x.grad is not None
        assert (x.grad[0] == 0).all()
        assert x.grad.isfinite().all()
    assert lam.grad is not None
    assert lam.grad.isfinite().all()


@pytest.mark.parametrize("backend", ALL)
def test_rows_without_keys_are_refused_when_asked(backend: str) -> None:
    q, k, v = qkv()
    with pytest.raises(ValueError, match=r"36 rows have no key.*first is query 0, head 0, example 1"):
        attend(q, k, v, mask=Padding([5, 0]), backend=backend, strict=True)
    result = attend(q, k, v, mask=Padding([5, 1]), backend=backend, strict=True)
    assert torch.equal(result.out, attend(q, k, v, mask=Padding([5, 1]), backend=backend).out)
    assert result.lse is None


@pytest.mark.parametrize("rubbish", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("backend", ALL)
def test_what_stands_in_padding_does_not_matter(backend: str, rubbish: float) -> None:
    q, k, v = qkv()
    lengths = torch.tensor([9, 4])
    spoiled = [x.clone() for x in (k, v)]
    for x in spoiled:
        x[1, :, 4:] = rubbish
    leaves = [x.clone().requires_grad_() for x in (q, *spoiled)]
    bias = Distance("laplace", torch.rand(4))
    clean = attend(q, k, v, mask=Padding(lengths), bias=bias, backend=backend).out
    out = attend(*leaves, mask=Padding(lengths), bias=bias, backend=backend).out
    assert torch.equal(out, clean)
    out.sum().backward()
    for x in leaves:
        assert x.grad is not None
        assert x.grad.isfinite().all()


UNSEEN = {
    "sink": (Sink(4), slice(4, None)),
    "causal": (Causal(-1), slice(19, None)),
    "window": (Window(2, 0), slice(0, 12)),
    "not padding": (~Padding([5, 5]), slice(0, 5)),
    "either padding": (Padding([5, 5]) | Padding([3, 3]), slice(5, None)),
    "prefix": (Prefix(5) | (Causal() & Window(1, 0)), slice(0, 13)),
    "document": (Document([0] * 14 + [1] * 6), slice(0, 14)),
    "streaming": (Causal() & (Sink(2) | Window(3, 0)), slice(2, 11)),
    "heads": (PerHead([Padding([5, 5])] * 4), slice(5, None)),
}


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("backend", ALL)
def test_nan_that_no_query_may_see_stays_where_it_is(backend: str, name: str) -> None:
    mask, unseen = UNSEEN[name]
    q, k, v = qkv(queries=6, keys=20)
    assert not mask.dense(6, 20, batch=2, heads=4)[..., unseen].any()
    clean = attend(q, k, v, mask=mask, backend=backend).out
    k, v = k.clone(), v.clone()
    k[:, :, unseen] = v[:, :, unseen] = float("nan")
    torch.testing.assert_close(attend(q, k, v, mask=mask, backend=backend).out, clean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ALL)
def test_nan_that_one_head_may_not_see_stays_out_of_it(backend: str) -> None:
    q, k, v = qkv(queries=6, keys=20)
    mask = PerHead([Padding([5, 5]), *[Padding([20, 20])] * 3])
    k[:, 0, 5:] = v[:, 0, 5:] = float("nan")
    assert attend(q, k, v, mask=mask, backend=backend).out.isfinite().all()


@pytest.mark.parametrize("backend", ALL)
def test_a_bias_that_forbids_a_whole_row_leaves_it_empty(backend: str) -> None:
    bias = torch.zeros(9, 9)
    bias[2] = float("-inf")
    leaves = [x.requires_grad_() for x in (*qkv(), bias)]
    result = attend(*leaves[:3], bias=leaves[3], need=("out", "lse"), backend=backend)
    assert result.lse is not None
    assert not result.out[:, :, 2].any()
    assert result.lse[:, :, 2].isneginf().all()
    result.out.square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves)


@pytest.mark.parametrize("backend", ALL)
def test_a_line_does_not_see_its_batch_mates(backend: str) -> None:
    q, k, v = qkv(batch=3, queries=11)
    bias = Distance("laplace", torch.rand(4), torch.randn(4))
    together = attend(q, k, v, mask=Padding([11, 7, 3]), bias=bias, backend=backend).out
    for line, length in enumerate((11, 7, 3)):
        cut = [x[line : line + 1, :, :length] for x in (q, k, v)]
        alone = attend(*cut, mask=Padding([length]), bias=bias, backend=backend).out
        torch.testing.assert_close(together[line : line + 1, :, :length], alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["laplace", "gauss"])
def test_gradients_of_decay_and_offset_are_those_of_the_formula(kind: str) -> None:
    q, k, v = (x.double().requires_grad_() for x in qkv(1, 2, 5, 6, 3))
    lam, mu = torch.rand(2).double().requires_grad_(), torch.randn(2).double().requires_grad_()

    def out(*leaves: Tensor) -> Tensor:
        q, k, v, lam, mu = leaves
        return attend(q, k, v, mask=Window(4, 4), bias=Distance(kind, lam, mu), backend="reference").out

    assert torch.autograd.gradcheck(out, (q, k, v, lam, mu))
    assert torch.autograd.gradgradcheck(out, (q, k, v, lam, mu))


def test_blocks_of_queries_are_redone_in_the_backward_pass() -> None:
    q, k, v = (x.requires_grad_() for x in qkv(1, 2, 600, width=4))
    lam = torch.rand(2, requires_grad=True)
    weight = torch.randn(1, 2, 600, 4)

    def gradients(backend: str) -> tuple[Tensor, ...]:
        out = attend(q, k, v, mask=Window(50, 50), bias=Distance("laplace", lam), backend=backend).out
        return torch.autograd.grad((out * weight).sum(), (q, k, v, lam))

    for mine, truth in zip(gradients("chunked"), gradients("reference"), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-4)


def test_bf16_with_an_fp32_decay_trains() -> None:
    q, k, v = (x.bfloat16().requires_grad_() for x in qkv(queries=33))
    rho = torch.zeros(4, requires_grad=True)
    bias = Distance("laplace", torch.nn.functional.softplus(rho), torch.zeros(4))
    out = attend(q, k, v, mask=Padding([33, 20]), bias=bias).out
    assert out.dtype == torch.bfloat16
    truth = attend(q.double(), k.double(), v.double(), mask=Padding([33, 20]), bias=bias, backend="reference").out
    torch.testing.assert_close(out.double(), truth, rtol=0, atol=2e-2)
    out.float().sum().backward()
    assert rho.grad is not None
    assert rho.grad.abs().max() > 0


@pytest.mark.parametrize("backend", ALL)
def test_no_keys_no_queries(backend: str) -> None:
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 0, 8), torch.randn(2, 4, 0, 6)
    if backend == "sdpa":
        with pytest.raises(UsageError, match="size is 0"):
            attend(q, k, v, backend=backend)
        return
    result = attend(q, k, v, need=("out", "lse"), backend=backend)
    assert result.out.shape == (2, 4, 5, 6)
    assert not result.out.any()
    assert result.lse is not None
    assert result.lse.isneginf().all()
    assert attend(q[:, :, :0], q, q, backend=backend).out.shape == (2, 4, 0, 8)


@pytest.mark.parametrize(
    ("mask", "bias"),
    [
        (Causal() & (Sink(2) | Window(5, 0)) & Padding([0, 40]), None),
        (PerHead([Causal(), Window(3, 3)] * 2), Distance("gauss", torch.rand(4) / 9, torch.ones(4))),
        (
            StridedBlock(4, 4, 4) & Document([0] * 20 + [1] * 20),
            LowRank(torch.rand(2, 4, 9, 3), torch.rand(1, 1, 40, 3)),
        ),
    ],
    ids=["streaming", "heads", "strided"],
)
def test_flex_computes_the_same_forward(mask: Mask, bias: Bias | None) -> None:
    q, k, v = torch.randn(2, 4, 9, 4), torch.randn(2, 2, 40, 4), torch.randn(2, 2, 40, 4)
    with torch.no_grad():
        result = attend(q, k, v, mask=mask, bias=bias, need=("out", "lse"), backend="flex")
        truth = attend(q, k, v, mask=mask, bias=bias, need=("out", "lse"), backend="reference")
    torch.testing.assert_close(result.out, truth.out, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.lse, truth.lse, rtol=1e-5, atol=1e-5)


def test_auto_takes_what_is_able() -> None:
    q, k, v = qkv()
    attend(q[:, :, :0], k, v)
    assert attend(q, k, v, need=("weights",)).aux["weights"].shape == (2, 4, 9, 9)
    with pytest.raises(UsageError, match=r"scores and weights exist only inside the kernel\. Use 'reference'"):
        attend(q, k, v, need=("weights",), backend="sdpa")


def test_wrong_arguments_are_said_in_words() -> None:
    q, k, v = qkv()
    with pytest.raises(TypeError, match="True = may attend"):
        attend(q, k, v, mask=torch.zeros(9, 9))
    with pytest.raises(TypeError, match="bool is for masks"):
        attend(q, k, v, bias=torch.zeros(9, 9, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"4 query heads cannot share 3 key heads and 3 value heads evenly; give kv_map"
    ):
        attend(q, k[:, :3], v[:, :3])
    with pytest.raises(ValueError, match=r"mask is for \(1, 1, 8, 9\)"):
        attend(q, k, v, mask=torch.ones(8, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask is for \(3, 1, 1, 1\)"):
        attend(q, k, v, mask=Padding([1, 2, 3]))
    with pytest.raises(ValueError, match="lam has a negative entry"):
        Distance("laplace", torch.tensor([0.1, -0.1]))
    with pytest.raises(ValueError, match=r"bias is for \(1, 3, 1, 1\)"):
        attend(q, k, v, bias=Distance("laplace", torch.rand(3)))
    with pytest.raises(ValueError, match="do not fit"):
        attend(q, k[:, :, :5], v)
    with pytest.raises(ValueError, match="need has"):
        attend(q, k, v, need=("attention",))
    with pytest.raises(TypeError, match="must be of one floating type"):
        attend(q, k, v.double())
    with pytest.raises(TypeError, match=r"mask is a tensor \(1, 1, 1, 9, 9\)"):
        attend(q, k, v, mask=torch.ones(1, 1, 1, 9, 9, dtype=torch.bool))
    with pytest.raises(TypeError, match="must be whole numbers"):
        Padding([1.5, 3])
    with pytest.raises(ValueError, match="a length is negative"):
        Padding([-1, 3])
    with pytest.raises(ValueError, match="must have 1 dimensions"):
        Padding([[1, 2]])
    with pytest.raises(ValueError, match="0 or more"):
        Sink(-1)
    with pytest.raises(ValueError, match="0 or more"):
        Prefix(-1)
    with pytest.raises(ValueError, match="a mask for every query head"):
        PerHead([])
    with pytest.raises(TypeError, match="unsupported operand"):
        Causal() & torch.ones(9, 9, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"kv_map for keys must have 4 entries from 0 to 3"):
        attend(q, k, v, kv_map=((0, 1, 2, 4), (0, 1, 2, 3)))
    with pytest.raises(UsageError, match="there is none of that name"):
        attend(q, k, v, backend="flash")  # type: ignore[arg-type]
