"""Keys and values of earlier tokens: what decoding keeps so that no token is computed twice.

Whatever the kind, decoding token by token gives what one pass over all tokens gives; taking back tokens and appending
them again gives what never taking them back gives; a fork shares memory until one of the two is written to. Positions
travel with the keys. No gradients pass through a cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from zoo_core.attention.atoms import Sink, Window
from zoo_core.attention.biases import Bias, Distance, Placed
from zoo_core.attention.dispatch import attend
from zoo_core.attention.masks import Mask, Restricted


class View(NamedTuple):
    """What the last queries may look at.

    Args:
        k: (B, Hk, n, d).
        v: (B, Hv, n, dv).
        positions: (n,) where these keys stand in the sequence.
        mask: for the last queries and these keys.
    """

    k: Tensor
    v: Tensor
    positions: Tensor
    mask: Mask | None


class Cache(ABC):
    """Keys and values by layer; a layer's name is any hashable value."""

    @abstractmethod
    def append(self, layer: Hashable, k: Tensor, v: Tensor) -> None:
        """Add tokens, k (B, Hk, n, d) and v (B, Hv, n, dv), behind those that are there."""

    @abstractmethod
    def attend(
        self,
        layer: Hashable,
        q: Tensor,
        *,
        mask: Mask | None = None,
        bias: Bias | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Return the attention (B, Hq, Nq, dv) of the last Nq tokens, already appended, to all that are kept.

        Args:
            layer: name.
            q: (B, Hq, Nq, d).
            mask: on the whole sequence, such as Causal().
            bias: on the whole sequence.
            scale: as for `zoo_core.attention.attend`.
        """

    @abstractmethod
    def length(self, layer: Hashable) -> int:
        """Return how many tokens were appended, kept or not."""

    @abstractmethod
    def rewind(self, tokens: int) -> None:
        """Take back the last tokens of every layer.

        Raises:
            ValueError: there are not so many, or what they pushed out is gone.
        """

    @abstractmethod
    def fork(self) -> Self:
        """Return a cache with the same content that from now on changes apart."""

    @abstractmethod
    def bytes(self) -> int:
        """Return the bytes of the keys and values that are kept."""

    @abstractmethod
    def reorder(self, index: Tensor) -> None:
        """Let example b go on from example index[b], as a beam search does."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the content."""


@dataclass
class _Kept:
    """Tokens of one layer: the first `count` of these buffers; `shared` if another cache looks at them too."""

    k: Tensor
    v: Tensor
    positions: Tensor
    count: int
    total: int
    shared: bool = False


class DenseCache(Cache):
    """Keeps all tokens, in buffers by layer, which grow by half and are copied when shared."""

    def __init__(self) -> None:
        self._layers: dict[Hashable, _Kept] = {}

    def _evict(self, kept: _Kept) -> None:
        """Drop, before tokens are appended, what no later query will see."""

    def _allowed(self, mask: Mask | None) -> Mask | None:
        """Return the mask on the whole sequence together with what the cache keeps."""
        return mask

    def append(self, layer: Hashable, k: Tensor, v: Tensor) -> None:
        """See `Cache.append`."""
        k, v = k.detach(), v.detach()
        new = k.shape[2]
        if k.shape[:1] + k.shape[2:3] != v.shape[:1] + v.shape[2:3]:
            raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} must have one batch and as many tokens")
        if (known := self._layers.get(layer)) is not None:
            for x, there in ((k, known.k), (v, known.v)):
                if x.shape[:2] != there.shape[:2] or x.shape[3] != there.shape[3]:
                    sizes = f"{tuple(x.shape)} do not continue {tuple(there.shape)}"
                    raise ValueError(f"new keys or values {sizes}: only the number of tokens may differ")
        if layer not in self._layers:
            none = torch.empty(0, dtype=torch.int64, device=k.device)
            self._layers[layer] = _Kept(k[:, :, :0], v[:, :, :0], none, 0, 0)
        kept = self._layers[layer]
        self._evict(kept)
        if kept.count + new > kept.k.shape[2] or kept.shared:
            room = max(kept.count + new, kept.count * 3 // 2)
            for name in ("k", "v"):
                old: Tensor = getattr(kept, name)
                grown = old.new_empty(*old.shape[:2], room, old.shape[3])
                grown[:, :, : kept.count] = old[:, :, : kept.count]
                setattr(kept, name, grown)
            places = kept.positions.new_empty(room)
            places[: kept.count] = kept.positions[: kept.count]
            kept.positions, kept.shared = places, False
        end = kept.count + new
        kept.k[:, :, kept.count : end], kept.v[:, :, kept.count : end] = k, v
        kept.positions[kept.count : end] = torch.arange(kept.total, kept.total + new, device=k.device)
        kept.count, kept.total = end, kept.total + new

    def view(self, layer: Hashable, mask: Mask | None, queries: int) -> View:
        """Return what the last `queries` tokens look at.

        Raises:
            KeyError: nothing was appended to this layer.
            ValueError: there are fewer tokens than queries.
        """
        kept = self._layers[layer]
        if queries > kept.total:
            raise ValueError(f"{queries} queries, but the cache has {kept.total} tokens: append their keys first")
        positions = kept.positions[: kept.count]
        allowed = self._allowed(mask)
        # all keys from the first on are what masks expect; else they are told where keys stand
        if allowed is not None and kept.count < kept.total:
            last = torch.arange(kept.total - queries, kept.total, device=positions.device)
            allowed = Restricted(allowed, last, positions)
        return View(kept.k[:, :, : kept.count], kept.v[:, :, : kept.count], positions, allowed)

    def attend(
        self,
        layer: Hashable,
        q: Tensor,
        *,
        mask: Mask | None = None,
        bias: Bias | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """See `Cache.attend`."""
        k, v, positions, allowed = self.view(layer, mask, q.shape[2])
        total = self.length(layer)
        if bias is not None and k.shape[2] < total:
            if not isinstance(bias, Distance):
                raise ValueError("a bias other than Distance needs all keys: use a DenseCache")
            bias = Placed(bias, torch.arange(total - q.shape[2], total, device=q.device), positions)
        return attend(q, k, v, mask=allowed, bias=bias, scale=scale).out

    def length(self, layer: Hashable) -> int:
        """See `Cache.length`."""
        return self._layers[layer].total if layer in self._layers else 0

    def rewind(self, tokens: int) -> None:
        """See `Cache.rewind`."""
        if tokens < 0:
            raise ValueError(f"rewind({tokens}): the number of tokens to take back is 0 or more")
        for kept in self._layers.values():
            self._check_rewind(kept, tokens)
        for kept in self._layers.values():
            kept.count, kept.total = kept.count - tokens, kept.total - tokens

    def _check_rewind(self, kept: _Kept, tokens: int) -> None:
        if tokens > kept.total:
            raise ValueError(f"rewind({tokens}), but the cache has {kept.total} tokens")

    def fork(self) -> Self:
        """See `Cache.fork`."""
        from copy import copy

        other = copy(self)
        other._layers = {}
        for layer, kept in self._layers.items():
            kept.shared = True
            other._layers[layer] = copy(kept)
        return other

    def bytes(self) -> int:
        """See `Cache.bytes`."""
        return sum(
            kept.count * (x.numel() // max(x.shape[2], 1)) * x.element_size()
            for kept in self._layers.values()
            for x in (kept.k, kept.v)
        )

    def reorder(self, index: Tensor) -> None:
        """See `Cache.reorder`."""
        for kept in self._layers.values():
            kept.k, kept.v, kept.shared = kept.k[index], kept.v[index], False
            kept.positions = kept.positions.clone()

    def state_dict(self) -> dict[str, Any]:
        """See `Cache.state_dict`."""
        return {
            "layers": {
                layer: {
                    "k": kept.k[:, :, : kept.count].clone(),
                    "v": kept.v[:, :, : kept.count].clone(),
                    "positions": kept.positions[: kept.count].clone(),
                    "total": kept.total,
                }
                for layer, kept in self._layers.items()
            }
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Cache.load_state_dict`."""
        self._layers = {
            layer: _Kept(x["k"].clone(), x["v"].clone(), x["positions"].clone(), x["k"].shape[2], x["total"])
            for layer, x in state["layers"].items()
        }


class RingCache(DenseCache):
    """Keeps the first tokens and the last ones: query i sees key j if j < sink or j > i - recent, and the mask agrees.

    Args:
        sink: how many first tokens.
        recent: how many last ones, the query's own among them.
        slack: how many tokens `rewind` can take back after single steps; so many more are kept.

    Raises:
        ValueError: a negative number, or recent is 0.
    """

    def __init__(self, sink: int, recent: int, *, slack: int = 0) -> None:
        if sink < 0 or recent < 1 or slack < 0:
            raise ValueError(f"RingCache(sink={sink}, recent={recent}, slack={slack}): 0 or more, recent 1 or more")
        super().__init__()
        self.sink, self.recent, self.slack = sink, recent, slack

    def _allowed(self, mask: Mask | None) -> Mask | None:
        streaming = Sink(self.sink) | Window(self.recent - 1, None)
        return streaming if mask is None else mask & streaming

    def _evict(self, kept: _Kept) -> None:
        room = self.sink + self.recent - 1 + self.slack
        if kept.count <= room:
            return
        held = torch.cat([torch.arange(self.sink), torch.arange(kept.count - room + self.sink, kept.count)])
        held = held.to(kept.k.device)
        kept.k, kept.v, kept.positions = kept.k[:, :, held], kept.v[:, :, held], kept.positions[held]
        kept.count, kept.shared = room, False

    def _check_rewind(self, kept: _Kept, tokens: int) -> None:
        super()._check_rewind(kept, tokens)
        if kept.count == kept.total:
            return  # nothing was dropped yet
        tail = int(kept.positions[self.sink])
        if tail > max(self.sink, kept.total - tokens - self.recent + 1):
            raise ValueError(f"rewind({tokens}): older tokens are gone; make the ring with slack={tokens} or more")


class HeadCache(Cache):
    """Another cache for every group of key heads, as a plan says: full heads dense, streaming heads in a ring.

    Args:
        parts: key heads and their cache; together all heads, once.

    Raises:
        ValueError: a head is missing or named twice.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], Cache]]) -> None:
        self.parts = [(list(heads), cache) for heads, cache in parts]
        named = sorted(head for heads, _ in self.parts for head in heads)
        if named != list(range(len(named))):
            raise ValueError(f"the groups name the key heads {named}, but must name each one from 0 on once")
        self.heads = len(named)

    def append(self, layer: Hashable, k: Tensor, v: Tensor) -> None:
        """See `Cache.append`."""
        if k.shape[1] != self.heads or v.shape[1] != self.heads:
            raise ValueError(f"{k.shape[1]} key and {v.shape[1]} value heads, but the plan is for {self.heads}")
        for heads, cache in self.parts:
            cache.append(layer, k[:, heads], v[:, heads])

    def attend(
        self,
        layer: Hashable,
        q: Tensor,
        *,
        mask: Mask | None = None,
        bias: Bias | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """See `Cache.attend`: one call for each kind of head."""
        if bias is not None:
            raise ValueError("a cache by heads takes no bias")
        share = q.shape[1] // self.heads
        outs, order = [], []
        for heads, cache in self.parts:
            queries = [head * share + n for head in heads for n in range(share)]
            outs.append(cache.attend(layer, q[:, queries], mask=mask, scale=scale))
            order += queries
        return torch.cat(outs, 1)[:, torch.tensor(order, device=q.device).argsort()]

    def length(self, layer: Hashable) -> int:
        """See `Cache.length`."""
        return self.parts[0][1].length(layer)

    def rewind(self, tokens: int) -> None:
        """See `Cache.rewind`."""
        for _, cache in self.parts:
            cache.fork().rewind(tokens)  # all can, or none does
        for _, cache in self.parts:
            cache.rewind(tokens)

    def fork(self) -> Self:
        """See `Cache.fork`."""
        return type(self)([(heads, cache.fork()) for heads, cache in self.parts])

    def bytes(self) -> int:
        """See `Cache.bytes`."""
        return sum(cache.bytes() for _, cache in self.parts)

    def reorder(self, index: Tensor) -> None:
        """See `Cache.reorder`."""
        for _, cache in self.parts:
            cache.reorder(index)

    def state_dict(self) -> dict[str, Any]:
        """See `Cache.state_dict`."""
        return {"parts": [cache.state_dict() for _, cache in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Cache.load_state_dict`."""
        for (_, cache), part in zip(self.parts, state["parts"], strict=True):
            cache.load_state_dict(part)
