"""Attention as one function, and the choice of who computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from zoo_core.attention.backends import band, chunked, flex, reference, sdpa
from zoo_core.attention.biases import Bias
from zoo_core.attention.call import Call, Normalise, Result, make_call
from zoo_core.attention.masks import EMPTY, TILE, Mask
from zoo_core.attention.values import merged
from zoo_core.errors import UsageError

Backend = Literal["auto", "reference", "chunked", "sdpa", "flex", "band"]
# imported above: torch.compile breaks its graph at an import
_MODULES: dict[str, Any] = {"reference": reference, "chunked": chunked, "sdpa": sdpa, "flex": flex, "band": band}
BACKENDS = tuple(_MODULES)
LONG = 1024  # keys below which torch's SDPA with a table wins over skipping tiles, by 3 to 5 times on an H200
SPARSE = 0.5  # share of tiles in use above which skipping the others does not pay
TABLE_BYTES = 1 << 30  # largest table of a mask or bias that is built unasked
RATES = {"cuda": (790e12, 4.3e12)}  # bf16 operations and bytes a second, measured on one H200


def attend(
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
    strict: bool = False,
) -> Result:
    """Return softmax(scale q k^T + bias, over the keys that the mask allows) v.

    A row without an allowed key gives out 0, lse -inf and gradients 0. A key that no query may see, in no head that
    shares it, is not read: NaN in padding stays there. NaN in a key that some query sees may reach the others, as 0
    times NaN is NaN.

    Args:
        q: (B, Hq, Nq, d).
        k: (B, Hk, Nk, d).
        v: (B, Hv, Nk, dv); Hk and Hv may differ from Hq and from each other.
        scale: default d^-1/2.
        mask: which pairs exist, a mask or a bool tensor that broadcasts to (B, Hq, Nq, Nk), True = may attend. Query i
            stands at position i + Nk - Nq.
        bias: added to the scaled scores, a bias or a floating tensor of such a shape.
        kv_map: key head and value head of every query head; default neighbours share, h Hk // Hq.
        normalise: softmax, or none: masked scores times v.
        need: out, lse (natural logarithm, of scaled, biased, masked scores), weights (Nq x Nk of them).
        backend: who computes; auto chooses as `explain` says. A named one that cannot refuses.
        strict: refuse rows without an allowed key, which needs lse and waits for the device.

    Raises:
        ValueError: shapes do not fit; with `strict`, a row has no key: says which.
        TypeError: a float tensor as mask, a bool one as bias.
        UsageError: the named backend cannot run this call.
    """
    wanted = (*need, "lse") if strict else need
    call = make_call(q, k, v, scale=scale, mask=mask, bias=bias, kv_map=kv_map, normalise=normalise, need=wanted)
    result = run(call, backend)
    if strict and result.lse is not None and len(empty := result.lse.isneginf().nonzero()):
        b, h, i = empty[0].tolist()
        raise ValueError(
            f"{len(empty)} rows have no key that they may see; the first is query {i}, head {h}, example {b}"
        )
    return result if "lse" in need else result._replace(lse=None)


def run(call: Call, backend: Backend = "auto") -> Result:
    """Run a checked call.

    Raises:
        UsageError: the named backend cannot run it.
    """
    name: str = backend
    if backend == "auto":
        name = choose(call)[0]
    elif why := refusal(backend, call):
        raise UsageError(f"The attention backend {backend!r} cannot run this call: {why}.", f"Use {choose(call)[0]!r}.")
    result: Result = _MODULES[name].run(call)
    return result


def refusal(backend: str, call: Call) -> str:
    """Return why a backend cannot run a call, or ""."""
    if backend not in BACKENDS:
        return f"there is none of that name; known are {', '.join(BACKENDS)}"
    return str(_MODULES[backend].refusal(call))


def choose(call: Call) -> tuple[str, str]:
    """Return the backend for a call and the reason; what wins was measured, see docs/attention.md."""
    if refusal("chunked", call):
        return "reference", f"scores are needed as a whole: {refusal('chunked', call)}"
    if why := refusal("sdpa", call):
        return "chunked", f"no fused kernel: {why}"
    table = table_bytes(call)
    tabled = call.mask is not None and call.mask.shape[2] > 1  # given row by row: nothing is saved by reading tiles
    if call.device.type == "cuda" and table and not tabled and call.k.shape[2] >= LONG:
        share = density(call.mask, call.q.shape[2], call.k.shape[2])
        if share < SPARSE and call.q.element_size() == 2 and not refusal("band", call):
            return "band", f"a band with {share:.0%} of the tiles"
        if share < SPARSE and not refusal("flex", call):
            return "flex", f"{share:.0%} of the tiles are in use"
        if table > TABLE_BYTES and not refusal("flex", call):
            return "flex", f"a table would take {table / 2**30:.1f} GiB"
    if table > TABLE_BYTES:
        return "chunked", f"a table would take {table / 2**30:.1f} GiB"
    return "sdpa", "a fused kernel" + (", with a table of mask and bias" if table else "")


def table_bytes(call: Call) -> int:
    """Return the bytes of the table that SDPA would read for mask and bias; 0 if it needs none."""
    table = call.bias if sdpa.needs_table(call) else None
    if table is None and (call.mask is None or call.causal):
        return 0
    shape = merged(*(value.shape for value in (call.mask, table) if value is not None))
    one_row = table is None and call.mask is not None and call.mask.keys_only
    rows = 1 if one_row else call.q.shape[2]
    return shape[0] * shape[1] * rows * call.k.shape[2] * (1 if table is None else call.q.element_size())


@lru_cache(maxsize=256)
def density(mask: Mask | None, queries: int, keys: int) -> float:
    """Return the share of tiles in which some pair may exist."""
    if mask is None:
        return 1.0
    return float((mask.grid(queries, keys, TILE, TILE) != EMPTY).float().mean())


@dataclass(frozen=True)
class Explanation:
    """Why a call is computed as it is, and what it costs at least.

    Args:
        backend: the one that `auto` takes.
        reason: why.
        refused: the others that cannot, and why.
        density: share of tiles of 128 x 128 in which some pair may exist.
        flops: of one forward pass, for these tiles.
        moved_bytes: q, k, v read once and out written once.
        floor_seconds: the larger of both over the rates of one H200; None elsewhere.
    """

    backend: str
    reason: str
    refused: Mapping[str, str]
    density: float
    flops: int
    moved_bytes: int
    floor_seconds: float | None

    def __str__(self) -> str:
        lines = [f"{self.backend}: {self.reason}"]
        lines += [f"not {name}: {why}" for name, why in self.refused.items()]
        floor = "" if self.floor_seconds is None else f", at least {self.floor_seconds * 1e6:.0f} us on one H200"
        lines.append(
            f"{self.density:.0%} of the tiles, {self.flops / 1e9:.3g} GFLOP, {self.moved_bytes / 1e6:.3g} MB{floor}"
        )
        return "\n".join(lines)


def explain(
    q_shape: Sequence[int],
    k_shape: Sequence[int],
    *,
    v_shape: Sequence[int] | None = None,
    mask: Mask | None = None,
    bias: Bias | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    grad: bool = False,
    need: tuple[str, ...] = ("out",),
) -> Explanation:
    """Say who would compute a call, why the others would not, and the least it costs.

    Args:
        q_shape: (B, Hq, Nq, d).
        k_shape: (B, Hk, Nk, d).
        v_shape: (B, Hv, Nk, dv), default k's.
        mask: as for `attend`.
        bias: as for `attend`.
        dtype: of q, k and v.
        device: where; need not exist here.
        grad: whether gradients will be asked for.
        need: as for `attend`.

    Raises:
        ValueError: shapes do not fit.
    """
    q, k, v = (torch.empty(tuple(s), dtype=dtype, device="meta") for s in (q_shape, k_shape, v_shape or k_shape))
    call = make_call(q, k, v, scale=None, mask=mask, bias=bias, kv_map=None, normalise="softmax", need=need)
    call = replace(call, device=torch.device(device), grad=grad)
    backend, reason = choose(call)
    refused = {name: why for name in BACKENDS if name != backend and (why := refusal(name, call))}
    share = density(call.mask, q.shape[2], k.shape[2]) if 0 not in (q.shape[2], k.shape[2]) else 0.0
    flops = round(2 * share * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * (q.shape[3] + v.shape[3]))
    out = prod((*q.shape[:3], v.shape[3]))
    moved = (q.numel() + k.numel() + v.numel() + out) * dtype.itemsize
    floor = None
    if call.device.type in RATES:
        operations, copied = RATES[call.device.type]
        floor = max(flops / operations, moved / copied)
    return Explanation(backend, reason, refused, share, flops, moved, floor)
