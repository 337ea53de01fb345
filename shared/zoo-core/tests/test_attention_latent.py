"""TransMLA, the exact part: grouped attention as latent attention, and what a report says is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from zoo_core.attention import Attention, Causal, RoPE
from zoo_core.attention.papers import trans_mla as mla
from zoo_core.attention.report import digest


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shapes() -> Iterator[tuple[int, int, int, int]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        groups, share, half, wide = (int(torch.randint(1, most, (), generator=generator)) for most in (5, 4, 5, 3))
        yield groups, groups * share, 2 * half, 8 * wide


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("rotary", [False, True])
def test_latent_attention_is_grouped_attention_exactly(rotary: bool, pairing: str) -> None:
    for groups, heads, width, dim in shapes():
        rope = RoPE(pairing=pairing) if rotary else None  # type: ignore[arg-type]
        layer = Attention(dim, heads, kv_heads=groups, head_dim=width, position=rope)
        state, module, report = mla.gqa_to_mla(layer.state_dict(), layer, held_out=torch.randn(2, 5, dim))
        assert report.exact, report
        assert report.cache_values == (2 * groups * width, 2 * groups * width)
        assert report.hashes == (digest({n: x.double() for n, x in layer.state_dict().items()}), report.hashes[1])
        x = torch.randn(1, 6, dim)
        torch.testing.assert_close(module.float()(x, mask=Causal()), layer(x, mask=Causal()).x, rtol=0, atol=1e-5)
        assert state["down.weight"].dtype == torch.float32
        if rope is None:
            continue
        # RoRoPE: an orthogonal matrix a frequency, one for both parts
        double = module.double()
        state = {name: tensor.double() for name, tensor in double.state_dict().items()}
        tokens = torch.randn(40, dim).double()

        def keys() -> Tensor:
            return double.down(tokens)[:, : groups * width].unflatten(-1, (groups, width)).detach()  # noqa: B023

        def energy() -> Tensor:
            return keys().square().sum((0, 2))

        before = energy()
        y = torch.randn(1, 6, dim).double()
        truth = double(y, mask=Causal())
        rotations = mla.principal_rotations(keys(), rope)
        double.load_state_dict(mla.rotate(state, rotations, rope, kv_heads=groups))
        assert float((double(y, mask=Causal()) - truth).detach().abs().max()) < 1e-10
        assert (energy().diff() <= 1e-9).all(), "energy gathers in the first heads"
        torch.testing.assert_close(energy().sum(), before.sum())


def test_latent_attention_breaks_when_both_parts_of_a_frequency_turn_apart() -> None:
    rope = RoPE()
    layer = Attention(16, 4, kv_heads=4, head_dim=4, position=rope)
    _, module, _ = mla.gqa_to_mla(layer.state_dict(), layer)
    state = dict(module.state_dict())
    one, other = (torch.linalg.qr(torch.randn(2, 4, 4, dtype=torch.float64)).Q for _ in range(2))
    right = mla.rotate(state, one, rope, kv_heads=4)
    apart = mla.rotate(state, other, rope, kv_heads=4)
    imaginary = torch.arange(16) % 4 >= 2
    wrong = {name: x.clone() for name, x in right.items()}
    wrong["down.weight"][:16][imaginary] = apart["down.weight"][:16][imaginary]
    wrong["key_up"][..., :16][..., imaginary] = apart["key_up"][..., :16][..., imaginary]
    x = torch.randn(1, 9, 16).double()
    truth = module(x, mask=Causal())

    def error(changed: dict[str, Tensor]) -> float:
        module.load_state_dict(changed)
        return float((module(x, mask=Causal()) - truth).detach().abs().max())

    assert error(right) < 1e-12
    assert error(wrong) > 1e-3


def test_latent_attention_of_a_smaller_rank_loses_what_the_report_says() -> None:
    layer = Attention(32, 8, kv_heads=4, head_dim=4)
    x, held_out = torch.randn(4, 50, 32).double(), torch.randn(2, 20, 32)
    latent = torch.cat([layer.project.k.weight, layer.project.v.weight]).double() @ x.flatten(0, 1).T
    _, module, report = mla.gqa_to_mla(layer.state_dict(), layer, rank=20, calibration=x, held_out=held_out)
    assert not report.exact
    assert len(report.discarded) == 12
    assert "left out: 12 directions" in str(report)
    rebuilt_keys = torch.einsum("hdr,nr->hdn", module.key_up, module.down(x.flatten(0, 1)))[::2].flatten(0, 1)
    rebuilt_values = torch.einsum("hdr,nr->hdn", module.value_up, module.down(x.flatten(0, 1)))[::2].flatten(0, 1)
    lost = float((torch.cat([rebuilt_keys, rebuilt_values]) - latent).detach().square().sum())
    assert lost == pytest.approx(sum(s**2 for s in report.discarded), rel=1e-9)
    assert report.cache_values == (32, 20)
    assert json.loads(json.dumps(report.as_dict()))["schema"] == "zoo-attn-report/1"


def test_latent_attention_of_the_rank_that_keys_have_is_exact() -> None:
    layer = Attention(32, 8, kv_heads=4, head_dim=4).double()
    with torch.no_grad():
        layer.project.v.weight.copy_(torch.randn(16, 16).double() @ layer.project.k.weight)  # values tell nothing new
    _, _, report = mla.gqa_to_mla(layer.state_dict(), layer, rank=16)
    assert report.exact, report


def test_latent_attention_can_say_what_grouped_attention_cannot() -> None:
    module = mla.LatentAttention(32, 8, head_dim=4, v_head_dim=4, rank=16).double()
    keys = torch.einsum("hdr,rx->hdx", module.key_up, module.down.weight).flatten(0, 1)
    assert int(torch.linalg.matrix_rank(keys)) == 16 > 2 * 4, "2 key heads of 4 have rank 8 at most"


def test_latent_attention_in_a_language_model_keeps_its_logits() -> None:
    embed, head = torch.randn(35, 32).double(), torch.randn(32, 35).double()
    layers = [Attention(32, 8, kv_heads=2, position=RoPE()).double() for _ in range(2)]
    converted = [mla.gqa_to_mla(layer.state_dict(), layer)[1] for layer in layers]
    x = y = embed[torch.randint(35, (2, 20))]
    for layer, latent in zip(layers, converted, strict=True):
        x, y = x + layer(x, mask=Causal()).x, y + latent(y, mask=Causal())
    torch.testing.assert_close(y @ head, x @ head, rtol=0, atol=1e-6)


def test_latent_attention_refuses_what_cannot_be() -> None:
    layer = Attention(32, 8, kv_heads=4, head_dim=4, position=RoPE())
    with pytest.raises(ValueError, match="exact only without positions"):
        mla.gqa_to_mla(layer.state_dict(), layer, rank=20)
    with pytest.raises(ValueError, match="rank 33: keys and values of 4 heads have width 32; give 1 to 32"):
        mla.gqa_to_mla(layer.state_dict(), layer, rank=33)
    plain = Attention(32, 8, kv_heads=4, head_dim=4)
    with pytest.raises(ValueError, match="rank 20 from 10 tokens of calibration"):
        mla.gqa_to_mla(plain.state_dict(), plain, rank=20, calibration=torch.randn(1, 10, 32))
