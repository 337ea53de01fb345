"""Keys that no query may see: nothing in them matters, not even NaN, and leaving them alone costs no copy."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from zoo_core.attention import (
    Causal,
    Dense,
    Document,
    KeyBias,
    Padding,
    PerHead,
    Prefix,
    Sink,
    Window,
    alibi,
    attend,
)
from zoo_core.attention.biases import Bias
from zoo_core.attention.blockwise import BlockList, StridedBlock, Tile3D
from zoo_core.attention.call import make_call
from zoo_core.attention.grids import Circle2D, Neighbourhood
from zoo_core.attention.masks import Mask, Restricted
from zoo_core.attention.values import Pairs

BACKENDS = ("reference", "chunked", "sdpa")
BATCH, HEADS, KEYS = 2, 4, 20
BY_HEAD = Dense((torch.arange(KEYS) // 5 == torch.arange(HEADS)[:, None])[:, None].expand(-1, KEYS, -1))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def qkv(queries: int = 6, keys: int = KEYS) -> list[Tensor]:
    return [torch.randn(BATCH, HEADS, n, 8) for n in (queries, keys, keys)]


# masks that leave some key of 20 to no query of some head, and a number of queries
LEAVING: list[tuple[Mask, int]] = [
    (Sink(4), 20),
    (Causal(-1), 20),
    (Causal(-3), 6),
    (Window(2, 0), 6),
    (Window(2, 0), 1),
    (~Padding([5, 3]), 20),
    (~Sink(4), 20),
    (~Causal(), 20),
    (~Window(None, 0), 6),
    (Prefix(5), 20),
    (Prefix(17), 6),
    (Document([0] * 14 + [1] * 6), 6),
    (Document([[0] * 14 + [1] * 6, [0] * 3 + [1] * 17]), 6),
    (Causal() & (Sink(2) | Window(3, 0)), 6),
    (Padding([5, 9]) | Padding([3, 9]), 20),
    (Padding([5, 9]) & Causal(), 20),
    (PerHead([Padding([5, 5]), Sink(3), Window(1, 0), Sink(2)]), 6),
    (PerHead([BY_HEAD, BY_HEAD, Causal(), BY_HEAD]), 20),
    (Circle2D(4, 5, 2), 6),
    (Neighbourhood((4, 5), (3, 3)), 6),
    (Tile3D(5, 4, 1), 6),
    (StridedBlock(2, 8, HEADS, allow_partial_union=True) & Causal(), 1),
    (BlockList([0, 1, 2, 2, 2, 2], [0, 1], 4), 20),
    (Dense(torch.eye(KEYS, dtype=torch.bool) & (torch.arange(KEYS) < 7)), 20),
]


def seen(mask: Mask, queries: int, keys: int = KEYS) -> Tensor:
    """(B, H, Nk), by looking at all pairs."""
    return mask.dense(queries, keys, batch=BATCH, heads=HEADS).any(2).expand(BATCH, HEADS, -1)


@pytest.mark.parametrize(("mask", "queries"), LEAVING, ids=str)
def test_what_no_query_may_see_is_not_read(mask: Mask, queries: int) -> None:
    q, k, v = qkv(queries)
    hidden = ~seen(mask, queries)[..., None]
    assert hidden.any()
    assert not hidden.all()
    for backend in BACKENDS:
        truth = attend(q, k.masked_fill(hidden, 1), v.masked_fill(hidden, 1), mask=mask, backend=backend).out
        for rubbish in (float("nan"), float("inf")):
            leaves = [q.clone(), k.masked_fill(hidden, rubbish), v.masked_fill(hidden, rubbish)]
            leaves = [x.requires_grad_() for x in leaves]
            result = attend(*leaves, mask=mask, need=("out", "lse"), backend=backend)
            torch.testing.assert_close(result.out, truth, rtol=0, atol=2e-6)
            result.out.sum().backward()
            for x in leaves:
                assert x.grad is not None
                assert x.grad.isfinite().all(), backend


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_query_may_see_is_not_hidden(backend: str) -> None:
    q, k, v = qkv(20)
    v[:, :, 2] = float("nan")
    assert attend(q, k, v, mask=Causal(), backend=backend).out[:, :, 2:].isnan().all()


def test_parts_of_a_mask_by_head_that_differ_by_head_themselves_stay_apart() -> None:
    q, k, v = qkv(20)
    mask = PerHead([BY_HEAD] * HEADS)
    weights = torch.where(BY_HEAD.dense(20, 20, heads=HEADS), q @ k.mT / 8**0.5, float("-inf")).softmax(-1)
    for backend in BACKENDS:
        out = attend(q, k, v, mask=mask, backend=backend).out
        torch.testing.assert_close(out, weights @ v, rtol=0, atol=2e-6)


def test_no_key_that_some_query_sees_is_taken_for_dead() -> None:
    """For any expression: zeroing a key that counts would be a wrong answer without a sign."""
    rng = random.Random(0)
    atoms = [mask for mask, _ in LEAVING] + [Causal(), Causal(2), Window(None, 0), Window(0, None), Window(3, 3)]
    for _ in range(400):
        mask = rng.choice(atoms)
        for _ in range(rng.randint(0, 3)):
            other = rng.choice(atoms)
            mask = rng.choice([lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a & ~b])(mask, other)
        fixed = mask.shape[2]
        queries = fixed if fixed > 1 else rng.choice([1, 6, 20])
        live = mask.live(Pairs.grid(queries, KEYS, batch=BATCH, heads=HEADS))
        assert live is None or (live | ~seen(mask, queries)).all(), mask
        if fixed == 1:
            kept = torch.tensor(sorted(rng.sample(range(KEYS), 9)))
            restricted = Restricted(mask, kept[-2:], kept)
            live = restricted.live(Pairs.grid(2, 9, batch=BATCH, heads=HEADS))
            assert live is None or (live | ~seen(restricted, 2, 9)).all(), restricted


@pytest.mark.parametrize(
    "mask",
    [
        Causal(),
        Window(3, 0),
        Causal() & (Sink(2) | Window(3, 0)),
        Document([0, 0, 1, 1]),
        PerHead([Causal(), Causal() & (Sink(2) | Window(3, 0))]),
        Circle2D(2, 2, 1),
        Neighbourhood((2, 2), (1, 2)),
        StridedBlock(1, 2, 2) & Causal(),
    ],
    ids=str,
)
def test_masks_that_leave_no_key_cost_no_copy_in_training(mask: Mask) -> None:
    heads = mask.shape[1]
    q, k, v = (torch.randn(1, heads, 4, 8) for _ in range(3))
    call = make_call(q, k, v, scale=None, mask=mask, bias=None, kv_map=None, normalise="softmax", need=())
    assert call.without_dead_keys().k is k
    assert call.without_dead_keys().v is v


RELATIVE = [Causal(), Window(3, 0), Causal() & Window(5, None), Window(2, 1) | Causal(-9), Causal() & ~Window(4, 0)]


@pytest.mark.parametrize(
    "mask", [*RELATIVE, Window(3, 0) & Padding([20, 18]), Window(3, 0) & (Sink(1) | Causal())], ids=str
)
@pytest.mark.parametrize("queries", [1, 6, 20])
def test_keys_behind_a_window_are_left_out_without_a_trace(mask: Mask, queries: int) -> None:
    biases: list[Bias | None] = [None, alibi(HEADS), alibi(HEADS) + KeyBias(torch.randn(1, HEADS, KEYS))]
    for bias in biases:
        q, k, v = qkv(queries)
        truth = attend(q, k, v, mask=mask, bias=bias, need=("out", "lse"), backend="reference")
        result = attend(q, k, v, mask=mask, bias=bias, need=("out", "lse"), backend="sdpa")
        torch.testing.assert_close(result.out, truth.out, rtol=0, atol=2e-6)
        torch.testing.assert_close(result.lse, truth.lse, rtol=0, atol=2e-6)


def test_decoding_with_a_window_neither_reads_nor_copies_what_is_behind_it() -> None:
    q, k, v = qkv(1)
    mask, bias = Causal() & Window(4, 0), alibi(HEADS)
    call = make_call(q, k, v, scale=None, mask=mask, bias=bias, kv_map=None, normalise="softmax", need=())
    short = call.within_reach().without_dead_keys()
    assert short.k.shape[2] == short.v.shape[2] == 5
    assert short.k.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()


def test_documents_refuse_more_queries_than_keys() -> None:
    q, k, v = qkv(20, 6)
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="one packed sequence"):
            attend(q, k, v, mask=Document([0, 0, 1, 1, 1, 2]), backend=backend)
    with pytest.raises(ValueError, match="one packed sequence"):
        Document([0, 0, 1]).grid(8, 3, 2, 2)


@pytest.mark.parametrize("mask", [Causal(-1), Window(1, 0), Sink(2), Prefix(2), Padding([3, 1])], ids=str)
def test_a_mask_for_no_query_gives_nothing(mask: Mask) -> None:
    q, k, v = qkv(0)
    for backend in ("reference", "chunked"):
        assert attend(q, k, v, mask=mask, backend=backend).out.shape == (BATCH, HEADS, 0, 8)
