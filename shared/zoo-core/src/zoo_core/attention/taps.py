"""Looking into attention and changing it, without hooks or state: what is asked for comes back in the result.

Points, in the order in which they are reached: `q`, `k`, `v` (B, H, N, d) as they meet in the product, `score` and
`weight` (B, Hq, Nq, Nk), `lse` (B, Hq, Nq), `head_out` (B, Hq, Nq, dv), and in a module `gate` and `out`.

Weights come from q, k and lse row by row, so a fused kernel stays fused; an edit of all scores or weights needs them
all, and the reference computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from zoo_core.attention.backends import reference
from zoo_core.attention.backends.chunked import row_blocks
from zoo_core.attention.biases import Bias
from zoo_core.attention.call import Call, Edit, Normalise, Result, make_call
from zoo_core.attention.dispatch import Backend, run
from zoo_core.attention.masks import Mask
from zoo_core.attention.values import Pairs

POINTS = ("q", "k", "v", "score", "weight", "lse", "head_out", "gate", "out")


class Reducer(Protocol):
    """What becomes of the weights of some rows; the results of blocks of rows are joined along dimension 2."""

    def __call__(self, weights: Tensor, pairs: Pairs) -> Tensor:
        """Reduce (B, H, R, Nk) to (B, H or 1, R, ...)."""
        ...


@dataclass(frozen=True)
class Taps:
    """What to capture and what to edit.

    Args:
        capture: points, or point -> what of it: None all, or, of `score` and `weight`, indices of rows, or a reducer.
        edit: point -> function of the tensor there, which returns one of the same shape; or for `score` an `Amplify`.

    Raises:
        ValueError: there is no such point.
    """

    capture: Mapping[str, Sequence[int] | Reducer | None] | Sequence[str] = ()
    edit: Mapping[str, Edit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := {*self.capture, *self.edit} - set(POINTS):
            raise ValueError(f"there is no tap point {sorted(unknown)}; known are {', '.join(POINTS)}")
        if "lse" in self.edit:
            raise ValueError("lse cannot be edited: it is what normalises the weights; edit score or weight")

    def wants(self, point: str) -> bool:
        """Return whether a point is captured."""
        return point in self.capture

    def how(self, point: str) -> Sequence[int] | Reducer | None:
        """Return what of a point is captured."""
        return self.capture.get(point) if isinstance(self.capture, Mapping) else None

    def edited(self, point: str, x: Tensor) -> Tensor:
        """Return the tensor at a point after its edit.

        Raises:
            ValueError: the edit changed the shape.
        """
        if point not in self.edit:
            return x
        y: Tensor = self.edit[point](x)
        if y.shape != x.shape:
            raise ValueError(f"the edit at {point!r} made {tuple(y.shape)} of {tuple(x.shape)}; the shape must stay")
        return y


@dataclass(frozen=True)
class Amplify:
    """Score times beta: sharper (above 1) or flatter attention; costs nothing in a fused kernel.

    Args:
        beta: above 0.

    Raises:
        ValueError: it is not.
    """

    beta: float

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"Amplify: beta is {self.beta}, but must be above 0")

    def __call__(self, score: Tensor) -> Tensor:
        """Multiply."""
        return self.beta * score


@dataclass(frozen=True)
class Entropy:
    """Entropy of each row in nats: (B, H, R)."""

    def __call__(self, weights: Tensor, pairs: Pairs) -> Tensor:
        """See `Reducer`."""
        entropy: Tensor = torch.special.entr(weights).sum(-1)
        return entropy


@dataclass(frozen=True)
class MeanDistance:
    """Mean of |key - query| in tokens of each row: (B, H, R)."""

    def __call__(self, weights: Tensor, pairs: Pairs) -> Tensor:
        """See `Reducer`."""
        return (weights * (pairs.key - pairs.position).abs()).sum(-1)


@dataclass(frozen=True)
class FirstMass:
    """Weight on the first `count` keys of each row: (B, H, R)."""

    count: int

    def __call__(self, weights: Tensor, pairs: Pairs) -> Tensor:
        """See `Reducer`."""
        return weights[..., : self.count].sum(-1)


@dataclass(frozen=True)
class TopKeys:
    """The `count` heaviest keys of each row, heaviest first, the earlier one of equals: (B, H, R, count) indices."""

    count: int

    def __call__(self, weights: Tensor, pairs: Pairs) -> Tensor:
        """See `Reducer`."""
        return weights.sort(dim=-1, descending=True, stable=True).indices[..., : self.count]


@dataclass(frozen=True)
class HeadMean:
    """Mean over heads: (B, 1, R, Nk)."""

    def __call__(self, weights: Tensor, pairs: Pairs) -> Tensor:
        """See `Reducer`."""
        return weights.mean(1, keepdim=True)


def tapped(
    taps: Taps,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    mask: Mask | Tensor | None = None,
    bias: Bias | Tensor | None = None,
    kv_map: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    normalise: Normalise = "softmax",
    need: tuple[str, ...] = ("out",),
    backend: Backend = "auto",
) -> Result:
    """Call `attend` and bring back in `aux`, by point, what the taps capture, after their edits.

    Args:
        taps: what to capture and edit.
        q: this and all others as for `attend`.
        k: see there.
        v: see there.
        scale: see there.
        mask: see there.
        bias: see there.
        kv_map: see there.
        normalise: see there.
        need: see there.
        backend: see there.

    Raises:
        ValueError: an edit changes a shape; otherwise as `attend`.
    """
    q, k, v = (taps.edited(point, x) for point, x in (("q", q), ("k", k), ("v", v)))
    wanted = {*need}
    rows = [point for point in ("score", "weight") if taps.wants(point)]
    if (rows and normalise == "softmax") or taps.wants("lse"):
        wanted.add("lse")
    edits = {point: taps.edit[point] for point in ("score", "weight") if point in taps.edit}
    factor = 1.0
    if isinstance(amplify := edits.get("score"), Amplify) and bias is None:
        factor = amplify.beta
        edits.pop("score")
    if "weight" in edits and "weight" in rows:
        wanted.add("weights")
    call = make_call(q, k, v, scale=scale, mask=mask, bias=bias, kv_map=kv_map, normalise=normalise, need=tuple(wanted))
    call = replace(call, scale=call.scale * factor, edits=edits)
    result = run(call, backend)
    got = {point: x for point, x in (("q", q), ("k", k), ("v", v)) if taps.wants(point)}
    for point in rows:
        got[point] = _captured(call, result, point, taps.how(point))
    if taps.wants("lse") and result.lse is not None:
        got["lse"] = result.lse
    out = taps.edited("head_out", result.out)
    if taps.wants("head_out"):
        got["head_out"] = out
    kept = {name: x for name, x in result.aux.items() if name in need}
    return Result(out, result.lse if "lse" in need else None, {**kept, **got})


def _captured(call: Call, result: Result, point: str, how: Sequence[int] | Reducer | None) -> Tensor:
    keys, _ = call.without_dead_keys().per_query_head()

    def rows(queries: Tensor) -> Tensor:
        if "weights" in result.aux and point == "weight":
            return result.aux["weights"][:, :, queries]
        score = reference.scores(call, queries, keys)
        if point == "score" or result.lse is None:
            return score
        lse = result.lse[:, :, queries, None]
        return (score - lse.masked_fill(lse.isneginf(), 0)).exp()

    if callable(how):
        return torch.cat([how(rows(block), call.pairs_of(block)) for block in row_blocks(call)], dim=2)
    count = call.q.shape[2]
    chosen = list(range(count) if how is None else how)
    if wrong := [row for row in chosen if not -count <= row < count]:
        raise IndexError(f"taps ask for row {wrong[0]} of {point!r}, but there are {count} queries")
    return rows(torch.tensor([row % count for row in chosen], device=call.q.device, dtype=torch.int64))


def attention_rows(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    rows: Sequence[int],
    *,
    scale: float | None = None,
    mask: Mask | Tensor | None = None,
    bias: Bias | Tensor | None = None,
    kv_map: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> Tensor:
    """Return rows of the weights, exp(scores - lse), (B, Hq, len(rows), Nk), with gradients: no Nq x Nk tensor.

    Args:
        q: (B, Hq, Nq, d).
        k: (B, Hk, Nk, d).
        lse: (B, Hq, Nq), of `attend` with the same scale, mask and bias.
        rows: indices of queries; negative ones count from the end.
        scale: as for `attend`.
        mask: as for `attend`.
        bias: as for `attend`.
        kv_map: as for `attend`.
    """
    call = make_call(q, k, k, scale=scale, mask=mask, bias=bias, kv_map=kv_map, normalise="softmax", need=())
    return _captured(call, Result(q, lse), "weight", rows)
