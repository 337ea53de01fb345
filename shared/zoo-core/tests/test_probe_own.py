"""Probes of attention modules of ours, which are asked by taps: what is seen, and what edits do, on every backend."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo_core.attention import Attention, Causal, Decay, DenseCache, Padding, RoPE, Taps
from zoo_core.attention import KeyBias as KeyTerm
from zoo_core.attention.papers.grouped_differential import DifferentialProjection
from zoo_core.attention.papers.mixture_of_heads import MixtureOfHeads
from zoo_core.attention.taps import tapped
from zoo_core.errors import UsageError
from zoo_core.probe import Edit, KeyBias, Point, Probe, ScaleHeads, TowardValue

X = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0))
MAP = ("q", "k", "v", "score", "weight", "lse", "head_out")


class Block(nn.Module):
    """A layer of ours somewhere in a network that knows nothing of taps."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mixer = Attention(16, 4, **options)

    def forward(self, x: Tensor, mask: Any = None) -> Tensor:
        return x + self.mixer(x, mask=mask).x


def points(*names: str) -> dict[str, Point]:
    return {name: Point("mixer", name) for name in names}  # type: ignore[arg-type]


def repeated(x: Tensor) -> Tensor:
    return x.repeat_interleave(4 // x.shape[1], 1)


LAYERS: list[dict[str, Any]] = [{}, {"kv_heads": 2, "position": RoPE()}, {"kv_heads": 1, "position": Decay()}]


@pytest.mark.parametrize("options", LAYERS)
@pytest.mark.parametrize("mask", [None, Causal(), Padding([9, 5])], ids=["none", "causal", "padding"])
def test_what_is_seen_is_the_layers_own_arithmetic(options: dict[str, Any], mask: Any) -> None:
    net = Block(**options)
    seen = Probe(net, {**points(*MAP), "rows": Point("mixer", "rows", rows=(8, 0))})(X, mask)
    at = seen.at
    assert torch.equal(seen.out, net(X, mask))
    assert at["q"].shape == (2, 4, 9, 4)
    if not isinstance(options.get("position"), Decay) and mask is None:
        torch.testing.assert_close(at["score"], at["q"] @ repeated(at["k"]).mT / 2, rtol=0, atol=1e-5)
    near: Callable[[Tensor, Tensor], None] = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-5)  # noqa: E731
    near(at["weight"], at["score"].softmax(-1))
    near(at["lse"], at["score"].logsumexp(-1))
    near(at["weight"] @ repeated(at["v"]), at["head_out"])
    near(at["rows"], at["weight"][:, :, [8, 0]])
    near(seen.out, X + net.mixer.output(at["head_out"].transpose(1, 2).flatten(2)))


def test_rows_alone_are_all_that_is_computed() -> None:
    made: list[Any] = []
    net = Block()
    net.mixer.register_forward_pre_hook(lambda *call: made.append(call[2]["taps"].capture), with_kwargs=True)
    probe = Probe(net, {"a": Point("mixer", "rows", rows=(3,)), "b": Point("mixer", "rows", rows=(7, 3))})
    net.mixer._forward_pre_hooks.move_to_end(next(iter(net.mixer._forward_pre_hooks)))  # look behind the probe's
    at = probe(X).at
    assert made == [{"weight": [3, 7]}]
    assert torch.equal(at["a"][:, :, 0], at["b"][:, :, 1])


def test_a_module_gives_to_others_what_it_gives_without_a_probe() -> None:
    layer = Attention(16, 4, combine=MixtureOfHeads(shared=1, active=2))
    bare = layer(X)
    probe = Probe(layer, {"gate": Point("", "gate"), "v": Point("", "v"), "y": Point("")})
    seen = probe(X)
    assert seen.out.aux.keys() == bare.aux.keys()
    assert torch.equal(seen.out.x, bare.x)
    assert torch.equal(seen.at["y"], bare.x)
    assert seen.at["gate"].shape == (2, 9, 4)
    probe.remove()
    assert "gate" not in layer(X).aux


def test_gradients_pass_through_what_is_seen() -> None:
    net = Block(kv_heads=2)
    Probe(net, points("weight", "v"))(X).at["weight"].square().sum().backward()
    assert net.mixer.project.q.weight.grad is not None
    assert float(net.mixer.project.q.weight.grad.abs().max()) > 0
    assert net.mixer.project.v.weight.grad is None


def test_compiled_and_copied_it_shows_the_same() -> None:
    probe = Probe(
        Block(kv_heads=2, position=RoPE()),
        points("q", "v", "lse", "head_out"),
        [Edit(Point("mixer", "head_out"), TowardValue((0.5,) * 4))],
    )
    seen = probe(X)
    compiled = torch.compile(probe, fullgraph=True, backend="eager")(X)
    twin = copy.deepcopy(probe)
    twin.module.mixer.project.q.weight.data.zero_()
    assert torch.equal(seen.out, compiled.out)
    assert all(torch.equal(seen.at[name], compiled.at[name]) for name in seen.at)
    assert not twin(X).at["q"].any()
    assert torch.equal(probe(X).at["q"], seen.at["q"])


# -- edits -------------------------------------------------------------------------------------------------------------

ALPHA, U, B = (1.0, 0.0, 2.0, -0.5), (0.0, 0.3, 1.0, 0.7), tuple(0.3 * (j - 4) for j in range(9))


def by_hand(net: Block, change: Callable[[Tensor, Tensor], Tensor], bias: Tensor | None = None) -> Tensor:
    """The same by the explicit map of the softmax."""
    at = Probe(net, points("q", "k", "v"))(X).at
    score = at["q"] @ repeated(at["k"]).mT / 2 + (0 if bias is None else bias)
    out = change(score.softmax(-1), repeated(at["v"]))
    return X + net.mixer.output(out.transpose(1, 2).flatten(2))


def of_heads(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_edits_are_what_they_are_to_the_map(kv_heads: int) -> None:
    net = Block(kv_heads=kv_heads, position=RoPE())
    out = Point("mixer", "head_out")
    u, eye = of_heads(U), torch.eye(9)

    def edited(*edits: Edit) -> Tensor:
        probe = Probe(net, {}, edits)
        try:
            made: Tensor = probe(X).out
            return made
        finally:
            probe.remove()

    near: Callable[[Tensor, Tensor], None] = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # noqa: E731
    near(edited(Edit(out, ScaleHeads(ALPHA))), by_hand(net, lambda a, v: of_heads(ALPHA) * (a @ v)))
    near(edited(Edit(out, TowardValue(U))), by_hand(net, lambda a, v: ((1 - u) * a + u * eye) @ v))
    near(edited(Edit(Point("mixer"), KeyBias(B))), by_hand(net, lambda a, v: a @ v, torch.tensor(B)))
    # in their order, beside each other, and at tensors that only the taps show
    near(
        edited(Edit(out, TowardValue(U)), Edit(out, ScaleHeads(ALPHA)), Edit(Point("mixer"), KeyBias(B))),
        by_hand(net, lambda a, v: of_heads(ALPHA) * (((1 - u) * a + u * eye) @ v), torch.tensor(B)),
    )
    near(edited(Edit(Point("mixer", "weight"), torch.square)), by_hand(net, lambda a, v: a.square() @ v))
    near(
        edited(Edit(Point("mixer", "v"), torch.neg), Edit(out, TowardValue((1.0,) * 4))),
        by_hand(net, lambda a, v: -v),
    )
    near(edited(Edit(Point("mixer"), torch.zeros_like)), X)  # `out`, of a layer that gives a named tuple
    near(edited(Edit(Point("mixer", "in"), torch.zeros_like)), X)
    some = Edit(Point("mixer", "head_out"), torch.neg, heads=(0, 2))
    near(edited(some), by_hand(net, lambda a, v: of_heads((-1.0, 1.0, -1.0, 1.0)) * (a @ v)))
    for change in (TowardValue(U), torch.neg):
        last = edited(Edit(out, change, when=lambda x: torch.arange(len(x)) == len(x) - 1))
        assert torch.equal(last[:-1], net(X)[:-1])
        assert torch.equal(last[-1], edited(Edit(out, change))[-1])
    # no effect is no change of a bit
    assert torch.equal(edited(), net(X))
    assert torch.equal(edited(Edit(out, ScaleHeads((1.0,) * 4))), net(X))
    assert torch.equal(edited(Edit(out, torch.neg, heads=())), net(X))


@pytest.mark.parametrize("backend", ["reference", "chunked", "sdpa", "flex"])
def test_edits_are_what_they_are_to_the_map_on_every_backend(backend: Any) -> None:
    # flex runs uncompiled on a CPU
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    b = torch.tensor(B)[None, None]
    score = q @ repeated(k).mT * 8**-0.5 + b
    weights = score.masked_fill(torch.ones(9, 9).tril() == 0, -torch.inf).softmax(-1)
    for change, expected in (
        (ScaleHeads(ALPHA), of_heads(ALPHA) * weights @ repeated(v)),
        (
            lambda out: TowardValue(U)(out, v),
            ((1 - of_heads(U)) * weights + of_heads(U) * torch.eye(9)) @ repeated(v),
        ),
    ):
        with torch.no_grad():
            result = tapped(
                Taps(("lse", "weight"), {"head_out": change}), q, k, v, mask=Causal(), bias=KeyTerm(b), backend=backend
            )
        torch.testing.assert_close(result.out, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(result.aux["weight"], weights, rtol=0, atol=1e-6)


def test_a_bias_of_keys_joins_what_the_call_gives() -> None:
    layer = Attention(16, 4)
    given = KeyTerm(torch.randn(2, 1, 5))
    context = torch.randn(2, 5, 16)
    expected = layer(X, context, bias=given + KeyTerm(torch.tensor(B[:5])[None, None])).x
    probe = Probe(layer, {}, [Edit(Point(""), KeyBias(B[:5]))])
    torch.testing.assert_close(probe(X, context, bias=given).out.x, expected)
    with pytest.raises(UsageError, match=r"5 keys was given for a sequence of 9.*0 to 8"):
        probe(X)


def test_what_cannot_be_seen_or_edited_is_refused() -> None:
    layer = Attention(16, 4, name="0")
    with pytest.raises(UsageError, match=r"itself\):rows cannot be edited"):
        Probe(layer, {}, [Edit(Point("", "rows"), torch.neg)])
    with pytest.raises(UsageError, match="TowardValue acts at head_out"):
        Probe(layer, {}, [Edit(Point("", "v"), TowardValue(U))])
    probe = Probe(layer, {"v": Point("", "v")})
    with pytest.raises(UsageError, match="taps of its own"):
        probe(X, taps=Taps(("q",)))
    with pytest.raises(ValueError, match="with a cache there are no taps"):
        probe(X, mask=Causal(), cache=DenseCache())
    with pytest.raises(UsageError, match="has no gate"):
        Probe(layer, {"gate": Point("", "gate")})(X)
    odd = Attention(16, 4, kv_heads=1, project=DifferentialProjection(3))
    with pytest.raises(UsageError, match="which heads share a value"):
        Probe(odd, {}, [Edit(Point("", "head_out"), TowardValue(U))])
    with pytest.raises(UsageError, match=r"no head 4.*from 0 to 3"):
        Probe(Block(), {}, [Edit(Point("mixer", "head_out"), torch.neg, heads=(4,))])(X)
    with pytest.raises(UsageError, match="heads are chosen for functions"):
        Edit(Point("", "head_out"), TowardValue(U), heads=(1,))
    with pytest.raises(ValueError, match="lse cannot be edited"):
        Taps(edit={"lse": torch.neg})
