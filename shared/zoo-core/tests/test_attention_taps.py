"""What taps capture is what plain attention has there, whoever computes; an edit changes what follows it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from zoo_core.attention import Causal, Distance, Padding, Sink, Taps, Window, attend, explain
from zoo_core.attention.masks import Mask
from zoo_core.attention.taps import (
    Amplify,
    Entropy,
    FirstMass,
    HeadMean,
    MeanDistance,
    TopKeys,
    attention_rows,
    tapped,
)

BACKENDS = ("reference", "chunked", "sdpa")


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, 11, 8), torch.randn(2, 2, 11, 8), torch.randn(2, 2, 11, 6)


def weights_of(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, bias: Distance | None) -> Tensor:
    """Plain attention, written out."""
    scores = q @ k.repeat_interleave(2, 1).mT * q.shape[-1] ** -0.5
    if bias is not None:
        i = torch.arange(11.0)
        scores = scores - bias.lam[:, None, None] * (i[None, :] - i[:, None]).abs()
    if mask is not None:
        scores = scores.masked_fill(~mask.dense(11, 11, batch=2, heads=4), float("-inf"))
    return scores.softmax(-1).nan_to_num(0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", [None, Causal(), Padding([11, 0]) & Causal(), Window(3, 2)], ids=str)
def test_captured_weights_are_those_of_plain_attention(
    qkv: tuple[Tensor, Tensor, Tensor], backend: str, mask: Mask | None
) -> None:
    bias = Distance("laplace", torch.rand(4))
    truth = weights_of(*qkv, mask, bias)
    result = tapped(Taps({"weight": (0, 7, -1)}), *qkv, mask=mask, bias=bias, backend=backend)
    torch.testing.assert_close(result.aux["weight"], truth[:, :, [0, 7, 10]], rtol=0, atol=1e-6)
    assert torch.equal(result.out, attend(*qkv, mask=mask, bias=bias, backend=backend).out)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reducers_are_sums_over_weights(qkv: tuple[Tensor, Tensor, Tensor], backend: str) -> None:
    truth = weights_of(*qkv, Causal(), None)
    i = torch.arange(11)
    wanted = {
        Entropy(): -(truth * truth.clamp(min=1e-30).log()).sum(-1),
        MeanDistance(): (truth * (i[None, :] - i[:, None]).abs()).sum(-1),
        FirstMass(3): truth[..., :3].sum(-1),
        TopKeys(2): truth.sort(dim=-1, descending=True, stable=True).indices[..., :2],
        HeadMean(): truth.mean(1, keepdim=True),
    }
    for reducer, value in wanted.items():
        got = tapped(Taps({"weight": reducer}), *qkv, mask=Causal(), backend=backend).aux["weight"]
        torch.testing.assert_close(got, value, rtol=0, atol=2e-6)


def test_rows_on_demand_have_gradients(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v = (x.double().requires_grad_() for x in qkv)
    lse = attend(q, k, v, mask=Causal(), need=("lse",), backend="reference").lse
    assert lse is not None
    rows = attention_rows(q, k, lse, [2, -1], mask=Causal())
    weight = torch.randn_like(rows)
    whole = attend(q, k, v, mask=Causal(), need=("weights",)).aux["weights"][:, :, [2, 10]]
    for mine, truth in zip(
        torch.autograd.grad((rows * weight).sum(), (q, k)),
        torch.autograd.grad((whole * weight).sum(), (q, k)),
        strict=True,
    ):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-12)


def test_capture_and_edit_at_every_tensor_point(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v = qkv
    taps = Taps(
        ("q", "k", "v", "head_out"),
        {"q": lambda x: 2 * x, "k": torch.neg, "v": lambda x: x + 1, "head_out": torch.tanh},
    )
    result = tapped(taps, q, k, v)
    assert torch.equal(result.aux["q"], 2 * q)
    assert torch.equal(result.aux["k"], -k)
    assert torch.equal(result.aux["v"], v + 1)
    assert torch.equal(result.out, attend(2 * q, -k, v + 1).out.tanh())
    assert torch.equal(result.aux["head_out"], result.out)


def test_edits_of_scores_and_weights_run_on_the_reference(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v = qkv

    def only_first_key(score: Tensor) -> Tensor:
        return torch.where(torch.arange(11) == 0, score, float("-inf"))

    first = v[:, :, :1].repeat_interleave(2, 1).expand(-1, -1, 11, -1)
    torch.testing.assert_close(tapped(Taps(edit={"score": only_first_key}), q, k, v).out, first)
    uniform = tapped(Taps({"weight": (1,)}, {"weight": lambda w: torch.full_like(w, 1 / 11)}), q, k, v)
    mean = v.mean(2, keepdim=True).repeat_interleave(2, 1).expand(-1, -1, 11, -1)
    torch.testing.assert_close(uniform.out, mean)
    assert torch.equal(uniform.aux["weight"], torch.full((2, 4, 1, 11), 1 / 11))


@pytest.mark.parametrize("bias", [None, Distance("laplace", torch.rand(4))], ids=["bare", "decay"])
def test_amplified_attention_is_a_softmax_of_scaled_scores(
    qkv: tuple[Tensor, Tensor, Tensor], bias: Distance | None
) -> None:
    q, k, v = qkv
    sharper = tapped(Taps(edit={"score": Amplify(4)}), q, k, v, mask=Causal(), bias=bias).out
    truth = weights_of(q, k, v, Causal(), bias)
    power = truth**4 / (truth**4).sum(-1, keepdim=True)
    torch.testing.assert_close(sharper, power @ v.repeat_interleave(2, 1), rtol=0, atol=2e-6)


def test_no_edit_lets_a_query_see_what_it_may_not(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    taps = Taps({"weight": None}, {"score": torch.zeros_like})
    weight = tapped(taps, *qkv, mask=Causal()).aux["weight"]
    assert not weight.triu(1).any()


def test_bad_taps_are_said_in_words(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"no tap point \['weights'\]; known are q, k"):
        Taps(("weights",))
    with pytest.raises(IndexError, match="row 11 of 'weight', but there are 11 queries"):
        tapped(Taps({"weight": (11,)}), *qkv)
    with pytest.raises(ValueError, match="above 0"):
        Amplify(0)
    with pytest.raises(ValueError, match="the edit at 'q' made"):
        tapped(Taps(edit={"q": lambda x: x[..., :2]}), *qkv)


def test_explain_says_who_computes_why_and_what_it_costs() -> None:
    band = explain(
        (4, 16, 8192, 64), (4, 16, 8192, 64), mask=Window(256, 256), dtype=torch.bfloat16, device="cuda", grad=True
    )
    assert band.backend == ("band" if find_spec("triton") else "flex")
    assert band.density < 0.1
    assert "% of the tiles" in band.reason
    exact = explain((4, 16, 8192, 64), (4, 16, 8192, 64), mask=Window(256, 256), device="cuda", grad=True)
    assert exact.backend == "flex"  # the kernel was measured in half precision
    strided = explain(
        (4, 16, 8192, 64), (4, 16, 8192, 64), mask=Sink(4) | Window(256, 0), dtype=torch.bfloat16, device="cuda"
    )
    assert strided.backend == "flex"
    assert "tiles are in use" in strided.reason
    short = explain(
        (64, 4, 256, 40), (64, 4, 256, 40), bias=Distance("laplace", torch.rand(4)), device="cuda", grad=True
    )
    assert (short.backend, short.density) == ("sdpa", 1.0)
    assert short.flops == 2 * 64 * 4 * 256 * 256 * 80
    assert short.floor_seconds is not None
    assert "flex" not in short.refused
    cpu = explain((1, 4, 8, 8), (1, 2, 8, 8), grad=True, need=("out", "weights"))
    assert cpu.backend == "reference"
    assert cpu.refused["flex"] == "FlexAttention has no backward on CPU"
    assert str(cpu).splitlines()[-1].endswith("MB")
    assert explain((1, 8, 40000, 64), (1, 8, 40000, 64), mask=Window(9, 9)).backend == "chunked"
