"""Caches: step by step is all at once, taking back is never having given, a fork is a copy."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from zoo_core.attention import (
    Attention,
    Causal,
    Decay,
    DenseCache,
    Distance,
    KeyBias,
    Plan,
    RingCache,
    RoPE,
    Sink,
    Window,
    attend,
)
from zoo_core.attention.cache import Cache, HeadCache
from zoo_core.attention.masks import Mask
from zoo_core.attention.plans import Head

LAYER, TOKENS, BATCH, HEADS, WIDTH = "layer", 30, 2, 4, 4
RING = Causal() & (Sink(2) | Window(4, 0))
PLAN = Plan(((Head("stream", 2, 5), Head()),))
KINDS = ["dense", "ring", "heads"]


def made(kind: str, slack: int = 0) -> tuple[Cache, Mask]:
    """An empty cache, and the mask that gives in one pass what decoding with it should."""
    if kind == "dense":
        return DenseCache(), Causal()
    if kind == "ring":
        return RingCache(2, 5, slack=slack), RING
    return HeadCache([([1], DenseCache()), ([0], RingCache(2, 5, slack=slack))]), Causal() & PLAN.mask(0, HEADS)


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(BATCH, HEADS, TOKENS, WIDTH), *torch.randn(2, BATCH, 2, TOKENS, WIDTH)


def steps(rng: random.Random) -> list[tuple[int, int]]:
    cuts = sorted({0, TOKENS, *rng.sample(range(1, TOKENS), rng.randint(1, 12))})
    return list(pairwise(cuts))


def fed(cache: Cache, qkv: tuple[Tensor, Tensor, Tensor], begin: int, end: int) -> Tensor:
    q, k, v = (x[:, :, begin:end] for x in qkv)
    cache.append(LAYER, k, v)
    return cache.attend(LAYER, q, mask=Causal())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_in_any_steps_is_one_pass(kind: str, seed: int, qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    cache, mask = made(kind)
    out = torch.cat([fed(cache, qkv, begin, end) for begin, end in steps(random.Random(seed))], 2)
    torch.testing.assert_close(out, attend(*qkv, mask=mask, backend="reference").out, rtol=0, atol=1e-5)
    assert cache.length(LAYER) == TOKENS


@pytest.mark.parametrize("kind", KINDS)
def test_taking_back_and_giving_again_is_never_having_given(kind: str, qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    cache, _ = made(kind, slack=3)
    plain, _ = made(kind, slack=3)
    for t in range(20):
        fed(cache, qkv, t, t + 1)
        fed(plain, qkv, t, t + 1)
    wrong = tuple(torch.randn_like(x) for x in qkv)
    for t in range(20, 23):
        fed(cache, wrong, t, t + 1)
    cache.rewind(3)
    assert cache.length(LAYER) == 20
    for t in range(20, TOKENS):
        torch.testing.assert_close(fed(cache, qkv, t, t + 1), fed(plain, qkv, t, t + 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_and_its_origin_change_apart(kind: str, qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    cache, mask = made(kind)
    fed(cache, qkv, 0, 12)
    before = cache.bytes()
    other = cache.fork()
    wrong = tuple(torch.randn_like(x) for x in qkv)
    fed(other, wrong, 12, 14)
    third = cache.fork()
    truth = attend(*qkv, mask=mask, backend="reference").out
    for one in (cache, third):
        assert one.bytes() == before
        out = torch.cat([fed(one, qkv, t, t + 1) for t in range(12, TOKENS)], 2)
        torch.testing.assert_close(out, truth[:, :, 12:], rtol=0, atol=1e-5)
    assert other.length(LAYER) == 14


@pytest.mark.parametrize("kind", KINDS)
def test_content_is_saved_and_beams_are_reordered(kind: str, qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    cache, _ = made(kind)
    fed(cache, qkv, 0, 15)
    copy, _ = made(kind)
    copy.load_state_dict(cache.state_dict())
    swapped = tuple(x.flip(0) for x in qkv)
    straight = fed(cache, qkv, 15, 16)
    assert torch.equal(fed(copy, qkv, 15, 16), straight)
    copy.rewind(0)
    copy.reorder(torch.tensor([1, 0]))
    torch.testing.assert_close(fed(copy, swapped, 16, 17), fed(cache, qkv, 16, 17).flip(0))


def test_bytes_are_the_closed_form(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    one = BATCH * WIDTH * 2 * 4  # of a token and a key head: keys and values in fp32
    caches = {kind: made(kind)[0] for kind in KINDS}
    for t in range(TOKENS):
        for cache in caches.values():
            fed(cache, qkv, t, t + 1)
        kept = min(t + 1, 2 + 5)
        assert caches["dense"].bytes() == 2 * (t + 1) * one
        assert caches["ring"].bytes() == 2 * kept * one
        assert caches["heads"].bytes() == (t + 1 + kept) * one


def test_a_module_decodes_with_rotary_positions() -> None:
    torch.manual_seed(0)
    layer = Attention(16, 4, kv_heads=2, position=RoPE(), name="0")
    x = torch.randn(2, 11, 16)
    whole = layer(x, mask=Causal()).x
    cache = DenseCache()
    parts = [layer(x[:, a:b], mask=Causal(), cache=cache).x for a, b in ((0, 4), (4, 5), (5, 11))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)
    planned = layer(x, mask=Causal(), plan=PLAN.layers[0]).x
    cache_of_heads = PLAN.cache(0)
    parts = [layer(x[:, t : t + 1], mask=Causal(), cache=cache_of_heads).x for t in range(11)]
    torch.testing.assert_close(torch.cat(parts, 1), planned, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="the layer needs a name"):
        Attention(16, 4)(x, cache=DenseCache())


def test_a_bias_with_a_dense_cache_is_that_of_the_whole(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    bias = Distance("laplace", torch.rand(HEADS))
    cache = DenseCache()
    q, k, v = qkv
    cache.append(LAYER, k, v)
    out = cache.attend(LAYER, q[:, :, -3:], mask=Causal(), bias=bias)
    torch.testing.assert_close(out, attend(q, k, v, mask=Causal(), bias=bias).out[:, :, -3:], rtol=0, atol=1e-5)


def test_a_decay_in_a_ring_counts_distances_in_the_whole_sequence() -> None:
    torch.manual_seed(0)
    layer = Attention(16, 4, position=Decay(), name="0")
    x = torch.randn(2, 20, 16)
    cache = RingCache(2, 5)
    parts = [layer(x[:, t : t + 1], mask=Causal(), cache=cache).x for t in range(20)]
    torch.testing.assert_close(torch.cat(parts, 1), layer(x, mask=RING).x, rtol=0, atol=1e-5)


def test_bad_use_of_caches_is_said_in_words(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    cache, _ = made("ring")
    for t in range(20):
        fed(cache, qkv, t, t + 1)
    with pytest.raises(ValueError, match=r"rewind\(4\): older tokens are gone; make the ring with slack=4 or more"):
        cache.rewind(4)
    assert cache.length(LAYER) == 20
    with pytest.raises(ValueError, match=r"rewind\(21\), but the cache has 20 tokens"):
        cache.rewind(21)
    with pytest.raises(ValueError, match="0 or more"):
        cache.rewind(-1)
    with pytest.raises(ValueError, match="recent 1 or more"):
        RingCache(4, 0)
    with pytest.raises(ValueError, match="must name each one from 0 on once"):
        HeadCache([([0, 2], DenseCache())])
    dense = DenseCache()
    dense.append(LAYER, qkv[1][:, :, :1], qkv[2][:, :, :1])
    with pytest.raises(ValueError, match="but the cache has 1 tokens"):
        dense.attend(LAYER, qkv[0][:, :, :2])
    with pytest.raises(ValueError, match="only the number of tokens may differ"):
        dense.append(LAYER, qkv[1][:1], qkv[2][:1])
    with pytest.raises(ValueError, match="as many tokens"):
        dense.append(LAYER, qkv[1], qkv[2][:, :, :3])
    assert dense.length(LAYER) == 1
    with pytest.raises(ValueError, match="needs all keys"):
        cache.attend(LAYER, qkv[0][:, :, :1], bias=KeyBias(torch.rand(1, HEADS, 20)))
