"""What every key head of every layer may see, as data: a plan becomes masks and caches.

A file (`zoo-attn-plan/1`) is JSON: {"schema": ..., "made_by": ..., "layers": [{"heads": [{"kind": "stream", "sink": 64,
"recent": 256}, {"kind": "full"}, ...]}, ...]}. Query heads that share a key head share its plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_core.attention.atoms import Sink, Window
from zoo_core.attention.cache import Cache, DenseCache, HeadCache, RingCache
from zoo_core.attention.masks import Mask, PerHead
from zoo_core.errors import InputError
from zoo_core.io.atomic import whole

SCHEMA = "zoo-attn-plan/1"
MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Head:
    """What one key head sees of what the mask of the call allows.

    Args:
        kind: full: all; stream: the first `sink` and the last `recent` tokens; off: nothing.
        sink: of a streaming head.
        recent: of a streaming head, the query's own among them.

    Raises:
        ValueError: another kind, or numbers that do not go with it.
    """

    kind: str = "full"
    sink: int = 0
    recent: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("full", "stream", "off"):
            raise ValueError(f"the kind of a head is {self.kind!r}, but must be full, stream or off")
        if (self.kind == "stream") != (self.recent > 0) or self.sink < 0:
            raise ValueError(f"{self}: a streaming head has recent 1 or more and sink 0 or more, others have neither")

    def mask(self) -> Mask:
        """Return the mask, to be joined with that of the call."""
        if self.kind == "full":
            return Window(None, None)
        return Sink(self.sink) | Window(self.recent - 1, None) if self.kind == "stream" else Sink(0)

    def pairs(self, tokens: int) -> int:
        """Return how many pairs of `tokens` tokens it sees, of tokens (tokens + 1) / 2 causal ones."""
        if self.kind != "stream":
            return tokens * (tokens + 1) // 2 if self.kind == "full" else 0
        short = min(tokens, self.sink + self.recent)
        return short * (short + 1) // 2 + (tokens - short) * (self.sink + self.recent)


@dataclass(frozen=True)
class Plan:
    """Plans of all key heads, layer by layer.

    Args:
        layers: for each layer its key heads.
        made_by: how it was found.
    """

    layers: tuple[tuple[Head, ...], ...]
    made_by: str = ""

    def check(self, layers: int, heads: int) -> None:
        """Compare with a model.

        Raises:
            ValueError: the model has other numbers of layers or key heads.
        """
        mine = f"{len(self.layers)} layers of {sorted({len(layer) for layer in self.layers})} key heads"
        if len(self.layers) != layers or any(len(layer) != heads for layer in self.layers):
            raise ValueError(f"the plan is for {mine}, the model has {layers} layers of {heads}")

    def mask(self, layer: int, query_heads: int) -> PerHead:
        """Return the mask of a layer, one entry a query head, to be joined with `&` to that of the call.

        Raises:
            ValueError: key heads do not divide the query heads.
        """
        heads = self.layers[layer]
        if query_heads % len(heads):
            raise ValueError(f"{query_heads} query heads cannot share the plan of {len(heads)} key heads evenly")
        return PerHead([head.mask() for head in heads for _ in range(query_heads // len(heads))])

    def cache(self, layer: int) -> HeadCache:
        """Return an empty cache for one layer, heads of equal plans together."""
        groups: dict[Head, list[int]] = {}
        for number, head in enumerate(self.layers[layer]):
            groups.setdefault(head, []).append(number)
        parts: list[tuple[Sequence[int], Cache]] = []
        for head, numbers in groups.items():
            if head.kind == "off":
                raise ValueError("a head that is off keeps nothing and needs no cache: drop it from the model")
            parts.append((numbers, DenseCache() if head.kind == "full" else RingCache(head.sink, head.recent)))
        return HeadCache(parts)

    def density(self, tokens: int) -> float:
        """Return the share of the causal pairs of so many tokens that all heads together see."""
        heads = [head for layer in self.layers for head in layer]
        return sum(head.pairs(tokens) for head in heads) / (len(heads) * tokens * (tokens + 1) / 2)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of a plan file."""
        rows = [{"heads": [_plain(head) for head in layer]} for layer in self.layers]
        return {"schema": SCHEMA, "made_by": self.made_by, "layers": rows}

    def save(self, path: Path) -> None:
        """Write a plan file, whole or not at all; an existing one is not replaced."""
        with whole(path) as aside:
            aside.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")


def _plain(head: Head) -> dict[str, Any]:
    return {"kind": head.kind, **({"sink": head.sink, "recent": head.recent} if head.kind == "stream" else {})}


def open_plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        InputError: it is no plan.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has more than {MOST_BYTES >> 20} MiB.", "No plan is that large.")
        data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']!r}")
        layers = tuple(tuple(Head(**head) for head in layer["heads"]) for layer in data["layers"])
        return Plan(layers, str(data.get("made_by", "")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no attention plan: {error}.", f"It should be JSON of schema {SCHEMA}.") from error
