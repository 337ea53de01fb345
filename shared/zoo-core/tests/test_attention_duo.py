"""DuoAttention: gates, plans, and decoding as they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zoo_core.attention import Attention, Causal, RoPE, Sink, Taps, Window
from zoo_core.attention.papers import duo_attention as duo
from zoo_core.attention.plans import Head, Plan
from zoo_core.errors import InputError


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_duo_gates_run_from_streaming_to_full() -> None:
    layer = Attention(16, 4, kv_heads=2)
    x = torch.randn(2, 20, 16)
    full = layer(x, mask=Causal()).x
    streaming = layer(x, mask=Causal() & (Sink(2) | Window(3, 0))).x

    def out(*alpha: float, tokens: int = 20) -> Tensor:
        return duo.gated(layer, x[:, :tokens], torch.tensor(alpha), sink=2, recent=4)

    torch.testing.assert_close(out(1, 1), full, rtol=0, atol=1e-6)
    torch.testing.assert_close(out(0, 0), streaming, rtol=0, atol=1e-6)
    plan = Plan(((Head("stream", 2, 4), Head()),))
    torch.testing.assert_close(out(0, 1), layer(x, mask=Causal(), plan=plan.layers[0]).x, rtol=0, atol=1e-6)
    torch.testing.assert_close(out(0.3, 0.6, tokens=6), full[:, :6], rtol=0, atol=1e-6)
    assert not torch.allclose(out(0.5, 0.5), full)
    teacher = layer(2 * x, mask=Causal(), taps=Taps(("head_out",))).aux["head_out"]
    torch.testing.assert_close(
        duo.gated(layer, x, torch.ones(2), sink=2, recent=4, teacher=teacher), layer(2 * x, mask=Causal()).x
    )


class Copier(nn.Module):
    """Two layers of four heads; head 2 of layer 1 copies, from far back, the token whose content the query names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention(32, 4) for _ in range(2))
        with torch.no_grad():
            for layer in self.layers:
                layer.project.q.weight.mul_(0.05)  # vague heads: near uniform over what they see
                layer.output.weight.mul_(0.02)  # that hardly matter
            planted = self.layers[1]
            rows = slice(16, 24)
            planted.project.q.weight[rows] = 6 * torch.eye(32)[:8]
            planted.project.k.weight[rows] = 6 * torch.eye(32)[:8]
            planted.project.v.weight[rows] = torch.eye(32)[8:16]
            planted.output.weight[:, rows] = torch.eye(32)[:, 16:24]

    def forward(self, x: Tensor, gates: Tensor | None) -> Tensor:
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Attention)
            alone = layer(x, mask=Causal()).x if gates is None else None
            x = x + (duo.gated(layer, x, gates[number], sink=2, recent=6) if gates is not None else alone)
        return x


def needles(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Sequences whose last token asks for one of the tokens far back; only the answer counts."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = 0.3 * torch.randn(8, 40, 32, generator=generator)
        x[..., :8] = nn.functional.normalize(torch.randn(8, 40, 8, generator=generator), dim=-1)
        place = torch.randint(4, 30, (8,), generator=generator)
        x[:, -1, :8] = x[torch.arange(8), place, :8]
        counted = torch.zeros(8, 40, dtype=torch.bool)
        counted[:, -1] = True
        yield x, counted


def test_duo_finds_the_one_head_that_looks_far_back() -> None:
    model = Copier().requires_grad_(False)
    gates = duo.learn_gates(model, needles(150), layers=2, kv_heads=4, steps=150)
    assert gates.argmax() == 6
    assert float(gates[1, 2]) > 0.5
    others = gates.flatten()[torch.arange(8) != 6]
    assert float(others.max()) < 0.2
    plan = duo.plan_of(gates, 7 / 8, sink=2, recent=6)
    assert [head.kind for layer in plan.layers for head in layer] == ["stream"] * 6 + ["full", "stream"]


def test_duo_plans_decode_as_they_prefill_and_keep_the_bytes_of_the_formula() -> None:
    plan = Plan(((Head("stream", 2, 4), Head(), Head("stream", 2, 4)),))
    layer = Attention(24, 6, kv_heads=3, position=RoPE(), name="0")
    x = torch.randn(2, 30, 24)
    cache = plan.cache(0)
    decoded = torch.cat([layer(x[:, t : t + 1], mask=Causal(), cache=cache).x for t in range(30)], 1)
    torch.testing.assert_close(decoded, layer(x, mask=Causal(), plan=plan.layers[0]).x, rtol=0, atol=1e-5)
    assert cache.bytes() == 2 * (30 + 2 * (2 + 4)) * 2 * 4 * 4  # batch, tokens by heads, k and v, width, fp32


def test_duo_patterns_are_read_and_ranked(tmp_path: Path) -> None:
    (tmp_path / "full_attention_heads.tsv").write_text("0.9\t0.1\n0.1\t1.0000001\n")
    (tmp_path / "config.json").write_text('{"sink_size": 128, "recent_size": 256}')
    plan = duo.open_duo(tmp_path, 0.25)
    assert plan.layers == ((Head(), Head("stream", 128, 256)), (Head(), Head())), "of equal gates the first streams"
    assert duo.open_duo(tmp_path, 0.5).layers[1][0].kind == "stream"
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        duo.plan_of(torch.tensor([[1.5]]), 0.5)
    with pytest.raises(ValueError, match="sparsity is 2"):
        duo.plan_of(torch.tensor([[0.5]]), 2)
    (tmp_path / "full_attention_heads.tsv").write_text("0.9\tfull\n")
    with pytest.raises(InputError, match="holds no DuoAttention pattern"):
        duo.open_duo(tmp_path, 0.5)
    with pytest.raises(InputError, match="holds no DuoAttention pattern"):
        duo.open_duo(tmp_path / "elsewhere", 0.5)
