"""What masks and biases are made of: pairs of indices to ask about, and tensors that compare by content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Shape: TypeAlias = tuple[int, int, int, int]
ANY: Shape = (1, 1, 1, 1)


def merged(*shapes: Shape) -> Shape:
    """Return the shape (B, H, Nq, Nk) that several values, each with 1 where it fits any size, ask for together.

    Raises:
        ValueError: two ask for different sizes.
    """
    b, h, i, j = (max(sizes) for sizes in zip(*shapes, strict=True))
    if any(size not in (1, most) for shape in shapes for size, most in zip(shape, (b, h, i, j), strict=True)):
        raise ValueError(f"values for different sizes cannot be combined: {', '.join(map(str, shapes))}")
    return b, h, i, j


class Pairs(NamedTuple):
    """Pairs of a query and a key: five integers, or index tensors that broadcast against each other.

    Args:
        batch: index of the example, (B, 1, 1, 1).
        head: index of the query head, (1, H, 1, 1).
        query: index of the query in this call, (Nq, 1).
        key: index of the key in this call, (Nk,).
        shift: position of query 0 on the axis of the keys; queries end where keys end, so it is Nk - Nq unless a
            cache says otherwise.
    """

    batch: Tensor
    head: Tensor
    query: Tensor
    key: Tensor
    shift: int

    @property
    def position(self) -> Tensor:
        """Where the queries stand on the axis of the keys."""
        return self.query + self.shift

    def placed(self, queries: Tensor, keys: Tensor) -> Pairs:
        """Return the pairs where the query and key of each index stand at these positions of a sequence."""
        return self._replace(query=queries[self.query], key=keys[self.key], shift=0)

    @classmethod
    def grid(
        cls,
        queries: Tensor | int,
        keys: int,
        *,
        batch: int = 1,
        heads: int = 1,
        shift: int | None = None,
        device: torch.device | str | None = None,
    ) -> Pairs:
        """Return all pairs of some queries (their number, or their indices) with all keys.

        A predicate that does not depend on the example, the head or the query answers with dimensions of size 1 there.
        """
        if isinstance(queries, int):
            shift = keys - queries if shift is None else shift
            queries = torch.arange(queries, device=device)
        if shift is None:
            raise ValueError("indices of queries need `shift`, the position of query 0")
        return cls(
            torch.arange(batch, device=device)[:, None, None, None],
            torch.arange(heads, device=device)[None, :, None, None],
            queries[:, None],
            torch.arange(keys, device=device),
            shift,
        )


class Frozen:
    """A constant tensor that is equal to, and hashes like, any other with the same numbers.

    Comparing reads the numbers, which on CUDA waits for the device; computing with it does not.

    Args:
        values: a tensor (copied) or nested sequences of numbers.
        dtype: to convert to; None keeps a tensor's own.
    """

    __slots__ = ("_digest", "_placed")

    def __init__(self, values: Tensor | Sequence[object] | Frozen, dtype: torch.dtype | None = None) -> None:
        if isinstance(values, Frozen):
            values = values.on(None)
        kept = values.detach().clone() if isinstance(values, Tensor) else torch.tensor(values)
        if dtype is not None:
            kept = kept.to(dtype)
        self._placed: dict[torch.device, Tensor] = {kept.device: kept}
        self._digest: tuple[tuple[int, ...], bytes] | None = None

    def on(self, device: torch.device | None) -> Tensor:
        """Return the tensor on a device; None means where it is."""
        if device is None or device in self._placed:
            return self._placed[device] if device is not None else next(iter(self._placed.values()))
        self._placed[device] = next(iter(self._placed.values())).to(device)
        return self._placed[device]

    @property
    def digest(self) -> tuple[tuple[int, ...], bytes]:
        """Shape and content."""
        if self._digest is None:
            kept = self.on(None).cpu()
            self._digest = (tuple(kept.shape), kept.numpy().tobytes())
        return self._digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Frozen{tuple(self.on(None).shape)}"


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Return values[index], the only value for any index where there is one."""
    return values[index] if len(values) > 1 else values[torch.zeros_like(index)]


def whole_numbers(values: Tensor | Sequence[object] | Frozen, name: str, *, dimensions: tuple[int, ...]) -> Frozen:
    """Return integers as int64.

    Raises:
        TypeError: they are no integers.
        ValueError: they have other dimensions.
    """
    kept = Frozen(values).on(None)
    if kept.dtype.is_floating_point or kept.dtype == torch.bool:
        raise TypeError(f"{name} are {kept.dtype}, but must be whole numbers")
    if kept.ndim not in dimensions:
        raise ValueError(
            f"{name} have shape {tuple(kept.shape)}, but must have {' or '.join(map(str, dimensions))} dimensions"
        )
    return Frozen(kept, torch.int64)
