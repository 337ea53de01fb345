"""Our own kernel for bands with decay, on CUDA; see `zoo_core.kernels.band`. It is taken by name only."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from zoo_core.attention.atoms import Causal, Padding, Window
from zoo_core.attention.biases import Distance
from zoo_core.attention.call import Call, Result, grouped
from zoo_core.attention.masks import And, Mask

WIDEST = 256


class _Band(NamedTuple):
    """Keys before and after the query, None for all, and lengths of the examples."""

    left: int | None = None
    right: int | None = None
    padding: Padding | None = None

    def meet(self, other: _Band) -> _Band | None:
        """Return the pairs of both, or None for two paddings."""
        if self.padding is not None and other.padding is not None:
            return None

        def least(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else min(a, b)

        return _Band(least(self.left, other.left), least(self.right, other.right), self.padding or other.padding)


def _band_of(mask: Mask | None) -> _Band | None:
    if mask is None:
        return _Band()
    if isinstance(mask, Window):
        return _Band(mask.left, mask.right)
    if isinstance(mask, Causal) and mask.offset == 0:
        return _Band(right=0)
    if isinstance(mask, Padding):
        return _Band(padding=mask)
    if isinstance(mask, And):
        left, right = _band_of(mask.left), _band_of(mask.right)
        return left.meet(right) if left is not None and right is not None else None
    return None


def refusal(call: Call) -> str:
    """Return why it cannot run a call."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if call.device.type != "cuda":
        return "it needs CUDA"
    if why := call.unfused():
        return why
    if call.shift != 0:
        return "it needs as many queries as keys"
    if call.q.dtype == torch.float64 or max(call.q.shape[3], call.v.shape[3]) > WIDEST:
        return f"it computes in fp32 or less, with heads of width {WIDEST} at most"
    if not call.key_heads == call.value_heads == grouped(call.q.shape[1], call.k.shape[1]):
        return "neighbouring query heads must share one key and value head"
    if _band_of(call.mask) is None:
        return "the mask is no Window, Causal and Padding joined by &"
    if call.bias is not None and not (isinstance(call.bias, Distance) and call.bias.kind == "laplace"):
        return "the only bias that it knows is Distance('laplace')"
    return ""


def run(call: Call) -> Result:
    """Compute a call."""
    from zoo_core.kernels.band import band

    edges = _band_of(call.mask) or _Band()
    tokens, heads = call.q.shape[2], call.q.shape[1]
    lam: Tensor = torch.zeros(heads, device=call.device)
    mu = None
    if isinstance(call.bias, Distance):
        lam, mu = call.bias.lam.expand(heads), call.bias.mu
        mu = mu if mu is None else mu.expand(heads)
    out, lse = band(
        call.q,
        call.k,
        call.v,
        lam,
        mu,
        left=tokens if edges.left is None else edges.left,
        right=tokens if edges.right is None else edges.right,
        lengths=None if edges.padding is None else edges.padding.lengths.on(call.device).expand(len(call.q)),
        scale=call.scale,
    )
    return Result(out, lse if "lse" in call.need else None)
