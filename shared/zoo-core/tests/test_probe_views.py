"""Probes of attention modules and models of others: timm's, BERT's and ViT's of transformers, torch's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_core.attention import Attention
from zoo_core.attention.papers.mixture_of_heads import MixtureOfHeads
from zoo_core.errors import UsageError
from zoo_core.nn.number_format import number_format
from zoo_core.probe import Edit, KeyBias, Point, Probe, ScaleHeads, TowardValue, attention_view
from zoo_core.probe.listing import places

# -- attention modules of others ---------------------------------------------------------------------------------------

TOKENS = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(1))


class Torch(nn.Module):
    """torch.nn.MultiheadAttention as self-attention."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(24, 4, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.attn.batch_first else x.transpose(0, 1)
        y: Tensor = self.attn(x, x, x, need_weights=False)[0]
        return y if self.attn.batch_first else y.transpose(0, 1)


class Wrapped(nn.Module):
    """An attention module, called with tokens alone."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        y = self.attn(x, **kwargs)
        return y[0] if isinstance(y, tuple) else y


def timm_attention(**options: Any) -> nn.Module:
    attention = pytest.importorskip("timm.layers.attention")
    torch.manual_seed(0)
    return Wrapped(attention.Attention(24, 4, qkv_bias=True, norm_layer=nn.LayerNorm, **options)).eval()


def bert_attention(implementation: str = "sdpa") -> nn.Module:
    bert = pytest.importorskip("transformers.models.bert.modeling_bert")
    torch.manual_seed(0)
    config = bert.BertConfig(hidden_size=24, num_attention_heads=4, attn_implementation=implementation)
    return Wrapped(bert.BertSelfAttention(config)).eval()


def vit_attention() -> nn.Module:
    vit = pytest.importorskip("transformers.models.vit.modeling_vit")
    torch.manual_seed(0)
    config = vit.ViTConfig(hidden_size=24, num_attention_heads=4, attn_implementation="sdpa")
    return Wrapped(vit.ViTAttention(config)).eval()


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "timm": timm_attention,
    "timm, q and k normed": lambda: timm_attention(qk_norm=True),
    "timm, output normed": lambda: timm_attention(scale_norm=True),
    "timm, gated": lambda: timm_attention(gated=True),
    "bert": bert_attention,
    "bert, eager": lambda: bert_attention("eager"),
    "vit": vit_attention,
}
families = pytest.mark.parametrize("make", FAMILIES.values(), ids=list(FAMILIES))


@families
def test_views_show_what_the_module_multiplies(make: Callable[[], nn.Module]) -> None:
    net = make()
    wanted = {what: Point("attn", what) for what in ("q", "k", "v", "head_out", "lse")}  # type: ignore[arg-type]
    seen = Probe(net, {**wanted, "rows": Point("attn", "rows", rows=(1, 4))})(TOKENS)
    at, scale = seen.at, attention_view(net.attn).scale  # type: ignore[arg-type]
    assert torch.equal(seen.out, net(TOKENS))
    assert at["q"].shape == at["head_out"].shape == (2, 4, 7, 6)
    weights = torch.softmax(scale * at["q"] @ at["k"].mT, -1)
    torch.testing.assert_close(weights @ at["v"], at["head_out"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(at["rows"], weights[:, :, [1, 4]])
    torch.testing.assert_close(at["lse"], torch.logsumexp(scale * at["q"] @ at["k"].mT, -1))


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_own_attention_shows_q_k_v_from_its_inputs(batch_first: bool) -> None:
    net = Torch(batch_first=batch_first)
    seen = Probe(net, {what: Point("attn", what) for what in ("q", "k", "v")})(TOKENS)  # type: ignore[arg-type]
    q, k, v = seen.at.values()
    output = net.attn.out_proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(output, seen.out, atol=1e-5, rtol=1e-5)
    # a gradient reaches the projection through what was captured
    (gradient,) = torch.autograd.grad(q.square().sum(), net.attn.in_proj_weight)
    assert (gradient[:24] != 0).any()
    assert (gradient[24:] == 0).all()


def test_torchs_own_attention_hides_the_heads_output() -> None:
    for point, edits in (
        (Point("attn", "head_out"), []),
        (None, [Edit(Point("attn", "head_out"), ScaleHeads((1.0,) * 4))]),
    ):
        with pytest.raises(UsageError, match="never shows the heads' output"):
            Probe(Torch(batch_first=True), {"o": point} if point else {}, edits)


def test_rows_of_a_masked_call_are_refused() -> None:
    net = timm_attention()
    probe = Probe(net, {"rows": Point("attn", "rows", rows=(0,))})
    assert probe(TOKENS).at["rows"].shape == (2, 4, 1, 7)
    with pytest.raises(UsageError, match="gives attn_mask"):
        probe(TOKENS, attn_mask=torch.zeros(7, 7))
    with pytest.raises(UsageError, match="there are 7 queries"):
        Probe(net, {"rows": Point("attn", "rows", rows=(7,))})(TOKENS)


def test_places_say_what_else_attention_shows() -> None:
    ours, gated = Attention(24, 4), Attention(24, 4, combine=MixtureOfHeads(1, 2))
    rest = ("head_out", "k", "lse", "q", "rows", "score", "v", "weight")
    first = places(ours, TOKENS)[0]
    assert (first.path, first.kind, first.shape, first.shows) == ("", "Attention", (2, 7, 24), rest)
    assert places(gated, TOKENS)[0].shows == ("gate", *rest)
    assert [place.shows for place in places(Torch(batch_first=True), TOKENS) if place.shows] == [
        ("k", "lse", "q", "rows", "v")
    ]


# -- edits -------------------------------------------------------------------------------------------------------------


def edited_by_hand(net: nn.Module, change: Callable[[Tensor, Tensor], Tensor], bias: Tensor | None = None) -> Tensor:
    """The heads' output, from the explicit map A and the values: change(A, v)."""
    at = Probe(net, {what: Point("attn", what) for what in ("q", "k", "v")})(TOKENS).at  # type: ignore[arg-type]
    scores = attention_view(net.attn).scale * at["q"] @ at["k"].mT  # type: ignore[arg-type]
    weights = torch.softmax(scores if bias is None else scores + bias, -1)
    return change(weights, at["v"])


@families
def test_edits_are_what_they_are_to_the_map(make: Callable[[], nn.Module]) -> None:
    net = make()
    point = Point("attn", "head_out")

    def out(*edits: Edit) -> tuple[Tensor, Tensor]:
        probe = Probe(net, {"o": point}, edits)
        seen = probe(TOKENS)
        probe.remove()
        return seen.at["o"], seen.out

    plain = out()
    alpha, u = (1.0, 0.0, 2.0, 0.5), (0.0, 1.0, 0.3, 0.0)
    a, s = (torch.tensor(x)[:, None, None] for x in (alpha, u))
    identity = torch.eye(7)
    torch.testing.assert_close(
        out(Edit(point, ScaleHeads(alpha)))[0], edited_by_hand(net, lambda w, v: a * w @ v), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        out(Edit(point, TowardValue(u)))[0],
        edited_by_hand(net, lambda w, v: ((1 - s) * w + s * identity) @ v), atol=1e-6, rtol=1e-5,
    )  # fmt: skip
    bias = (0.0, 1.0, -2.0, 0.0, 0.5, 0.0, 3.0)
    torch.testing.assert_close(
        out(Edit(Point("attn", "in"), KeyBias(bias)))[0],
        edited_by_hand(net, lambda w, v: w @ v, torch.tensor(bias)), atol=1e-6, rtol=1e-5,
    )  # fmt: skip
    # in the order given, and gone when the probe is
    both = out(Edit(point, TowardValue(u)), Edit(point, ScaleHeads(alpha)))[0]
    torch.testing.assert_close(
        both, edited_by_hand(net, lambda w, v: a * ((1 - s) * w + s * identity) @ v), atol=1e-6, rtol=1e-5
    )
    # no change is no change, to the bit
    for neutral in (TowardValue((0.0,) * 4), ScaleHeads((1.0,) * 4)):
        assert torch.equal(out(Edit(point, neutral))[1], plain[1])
    assert torch.equal(net(TOKENS), plain[1])


def second(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device) % 2 == 1


@families
def test_an_edit_of_some_samples_is_two_calls_in_one(make: Callable[[], nn.Module]) -> None:
    net = make()
    point = Point("attn", "head_out")

    def out(*edits: Edit) -> Tensor:
        probe = Probe(net, {}, edits)
        seen = probe(TOKENS)
        probe.remove()
        return seen.out[0] if isinstance(seen.out, tuple) else seen.out

    plain = out()
    for change in (ScaleHeads((1.0, 0.0, 2.0, 0.5)), TowardValue((0.0, 1.0, 0.3, 0.0)), torch.neg):
        some = out(Edit(point, change, when=second))
        whole = out(Edit(point, change))
        assert torch.equal(some[0], plain[0])
        assert torch.equal(some[1], whole[1])
        assert not torch.equal(some[1], plain[1])


def test_a_bias_of_keys_joins_the_mask_of_torchs_attention() -> None:
    net = Torch(batch_first=True)
    bias = torch.tensor([0.0, 1.0, -2.0, 0.0, 0.5, 0.0, 3.0])
    probe = Probe(net, {}, [Edit(Point("attn", "in"), KeyBias(tuple(bias.tolist())))])
    seen = probe(TOKENS)
    probe.remove()
    expected = net.attn(TOKENS, TOKENS, TOKENS, attn_mask=bias.expand(7, 7), need_weights=False)[0]
    torch.testing.assert_close(seen.out, expected)


def test_edits_that_do_not_fit_are_refused() -> None:
    net = timm_attention()
    with pytest.raises(UsageError, match="3 values were given for 4 heads"):
        Probe(net, {}, [Edit(Point("attn", "head_out"), ScaleHeads((1.0,) * 3))])(TOKENS)
    with pytest.raises(UsageError, match=r"a sequence of 7.*from 0 to 6"):
        Probe(net, {}, [Edit(Point("attn", "in"), KeyBias((1.0,) * 9))])(TOKENS)
    with pytest.raises(UsageError, match="cannot be edited"):
        Probe(net, {}, [Edit(Point("attn", "q"), torch.tanh)])
    with pytest.raises(UsageError, match="acts at head_out"):
        Probe(net, {}, [Edit(Point("attn"), TowardValue((0.0,) * 4))])
    some = Edit(Point("attn", "head_out"), torch.neg, when=lambda x: x[:, :, 0, 0] > 0)
    with pytest.raises(UsageError, match=r"`when` gave \(2, 4\).*for 2 samples"):
        Probe(timm_attention(), {}, [some])(TOKENS)
    with pytest.raises(UsageError, match="for all samples"):
        Edit(Point("attn"), KeyBias((0.0,) * 7), when=second)


def test_edits_are_values() -> None:
    def make() -> Edit:
        return Edit(Point("a", "head_out"), ScaleHeads((1.0, 2.0)))

    assert make() == make()
    assert len({make(), make()}) == 1
    assert repr(make()) == repr(make())


# -- whole models of others --------------------------------------------------------------------------------------------


def test_a_whole_vision_transformer_compiled_and_not() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3).eval()
    points = {what: Point("blocks.1.attn", what) for what in ("q", "k", "v", "head_out")}
    probe = Probe(net, {**points, "tokens": "blocks.0"})
    x = torch.randn(2, 3, 32, 32)
    seen, compiled = probe(x), torch.compile(probe, fullgraph=True, backend="eager")(x)
    attended = functional.scaled_dot_product_attention(*(seen.at[what] for what in ("q", "k", "v")))
    torch.testing.assert_close(attended, seen.at["head_out"], atol=1e-5, rtol=1e-5)
    assert all(torch.equal(seen.at[name], compiled.at[name]) for name in seen.at)


def by_inductor(device: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3).eval().to(device)
    points = {what: Point("blocks.1.attn", what) for what in ("q", "k", "v", "head_out", "rows")}
    half = Edit(Point("blocks.0.attn", "head_out"), TowardValue((0.5,) * 3), when=second)
    probe = Probe(net, {**points, "rows": Point("blocks.1.attn", "rows", rows=(0,)), "norm": "norm"}, [half])
    x = torch.randn(2, 3, 32, 32).to(device)
    with torch.no_grad(), number_format("fp32"):
        seen, compiled = probe(x), torch.compile(probe, fullgraph=True)(x)
    torch.testing.assert_close(compiled.out, seen.out, rtol=1e-4, atol=1e-4)
    for name, tensor in seen.at.items():
        torch.testing.assert_close(compiled.at[name], tensor, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_inductor_shows_the_same_here() -> None:
    by_inductor("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of what it uses itself
def test_inductor_shows_the_same_on_a_device() -> None:
    by_inductor("cuda")


def test_a_whole_resnet_compiled_and_not() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=3)
    probe = Probe(net, {"one": "layer1", "two": "layer2.0.conv1", "bn": "layer2.0.bn1"}).eval()
    x = torch.randn(2, 3, 32, 32)
    seen, compiled = probe(x), torch.compile(probe, fullgraph=True, backend="eager")(x)
    assert (seen.at["two"] < 0).any()
    assert all(torch.equal(seen.at[name], compiled.at[name]) for name in seen.at)


def test_a_whole_bert_shows_a_layer() -> None:
    bert = pytest.importorskip("transformers.models.bert.modeling_bert")
    torch.manual_seed(0)
    config = bert.BertConfig(
        hidden_size=24, num_attention_heads=4, num_hidden_layers=2, intermediate_size=32, vocab_size=11
    )
    net = bert.BertModel(config).eval()
    path = "encoder.layer.1.attention.self"
    seen = Probe(net, {what: Point(path, what) for what in ("q", "k", "v", "head_out")})(torch.arange(10).reshape(2, 5))  # type: ignore[arg-type]
    attended = functional.scaled_dot_product_attention(*(seen.at[what] for what in ("q", "k", "v")))
    torch.testing.assert_close(attended, seen.at["head_out"], atol=1e-5, rtol=1e-5)
