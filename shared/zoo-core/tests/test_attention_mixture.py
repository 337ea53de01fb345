"""MoH: gates, what they spend, and queries that are really left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo_core.attention import Attention, Causal, Sink, Taps, Window, attend
from zoo_core.attention.papers.mixture_of_heads import MixtureOfHeads, gathered, norm_router
from zoo_core.attention.stages import Fused, Projection


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def mixture(shared: int, active: int, heads: int = 8) -> Attention:
    return Attention(32, heads, project=Fused(), combine=MixtureOfHeads(shared, active), output=Projection(bias=True))


def test_mixture_of_heads_with_all_heads_and_no_opinion_is_multi_head_attention() -> None:
    plain = Attention(32, 8, project=Fused(), output=Projection(bias=True))
    mixed = mixture(3, 5)
    assert mixed.combine is not None
    for parameter in mixed.combine.parameters():
        nn.init.zeros_(parameter)
    mixed.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(mixed(x, mask=Causal()).x, plain(x, mask=Causal()).x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("shared", "active"), [(3, 2), (0, 4), (1, 1), (7, 1)])
def test_mixture_of_heads_spends_what_it_says_on_each_token(shared: int, active: int) -> None:
    layer = mixture(shared, active)
    x = 3 * torch.randn(2, 9, 32)
    aux = layer(x, taps=Taps(("gate",))).aux
    routed = aux["gate"][..., shared:]
    assert ((routed > 0).sum(-1) == active).all()
    if shared:
        assert layer.combine is not None
        a = 2 * layer.combine.wg_0(x).softmax(-1)
        torch.testing.assert_close(aux["gate"].sum(-1), shared * a[..., 0] + active * a[..., 1])
    balanced = mixture(shared, active)
    assert balanced.combine is not None
    nn.init.zeros_(balanced.combine.wg.weight)
    assert float(balanced(x).aux["load_balance"].detach()) == pytest.approx(active, rel=1e-5)


def test_mixture_of_heads_gives_ties_to_the_first_heads() -> None:
    layer = mixture(2, 3)
    assert layer.combine is not None
    nn.init.zeros_(layer.combine.wg.weight)
    gate = layer(torch.randn(1, 4, 32), taps=Taps(("gate",))).aux["gate"]
    assert (gate[..., 2:5] > 0).all()
    assert not gate[..., 5:].any()


@pytest.mark.parametrize("mask", [None, Causal(), Causal() & (Sink(1) | Window(3, 0))], ids=str)
def test_mixture_of_heads_computes_only_the_queries_that_are_used(mask: object) -> None:
    q, k, v = torch.randn(3, 2, 6, 11, 4)
    used = torch.rand(2, 11, 6) < 0.4
    used[0, :, 3] = False
    truth = attend(q, k, v, mask=mask).out * used.transpose(1, 2)[..., None]  # type: ignore[arg-type]
    torch.testing.assert_close(gathered(q, k, v, used, mask=mask), truth, rtol=0, atol=1e-6)  # type: ignore[arg-type]


def test_mixture_of_heads_router_without_parameters_takes_the_loudest_queries() -> None:
    q = torch.ones(1, 4, 3, 2) * torch.tensor([1.0, 5.0, 7.0, 2.0])[None, :, None, None]
    assert norm_router(q, shared=1, active=1)[0].tolist() == [[True, False, True, False]] * 3


def test_mixture_of_heads_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="6 active of 5 routed heads"):
        mixture(3, 6)
