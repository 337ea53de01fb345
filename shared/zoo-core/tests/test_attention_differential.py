"""Grouped differential attention: what the paper claims and can be checked on a CPU in seconds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo_core.attention import Attention, Causal, attend
from zoo_core.attention.papers.grouped_differential import Difference, DifferentialProjection, grow, lambda_init
from zoo_core.attention.stages import Projection


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def differential(groups: int, signal: int, layer: int = 3, dim: int = 24) -> Attention:
    return Attention(
        dim,
        groups * (signal + 1),
        kv_heads=groups,
        head_dim=4,
        v_head_dim=8,
        project=DifferentialProjection(signal),
        combine=Difference(signal, layer),
    )


def test_differential_attention_as_a_module_is_the_formula() -> None:
    layer = differential(2, 3)
    x = torch.randn(2, 9, 24)
    mixed = layer(x, mask=Causal())
    state = layer.state_dict()
    q = (x @ state["project.q.weight"].T).unflatten(-1, (2, 4, 4))
    k = (x @ state["project.k.weight"].T).unflatten(-1, (2, 2, 4))
    v = (x @ state["project.v.weight"].T).unflatten(-1, (2, 8))
    causal = torch.ones(9, 9).tril().bool()

    def weights(q: Tensor, k: Tensor) -> Tensor:
        return (torch.einsum("bid,bjd->bij", q, k) / 2).masked_fill(~causal, float("-inf")).softmax(-1)

    heads = []
    for group in range(2):
        noise = weights(q[:, :, group, 3], k[:, :, 1, group])
        for m in range(3):
            difference = weights(q[:, :, group, m], k[:, :, 0, group]) - mixed.aux["lambda"] * noise
            head = difference @ v[:, :, group]
            head = head / (head.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            heads.append(head * (1 - lambda_init(3)))
    truth = torch.cat(heads, -1) @ state["output.weight"].T
    torch.testing.assert_close(mixed.x, truth, rtol=0, atol=2e-6)
    again = Attention.from_description(layer.describe(), stages=(DifferentialProjection, Difference))
    assert again.describe() == layer.describe()


def test_differential_attention_without_lambda_and_norm_is_plain_attention() -> None:
    from zoo_core.attention.papers.grouped_differential import grouped_differential

    q_signal, k, v = torch.randn(2, 6, 9, 4), torch.randn(2, 2, 9, 4), torch.randn(2, 2, 9, 8)
    q_noise, k_noise = torch.randn(2, 2, 9, 4), torch.randn(2, 2, 9, 4)
    out = grouped_differential(q_signal, q_noise, k, k_noise, v, torch.tensor(0.0), mask=Causal())
    torch.testing.assert_close(out, attend(q_signal, k, v, mask=Causal()).out, rtol=0, atol=1e-6)


@pytest.mark.parametrize("times", [2, 3])
def test_differential_attention_grows_without_a_change(times: int) -> None:
    small, large = differential(2, 2), differential(2, 2 * times)
    large.load_state_dict(grow(small.state_dict(), 2, 2, times))
    x = torch.randn(2, 9, 24)
    torch.testing.assert_close(large(x, mask=Causal()).x, small(x, mask=Causal()).x, rtol=0, atol=2e-6)


def test_differential_attention_of_one_signal_head_is_timms() -> None:
    timm = pytest.importorskip("timm.layers.diff_attention", reason="timm is not installed: no oracle")
    theirs = timm.DiffAttention(32, num_heads=4, depth=2)
    with torch.no_grad():
        theirs.sub_norm.weight.uniform_(0.5, 2)
    ours = Attention(
        32,
        8,
        kv_heads=4,
        head_dim=4,
        v_head_dim=8,
        project=DifferentialProjection(1),
        combine=Difference(1, layer=3),
        output=Projection(bias=True),
    )
    q, k, v = theirs.qkv.weight.chunk(3)
    by_kind = k.unflatten(0, (4, 2, 4)).transpose(0, 1).flatten(0, 2)  # all signal keys, then all noise keys
    state = {"project.q.weight": q, "project.k.weight": by_kind, "project.v.weight": v}
    state |= {f"combine.lambda_{n}": getattr(theirs, f"lambda_{n}") for n in ("q1", "k1", "q2", "k2")}
    state |= {"combine.subln.weight": theirs.sub_norm.weight}
    state |= {"output.weight": theirs.proj.weight, "output.bias": theirs.proj.bias}
    ours.load_state_dict(state)
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(ours(x).x, theirs(x), rtol=0, atol=2e-6)


def test_differential_attention_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="make 8 query heads, not 9"):
        Attention(18, 9, kv_heads=2, project=DifferentialProjection(3))
    with pytest.raises(ValueError, match="counted from 1"):
        Difference(3, 0)
