"""What is added to the scaled scores: values that compose with `+`, with gradients, some of which fold into q and k.

A bias of the form sum_m a_m(i) b_m(j) needs no table: with q' = [q, a / scale] and k' = [k, b], any fused kernel adds
it exactly. Terms of a row alone do not change a softmax, only its lse; they are handed over apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zoo_core.attention.values import ANY, Pairs, Shape, merged, pick


class Fold(NamedTuple):
    """bias = scale * queries @ keys^T + row, with the scale of the call.

    Args:
        queries: (b, h, Nq, M) columns for q.
        keys: (b, h, Nk, M) columns for k.
        row: (b, h, Nq), or None for 0: what a softmax does not see.
    """

    queries: Tensor
    keys: Tensor
    row: Tensor | None = None


class Bias:
    """Base of all biases."""

    def at(self, pairs: Pairs) -> Tensor:
        """Return the bias of a grid of pairs, in fp32 or fp64, of a shape that broadcasts to (B, H, Nq, Nk)."""
        raise NotImplementedError

    @property
    def shape(self) -> Shape:
        """The sizes (B, H, Nq, Nk) it is for, 1 where it fits any."""
        return ANY

    @property
    def relative(self) -> bool:
        """Whether key - position alone decides: then it means the same when first keys are left out."""
        return False

    def folds(self, dtype: torch.dtype, *, causal: bool) -> bool:
        """Return whether `fold` can add it exactly enough.

        Args:
            dtype: of q and k, in which a kernel multiplies; sums are fp32 or wider.
            causal: whether no key stands behind its query.
        """
        return False

    def fold(self, pairs: Pairs, dtype: torch.dtype, *, scale: float) -> Fold:
        """Return the columns that add the bias, where it `folds`.

        Args:
            pairs: all pairs of the call.
            dtype: of q and k.
            scale: of the call, above 0.
        """
        raise NotImplementedError

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that it is made of: their gradients decide which backends can run."""
        raise NotImplementedError

    def parts(self) -> tuple[Bias, ...]:
        """Return the summands."""
        return (self,)

    def __add__(self, other: Bias) -> Sum:
        return Sum((*self.parts(), *other.parts()))


@dataclass(frozen=True, eq=False)
class Sum(Bias):
    """Several biases."""

    summands: tuple[Bias, ...]

    @property
    def shape(self) -> Shape:
        """See `Bias.shape`."""
        return merged(*(bias.shape for bias in self.summands))

    @property
    def relative(self) -> bool:
        """See `Bias.relative`."""
        return all(bias.relative for bias in self.summands)

    def at(self, pairs: Pairs) -> Tensor:
        """See `Bias.at`."""
        total = self.summands[0].at(pairs)
        for bias in self.summands[1:]:
            total = total + bias.at(pairs)
        return total

    def tensors(self) -> tuple[Tensor, ...]:
        """See `Bias.tensors`."""
        return tuple(tensor for bias in self.summands for tensor in bias.tensors())

    def parts(self) -> tuple[Bias, ...]:
        """See `Bias.parts`."""
        return self.summands


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True, eq=False)
class Distance(Bias):
    """Decay with distance: -lam_h |j - i - mu_h| (laplace) or -lam_h (j - i - mu_h)^2 (gauss).

    Args:
        kind: laplace or gauss.
        lam: (H,), 0 or more, of any floating type; gets gradients. Make it positive with softplus or exp.
        mu: (H,) where the peak stands, in keys after the query, or None: 0. Gets gradients.

    Raises:
        ValueError: another kind, or shapes that are not (H,), or (looked at on the CPU only) a negative lam.
    """

    kind: Literal["laplace", "gauss"]
    lam: Tensor
    mu: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("laplace", "gauss"):
            raise ValueError(f"Distance: kind is {self.kind!r}, but must be 'laplace' or 'gauss'")
        if not all(x.is_floating_point() for x in self.tensors()):
            raise TypeError("Distance: lam and mu must be floating tensors")
        if self.lam.ndim != 1 or (self.mu is not None and self.mu.shape != self.lam.shape):
            mu = "" if self.mu is None else f", mu {tuple(self.mu.shape)}"
            raise ValueError(f"Distance: lam has shape {tuple(self.lam.shape)}{mu}; both must be (heads,)")
        # on CUDA the comparison would wait for the device, in a compiled function break the graph
        looked_at = self.lam.device.type == "cpu" and not torch.compiler.is_compiling()
        if looked_at and not bool((self.lam.detach() >= 0).all()):
            raise ValueError("Distance: lam has a negative entry or NaN; it must be 0 or more (use softplus or exp)")

    @property
    def shape(self) -> Shape:
        """See `Bias.shape`."""
        return 1, len(self.lam), 1, 1

    @property
    def relative(self) -> bool:
        """See `Bias.relative`."""
        return True

    def at(self, pairs: Pairs) -> Tensor:
        """See `Bias.at`."""
        lam = _wide(self.lam)
        distance = (pairs.key - pairs.position).to(lam.dtype)
        if self.mu is not None:
            distance = distance - pick(_wide(self.mu), pairs.head)
        return -pick(lam, pairs.head) * (distance.abs() if self.kind == "laplace" else distance.square())

    def folds(self, dtype: torch.dtype, *, causal: bool) -> bool:
        """See `Bias.folds`: causal laplace without mu in fp32; gauss not in fp32, where squares lose digits.

        In half precision, gradients of lam and mu would be small differences of large rounded sums: no fold then.
        """
        if self.kind == "laplace":
            return causal and self.mu is None and dtype.itemsize >= 4
        return dtype.itemsize > 4 or (dtype.itemsize < 4 and not any(x.requires_grad for x in self.tensors()))

    def fold(self, pairs: Pairs, dtype: torch.dtype, *, scale: float) -> Fold:
        """See `Bias.fold`: laplace in one column, gauss in two (fp64) or seven (half precision)."""
        lam = _wide(self.lam)[None, :, None]
        # counted from the middle: smaller numbers, smaller rounding
        middle = (len(pairs.key) - 1) // 2
        key = (pairs.key - middle).to(lam.dtype)[None, None]
        query = (pairs.position.flatten() - middle).to(lam.dtype)[None, None]
        if self.kind == "laplace":
            slope = (lam / scale)[..., None].expand(-1, -1, query.shape[-1], 1)
            return Fold(slope, key[..., None], -lam * query)
        if self.mu is not None:
            query = query + _wide(self.mu)[None, :, None]
        scaled = lam / scale
        if dtype.itemsize > 4:
            columns = torch.stack([2 * scaled * query, (-scaled).expand_as(scaled * query)], -1)
            return Fold(columns, torch.stack([key, key.square()], -1), -lam * query.square())
        # products of half precision are exact in the fp32 sum: split operands into parts that are exact too, and take
        # the squares of the positions so rounded, so that what remains is a distance between rounded positions
        root = (2 * scaled).sqrt()
        i, j = (_split(root * place, dtype, 2) for place in (query, key))
        square = _split((j[0] + j[1]).square() / 2, dtype, 3)
        ones = torch.ones_like(i[0])
        return Fold(
            torch.stack([i[0], i[0], i[1], i[1], ones, ones, ones], -1),
            torch.stack([j[0], j[1], j[0], j[1], *(-part for part in square)], -1),
            -scale * (i[0] + i[1]).square() / 2,
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """See `Bias.tensors`."""
        return (self.lam,) if self.mu is None else (self.lam, self.mu)


def _split(x: Tensor, dtype: torch.dtype, parts: int) -> list[Tensor]:
    """Return tensors that `dtype` holds exactly and whose sum is nearly x."""
    rest, split = x, []
    for _ in range(parts):
        split.append(rest.to(dtype).to(x.dtype))
        rest = rest - split[-1]
    return split


def alibi(heads: int, *, device: torch.device | str | None = None) -> Distance:
    """Return ALiBi (Press et al., arXiv:2108.12409): -m_h |i - j| with the paper's slopes.

    Args:
        heads: H; for a power of 2 the slopes are 2^(-8 h / H), h = 1 ... H, else those of the next lower power and
            every second one of the next higher, as the authors do.
        device: where the slopes are to be.
    """
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (heads - power), 2)]
    return Distance("laplace", torch.tensor(slopes, device=device))


@dataclass(frozen=True, eq=False)
class LowRank(Bias):
    """a w b^T: every query and every key has K numbers (Aurora's guidance by K = 10 tokens of another modality).

    Args:
        a: (B, H, Nq, K); sizes of 1 are repeated.
        b: (B, H, Nk, K).
        w: (K, K), or None: the identity.
    """

    a: Tensor
    b: Tensor
    w: Tensor | None = None

    def _columns(self) -> tuple[Tensor, Tensor]:
        # K numbers large and of both signs: a sum in fp32 would lose a digit of the score
        wide = torch.float64 if self.a.device.type == "cpu" else torch.promote_types(self.a.dtype, torch.float32)
        a = self.a.to(wide)
        return (a if self.w is None else a @ self.w.to(wide)), self.b.to(wide)

    @property
    def shape(self) -> Shape:
        """See `Bias.shape`."""
        b, h, _, _ = merged((*self.a.shape[:2], 1, 1), (*self.b.shape[:2], 1, 1))
        return b, h, self.a.shape[2], self.b.shape[2]

    def at(self, pairs: Pairs) -> Tensor:
        """See `Bias.at`."""
        a, b = self._columns()
        return a[:, :, pairs.query.flatten()] @ b[:, :, pairs.key].mT

    def folds(self, dtype: torch.dtype, *, causal: bool) -> bool:
        """See `Bias.folds`: always."""
        return True

    def fold(self, pairs: Pairs, dtype: torch.dtype, *, scale: float) -> Fold:
        """See `Bias.fold`: K columns."""
        a, b = self._columns()
        return Fold(a / scale, b)

    def tensors(self) -> tuple[Tensor, ...]:
        """See `Bias.tensors`."""
        return (self.a, self.b) if self.w is None else (self.a, self.b, self.w)


@dataclass(frozen=True, eq=False)
class KeyBias(Bias):
    """A number for every key.

    Args:
        values: (B, H, Nk); sizes of 1 are repeated.
    """

    values: Tensor

    @property
    def shape(self) -> Shape:
        """See `Bias.shape`."""
        return self.values.shape[0], self.values.shape[1], 1, self.values.shape[2]

    def at(self, pairs: Pairs) -> Tensor:
        """See `Bias.at`."""
        return _wide(self.values)[:, :, None, pairs.key]

    def folds(self, dtype: torch.dtype, *, causal: bool) -> bool:
        """See `Bias.folds`: always."""
        return True

    def fold(self, pairs: Pairs, dtype: torch.dtype, *, scale: float) -> Fold:
        """See `Bias.fold`: one column."""
        values = _wide(self.values)[..., None] / scale
        return Fold(torch.ones_like(values[:, :, :1]).expand(-1, -1, pairs.query.shape[0], 1), values)

    def tensors(self) -> tuple[Tensor, ...]:
        """See `Bias.tensors`."""
        return (self.values,)


@dataclass(frozen=True, eq=False)
class DenseBias(Bias):
    """A table (Nq, Nk), (H, Nq, Nk) or (B, H, Nq, Nk); sizes of 1 are repeated. -inf forbids a pair."""

    table: Tensor

    @property
    def shape(self) -> Shape:
        """See `Bias.shape`."""
        b, h, i, j = (1,) * (4 - self.table.ndim) + tuple(self.table.shape)
        return b, h, i, j

    def at(self, pairs: Pairs) -> Tensor:
        """See `Bias.at`."""
        table = _wide(self.table)
        table = table[(None,) * (4 - table.ndim)]
        if table.shape[2] > 1:
            table = table[:, :, pairs.query.flatten()]
        return table[..., pairs.key] if table.shape[3] > 1 else table

    def tensors(self) -> tuple[Tensor, ...]:
        """See `Bias.tensors`."""
        return (self.table,)


@dataclass(frozen=True, eq=False)
class Placed(Bias):
    """A decay between tokens that are not all there, at these positions of the sequence; what a ring cache needs.

    Args:
        of: the decay.
        queries: (Nq,) positions.
        keys: (Nk,) positions.
    """

    of: Distance
    queries: Tensor
    keys: Tensor

    @property
    def shape(self) -> Shape:
        """See `Bias.shape`."""
        return 1, len(self.of.lam), len(self.queries), len(self.keys)

    def at(self, pairs: Pairs) -> Tensor:
        """See `Bias.at`."""
        return self.of.at(pairs.placed(self.queries, self.keys))

    def tensors(self) -> tuple[Tensor, ...]:
        """See `Bias.tensors`."""
        return self.of.tensors()


def as_bias(bias: Bias | Tensor | Sequence[Bias] | None) -> Bias | None:
    """Return a bias for what a caller gave.

    Raises:
        TypeError: it is no bias and no floating tensor.
    """
    if bias is None or isinstance(bias, Bias):
        return bias
    if isinstance(bias, Tensor) and bias.is_floating_point() and bias.ndim <= 4:
        return DenseBias(bias)
    kind = f"a tensor {tuple(bias.shape)} of {bias.dtype}" if isinstance(bias, Tensor) else type(bias).__name__
    raise TypeError(
        f"the bias is {kind}: give a zoo_core.attention bias or a floating tensor (B, Hq, Nq, Nk); bool is for masks"
    )
