"""Masks compose like the sets that they are; what is said about tiles is true of every pair in them."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo_core.attention import Causal, Dense, Document, Padding, PerHead, Prefix, Sink, Window, attend
from zoo_core.attention.backends.flex import block_mask
from zoo_core.attention.blockwise import BlockList, StridedBlock, Tile3D
from zoo_core.attention.grids import Circle2D, Neighbourhood
from zoo_core.attention.masks import Mask, Restricted
from zoo_core.attention.values import Frozen, Pairs

BATCH, HEADS = 2, 3
NEIGHBOURHOODS = [
    Neighbourhood((140,), (5,)),
    Neighbourhood((131,), (4,), (3,)),
    Neighbourhood((13, 11), (3, 7)),
    Neighbourhood((10, 14), (3, 2), (2, 5)),
    Neighbourhood((5, 4, 7), (3, 1, 5), (1, 2, 1)),
]
small = st.integers(0, 9)


def tables(queries: int, keys: int) -> st.SearchStrategy[Mask]:
    return st.integers(0, 1 << 30).map(
        lambda seed: Dense(torch.rand(1, HEADS, queries, keys, generator=torch.Generator().manual_seed(seed)) < 0.7)
    )


def atoms(queries: int, keys: int) -> st.SearchStrategy[Mask]:
    heads = st.lists(st.sampled_from([Causal(), Window(2, 1), ~Sink(3), Prefix(4)]), min_size=HEADS, max_size=HEADS)
    kinds: list[st.SearchStrategy[Mask]] = [
        st.builds(Causal, st.integers(-3, 3)),
        st.builds(Window, st.none() | small, st.none() | small),
        st.builds(Sink, small),
        st.builds(Prefix, small),
        st.builds(Padding, st.lists(st.integers(0, keys), min_size=BATCH, max_size=BATCH)),
        heads.map(PerHead),
        st.builds(StridedBlock, st.integers(1, 7), st.just(3), st.just(HEADS), st.integers(0, 2), st.integers(0, 1)),
        st.builds(BlockList, st.just((0, 2, 2, 3)), st.just((0, 2, 1)), st.integers(1, 9)),
        tables(queries, keys),
    ]
    if keys >= queries:
        kinds += [
            # by a seed: drawing a hundred numbers one by one takes long
            st.integers(0, 1 << 30).map(lambda seed: Document(sorted(random.Random(seed).choices(range(4), k=keys)))),
            st.builds(Circle2D, st.just(9), st.integers(3, 8), st.sampled_from([1.0, 2.5, 4.0]), small),
            st.sampled_from(NEIGHBOURHOODS),
            st.builds(Tile3D, st.integers(2, 5), st.integers(3, 7), st.integers(0, 2)),
        ]
    return st.one_of(kinds)


@st.composite
def expressions(draw: st.DrawFn) -> tuple[Mask, int, int]:
    queries, keys = draw(st.integers(1, 130)), draw(st.integers(1, 130))
    leaf = atoms(queries, keys)
    grown = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds(lambda a, b: a & b, inner, inner),
            st.builds(lambda a, b: a | b, inner, inner),
            inner.map(lambda a: ~a),
        ),
        max_leaves=4,
    )
    return draw(grown), queries, keys


def dense(mask: Mask, queries: int, keys: int) -> Tensor:
    return mask.dense(queries, keys, batch=BATCH, heads=HEADS).expand(BATCH, HEADS, -1, -1)


@pytest.mark.parametrize("part", range(4))  # 500 in all; each part draws its own
@settings(max_examples=125, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=expressions(), block_queries=st.integers(1, 70), block_keys=st.integers(1, 70))
def test_tiles_are_empty_or_full_only_where_all_their_pairs_are(
    part: int, drawn: tuple[Mask, int, int], block_queries: int, block_keys: int
) -> None:
    mask, queries, keys = drawn
    block_queries, block_keys = max(block_queries, queries // 16), max(block_keys, keys // 16)
    held = dense(mask, queries, keys)
    grid = mask.grid(queries, keys, block_queries, block_keys).expand(BATCH, HEADS, -1, -1)
    below, right = -queries % block_queries, -keys % block_keys

    def tiled(beyond: bool) -> Tensor:
        """(B, H, rows of tiles, columns, tokens of a tile), with an answer for what lies beyond the edge."""
        whole = held.new_full((BATCH, HEADS, queries + below, keys + right), beyond)
        whole[:, :, :queries, :keys] = held
        return whole.unflatten(2, (-1, block_queries)).unflatten(4, (-1, block_keys)).transpose(3, 4).flatten(4)

    assert not tiled(False).any(-1)[grid == 0].any()
    assert tiled(True).all(-1)[grid == 2].all()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(expressions())
def test_live_keys_and_intervals_are_those_of_the_pairs(drawn: tuple[Mask, int, int]) -> None:
    mask, queries, keys = drawn
    held = dense(mask, queries, keys)
    live = mask.live(Pairs.grid(queries, keys, batch=BATCH, heads=HEADS))
    if live is not None:
        assert not held.any(2)[~live.expand(BATCH, HEADS, keys)].any(), "a key that is seen was called dead"
    for i in {0, queries - 1, *range(0, queries, 7)}:
        intervals = mask.rows(i + keys - queries, keys)
        if intervals is not None:
            row = torch.zeros(keys, dtype=torch.bool)
            for begin, end in intervals:
                assert not row[begin : end + 1].any(), "intervals are disjoint and do not touch"
                row[begin:end] = True
            assert torch.equal(held[0, 0, i], row)


def test_operators_are_those_of_sets() -> None:
    a, b = Causal() & (Sink(4) | Window(15, 0)), Padding([13, 40])
    assert torch.equal(dense(a & b, 40, 40), dense(a, 40, 40) & dense(b, 40, 40))
    assert torch.equal(dense(a | b, 40, 40), dense(a, 40, 40) | dense(b, 40, 40))
    assert torch.equal(dense(~a, 40, 40), ~dense(a, 40, 40))


def test_equal_masks_are_equal_and_hash_alike_whatever_made_them() -> None:
    assert Padding([3, 4]) == Padding(torch.tensor([3, 4], dtype=torch.int32))
    assert hash(Padding([3, 4])) == hash(Padding(torch.tensor([3, 4])))
    assert Padding([3, 4]) != Padding([4, 3])
    assert Causal() & Sink(3) == Causal() & Sink(3)
    lengths = torch.tensor([3, 4])
    mask = Padding(lengths)
    lengths[0] = 0
    assert mask == Padding([3, 4]), "a mask keeps what it was made of"


def test_streaming_is_causal_while_short() -> None:
    streaming = Causal() & (Sink(4) | Window(15, 0))
    for tokens in (1, 10, 20):
        assert torch.equal(streaming.dense(tokens, tokens), Causal().dense(tokens, tokens))
    assert not torch.equal(streaming.dense(21, 21), Causal().dense(21, 21))


@pytest.mark.parametrize(("radius", "points"), [(2, 9), (4, 45), (8, 193), (16, 793), (32, 3205)])
def test_a_circle_has_as_many_tokens_as_lattice_points(radius: int, points: int) -> None:
    side = 2 * radius + 1
    centre = side * radius + radius
    pairs = Pairs.grid(torch.tensor([centre]), side * side, shift=0)
    assert int(Circle2D(side, side, radius).at(pairs).sum()) == points


@pytest.mark.parametrize("mask", NEIGHBOURHOODS, ids=str)
def test_a_neighbourhood_is_the_nearest_tokens_of_every_token_also_at_the_edges(mask: Neighbourhood) -> None:
    tokens = mask.shape[3]
    held = mask.dense(tokens, tokens)[0, 0]
    places = torch.cartesian_prod(*(torch.arange(size) for size in mask.sizes)).reshape(tokens, -1)
    for axis, (kernel, step) in enumerate(zip(mask.kernel, mask.dilation, strict=True)):
        own = places[:, axis]
        for token in range(0, tokens, 7):
            seen = own[held[token]].unique()
            # of the tokens that lie whole steps away the nearest, as many as the kernel says
            near = own.unique()[(own.unique() - own[token]) % step == 0] - own[token]
            assert sorted((seen - own[token]).abs().tolist()) == sorted(near.abs().tolist())[:kernel]
    assert held.sum(1).unique().tolist() == [int(torch.tensor(mask.kernel).prod())]


def test_neighbourhoods_that_do_not_fit_their_grid_are_refused() -> None:
    for wrong in (((4, 4), (5, 1)), ((4,), (2,), (3,)), ((4,), (0,)), ((4, 4), (3,))):
        with pytest.raises(ValueError, match=r"kernel times dilation|one number for each axis"):
            Neighbourhood(*wrong)  # type: ignore[arg-type]


def test_queries_end_where_keys_end() -> None:
    whole = (Causal() & Window(5, 0)).dense(20, 20)
    assert torch.equal((Causal() & Window(5, 0)).dense(3, 20), whole[:, :, 17:])


def test_a_restricted_mask_is_the_whole_one_at_these_positions() -> None:
    mask = Causal() & (Sink(2) | Window(4, 0))
    queries, keys = torch.tensor([10, 11]), torch.tensor([0, 1, 7, 8, 9, 10, 11])
    truth = mask.dense(12, 12)[:, :, queries][:, :, :, keys]
    assert torch.equal(Restricted(mask, queries, keys).dense(2, 7), truth)


def test_heads_of_a_strided_mask_together_see_all_or_it_is_refused() -> None:
    for stride, heads in ((4, 4), (3, 5), (8, 8)):
        held = (StridedBlock(2, stride, heads) & Causal()).dense(64, 64, heads=heads)
        assert torch.equal(held.any(1), Causal().dense(64, 64)[0])
    with pytest.raises(ValueError, match="4 sparse heads cannot cover 8 phases"):
        StridedBlock(16, 8, 4)
    StridedBlock(16, 8, 4, allow_partial_union=True)


def test_whole_frames_are_full_tiles_and_the_density_is_the_formula() -> None:
    frames, tokens, references = 24, 16, 3
    grid = Tile3D(frames, tokens, references).grid(frames * tokens, frames * tokens, 16, 8)
    assert not (grid == 1).any()
    share = (references * frames + frames - references) / frames**2
    assert float((grid == 2).float().mean()) == pytest.approx(share)


def test_flex_gets_its_tiles_from_the_grid_and_keeps_them() -> None:
    mask = Causal() & (Sink(4) | Window(60, 0))
    tiles = block_mask(mask, 300, 300, torch.device("cpu"))
    assert block_mask(Causal() & (Sink(4) | Window(60, 0)), 300, 300, torch.device("cpu")) is tiles
    assert torch.equal(tiles.to_dense()[0, 0] > 0, mask.grid(300, 300, 128, 128)[0, 0] > 0)


def test_bad_masks_are_said_in_words() -> None:
    with pytest.raises(ValueError, match="bounds are numbers of keys"):
        Window(-1, 0)
    with pytest.raises(TypeError, match="give bool, True = may attend"):
        Dense(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="different sizes cannot be combined"):
        (Padding([1, 2]) & Padding([1, 2, 3])).shape  # noqa: B018
    q = torch.randn(1, 1, 5, 4)
    with pytest.raises(ValueError, match=r"mask is for \(1, 1, 1, 3\)"):
        attend(q, q, q, mask=Document([0, 0, 1]))
    with pytest.raises(ValueError, match="more queries than keys"):
        attend(torch.randn(1, 1, 5, 4), q[:, :, :3], q[:, :, :3], mask=Document([0, 0, 1]))
    assert repr(Frozen([1, 2])) == "Frozen(2,)"
