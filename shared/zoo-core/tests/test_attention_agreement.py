"""Whoever computes a call gives what the plain formula gives, in values and gradients: 2,000 drawn comparisons."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from zoo_core.attention import (
    Causal,
    Dense,
    DenseBias,
    Distance,
    Document,
    KeyBias,
    LowRank,
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
from zoo_core.attention.grids import Circle2D, Neighbourhood
from zoo_core.attention.masks import Mask

PARTS, DRAWS = 10, 100  # each against two backends


@dataclass(frozen=True)
class Sizes:
    """Of one call."""

    batch: int
    heads: int
    queries: int
    keys: int


def some_mask(rng: random.Random, at: Sizes) -> Mask | None:
    kinds: list[Callable[[], Mask]] = [
        lambda: Causal(rng.randint(-3, 3)),
        lambda: Window(rng.choice([None, 0, 5]), rng.choice([None, 0, 3])),
        lambda: Causal() & (Sink(2) | Window(3, 0)),
        lambda: Causal() | Prefix(rng.randint(0, 6)),
        lambda: Padding([rng.randint(0, at.keys) for _ in range(at.batch)]),
        lambda: PerHead([rng.choice([Causal(), Window(1, 1), ~Sink(2)]) for _ in range(at.heads)]),
        lambda: Dense(torch.rand(at.queries, at.keys) < 0.6),
        lambda: Dense(torch.rand(at.batch, 1, at.queries, at.keys) < 0.6),
        lambda: StridedBlock(rng.randint(1, 3), 2, at.heads, allow_partial_union=True),
        lambda: BlockList((0, 2, 2, 3), (0, 2, 1), rng.randint(1, 5)),
    ]
    if at.keys >= at.queries:  # positions of a picture, a film or a packed sequence are not negative
        kinds += [
            lambda: Document([rng.randint(0, 2) for _ in range(at.keys)]),
            lambda: Circle2D(4, 3, rng.choice([1.0, 2.0]), rng.randint(0, 2)),
            lambda: Tile3D(3, 4, rng.randint(0, 2)),
            lambda: Neighbourhood((at.keys,), (rng.randint(1, at.keys),)),
        ]
    mask = rng.choice(kinds)()
    if (way := rng.random()) < 0.15:
        return None
    if way < 0.3:
        return ~mask
    if way < 0.5:
        other = rng.choice(kinds)()
        return mask & other if way < 0.4 else mask | other
    return mask


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


BIASES: dict[str, Callable[[Sizes, torch.dtype], Bias]] = {
    "alibi": lambda at, _: alibi(at.heads),
    "laplace": lambda at, kind: Distance("laplace", torch.rand(at.heads, dtype=kind).requires_grad_()),
    "laplace with offset": lambda at, kind: Distance(
        "laplace", torch.rand(at.heads, dtype=kind).requires_grad_(), leaf(at.heads, dtype=kind)
    ),
    "gauss": lambda at, kind: Distance("gauss", (0.1 * torch.rand(at.heads, dtype=kind)).requires_grad_()),
    "gauss with offset": lambda at, kind: Distance(
        "gauss", (0.1 * torch.rand(at.heads, dtype=kind)).requires_grad_(), leaf(at.heads, dtype=kind)
    ),
    "low rank": lambda at, kind: LowRank(
        leaf(at.batch, at.heads, at.queries, 3, dtype=kind), leaf(at.batch, 1, at.keys, 3, dtype=kind),
        leaf(3, 3, dtype=kind),
    ),
    "keys": lambda at, kind: KeyBias(leaf(at.batch, 1, at.keys, dtype=kind)),
    "table": lambda at, kind: DenseBias(leaf(at.heads, at.queries, at.keys, dtype=kind)),
    "sum": lambda at, kind: (
        LowRank(leaf(1, at.heads, at.queries, 2, dtype=kind), leaf(1, at.heads, at.keys, 2, dtype=kind))
        + KeyBias(leaf(1, at.heads, at.keys, dtype=kind))
    ),
    "keys and alibi": lambda at, kind: KeyBias(leaf(1, at.heads, at.keys, dtype=kind)) + alibi(at.heads),
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A call, and random weights that make one number of what it gives."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Mask | None
    bias: Bias | None
    kv_map: tuple[tuple[int, ...], tuple[int, ...]] | None
    scale: float | None

    @classmethod
    def at_random(cls, rng: random.Random, dtype: torch.dtype) -> Drawn:
        key_heads, value_heads, share = rng.randint(1, 2), rng.randint(1, 2), rng.randint(1, 2)
        heads = key_heads * value_heads * share
        at = Sizes(rng.randint(1, 3), heads, rng.randint(1, 12), rng.randint(1, 12))
        width, value_width = rng.choice([1, 4, 7]), rng.choice([1, 4, 5])
        maps = tuple(tuple(rng.randrange(count) for _ in range(heads)) for count in (key_heads, value_heads))
        return cls(
            leaf(at.batch, heads, at.queries, width, dtype=dtype),
            leaf(at.batch, key_heads, at.keys, width, dtype=dtype),
            leaf(at.batch, value_heads, at.keys, value_width, dtype=dtype),
            some_mask(rng, at),
            rng.choice([*BIASES.values()])(at, dtype) if rng.random() < 0.8 else None,
            (maps[0], maps[1]) if rng.random() < 0.2 else None,
            rng.choice([None, None, 0.3, 2.0]),
        )

    @property
    def leaves(self) -> list[Tensor]:
        of_bias = self.bias.tensors() if self.bias is not None else ()
        return [self.q, self.k, self.v, *(x for x in of_bias if x.requires_grad)]

    def answer(self, backend: str, weights: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        result = attend(
            self.q, self.k, self.v, mask=self.mask, bias=self.bias, kv_map=self.kv_map, scale=self.scale,
            need=("out", "lse"), backend=backend,  # type: ignore[arg-type]
        )  # fmt: skip
        assert result.lse is not None
        finite = result.lse.masked_fill(result.lse.isneginf(), 0)
        total = (result.out * weights[0]).sum() + (finite * weights[1]).sum()
        found = torch.autograd.grad(total, self.leaves, allow_unused=True)
        assert all(x is not None for x in found)
        return result.out, result.lse, found  # type: ignore[return-value]


@pytest.mark.parametrize("part", range(PARTS))
def test_backends_agree_with_the_reference_in_values_and_gradients(part: int) -> None:
    rng = random.Random(part)
    torch.manual_seed(part)
    for number in range(DRAWS):
        dtype = torch.float64 if number % 4 == 0 else torch.float32
        drawn = Drawn.at_random(rng, dtype)
        weights = (torch.randn(*drawn.q.shape[:3], drawn.v.shape[3], dtype=dtype), torch.randn(drawn.q.shape[:3]))
        out, lse, gradients = drawn.answer("reference", weights)
        assert out.isfinite().all()
        limit, slope = (1e-10, 1e-9) if dtype == torch.float64 else (1e-5, 1e-4)
        for backend in ("chunked", "sdpa"):
            what = f"{backend}, part {part}, draw {number}: {drawn.mask} {drawn.bias}"
            other_out, other_lse, other_gradients = drawn.answer(backend, weights)
            torch.testing.assert_close(other_out, out, rtol=0, atol=limit, msg=what)
            torch.testing.assert_close(other_lse, lse, rtol=limit, atol=limit, msg=what)
            for mine, other in zip(gradients, other_gradients, strict=True):
                torch.testing.assert_close(other, mine, rtol=slope, atol=slope, msg=what)


@pytest.mark.parametrize("part", range(2))
def test_half_precision_is_near_the_exact_formula(part: int) -> None:
    rng = random.Random(100 + part)
    torch.manual_seed(part)
    for _ in range(50):
        drawn = Drawn.at_random(rng, torch.float32)
        if drawn.scale == 2.0:  # scores of 20 have rounding errors of their own
            continue
        q, k, v = (x.detach().bfloat16() for x in (drawn.q, drawn.k, drawn.v))
        with torch.no_grad():
            options = {"mask": drawn.mask, "bias": drawn.bias, "kv_map": drawn.kv_map, "scale": drawn.scale}
            exact = attend(q.double(), k.double(), v.double(), backend="reference", **options).out  # type: ignore[arg-type]
            for backend in ("reference", "chunked", "sdpa"):
                out = attend(q, k, v, backend=backend, **options).out  # type: ignore[arg-type]
                assert out.dtype == torch.bfloat16
                torch.testing.assert_close(out.double(), exact, rtol=5e-2, atol=5e-2, msg=f"{backend} {options}")


@pytest.mark.parametrize("kind", BIASES)
def test_the_reference_has_the_gradients_of_its_formula_twice(kind: str) -> None:
    rng = random.Random(0)
    torch.manual_seed(0)
    for number in range(30):
        at = Sizes(rng.randint(1, 2), 2, rng.randint(1, 4), rng.randint(1, 4))
        bias = BIASES[kind](at, torch.float64)
        mask = some_mask(rng, at)
        shapes = ((at.queries, 2), (at.keys, 2), (at.keys, 3))
        leaves = [leaf(at.batch, 2, *shape, dtype=torch.float64) for shape in shapes]
        inside = [x for x in bias.tensors() if x.requires_grad]

        def out(q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Tensor:
            return attend(q, k, v, mask=mask, bias=bias, backend="reference").out  # noqa: B023

        # tensors of the bias are changed in place by the check, as all inputs are
        assert torch.autograd.gradcheck(out, (*leaves, *inside), fast_mode=True)
        if number % 5 == 0:
            assert torch.autograd.gradgradcheck(out, (*leaves, *inside), fast_mode=True)
