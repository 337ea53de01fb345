"""Attention as one function, and the choice of who computes it."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

from torch import Tensor

from zoo_core.attention.biases import Bias
from zoo_core.attention.call import Call, Normalise, Result, make_call
from zoo_core.attention.masks import Mask
from zoo_core.errors import UsageError

Backend = Literal["auto", "reference", "chunked", "sdpa"]
BACKENDS = ("reference", "chunked", "sdpa")
LONG = 1024  # tokens below which a table of scores is faster than skipping parts of it (measured on an H200)


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
) -> Result:
    """Return softmax(scale q k^T + bias, over the keys that the mask allows) v.

    A row without an allowed key gives out 0, lse -inf and gradients 0. What no query may see is not read: NaN in
    padding stays there.

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

    Raises:
        ValueError: shapes do not fit.
        TypeError: a float tensor as mask, a bool one as bias.
        UsageError: the named backend cannot run this call.
    """
    call = make_call(q, k, v, scale=scale, mask=mask, bias=bias, kv_map=kv_map, normalise=normalise, need=need)
    return run(call, backend)


def run(call: Call, backend: str) -> Result:
    """Run a checked call."""
    if backend == "auto":
        backend = choose(call)[0]
    elif why := refusal(backend, call):
        raise UsageError(f"The attention backend {backend!r} cannot run this call: {why}.", f"Use {choose(call)[0]!r}.")
    module: Any = import_module(f"zoo_core.attention.backends.{backend}")
    result: Result = module.run(call)
    return result


def refusal(backend: str, call: Call) -> str:
    """Return why a backend cannot run a call, or ""."""
    if backend not in BACKENDS:
        return f"there is none of that name; known are {', '.join(BACKENDS)}"
    module: Any = import_module(f"zoo_core.attention.backends.{backend}")
    return str(module.refusal(call))


def choose(call: Call) -> tuple[str, str]:
    """Return the backend for a call and the reason."""
    if not refusal("sdpa", call):
        return "sdpa", "a fused kernel"
    if not refusal("chunked", call):
        return "chunked", f"no fused kernel: {refusal('sdpa', call)}"
    return "reference", f"all scores are needed: {refusal('chunked', call)}"
