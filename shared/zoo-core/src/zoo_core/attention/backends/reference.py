"""The specification: the formulas, in fp32 or wider, on any device, with gradients of any order."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.attention.call import Call, Result


def refusal(call: Call) -> str:
    """Return why it cannot run a call: never."""
    return ""


def scores(call: Call, queries: Tensor, keys: Tensor) -> Tensor:
    """Return scaled, biased and masked scores (B, Hq, R, Nk) of the queries with these indices (R,).

    Args:
        call: the call.
        queries: (R,) indices.
        keys: (B, Hq, Nk, d), a head for every query head.
    """
    pairs = call.pairs_of(queries)
    q = call.q if len(queries) == call.q.shape[2] else call.q[:, :, queries]
    s = (q.to(call.wide) @ keys.to(call.wide).mT) * call.scale
    if call.bias is not None:
        s = s + call.bias.at(pairs).to(s.dtype)
    if "score" in call.edits:
        s = call.edits["score"](s)
    if call.mask is not None:
        # after the edit: no edit lets a query see what it may not
        s = s.masked_fill(~call.mask.at(pairs), float("-inf" if call.normalise == "softmax" else 0))
    return s


def attend_rows(call: Call, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return out (B, Hq, R, dv), lse (B, Hq, R) and weights (B, Hq, R, Nk) of some queries, in wide types."""
    s = scores(call, queries, keys)
    if call.normalise == "none":
        weights, lse = s, s.new_full(s.shape[:-1], float("nan"))
    else:
        least = torch.finfo(s.dtype).min  # a row of -inf minus -inf would be NaN
        top = s.detach().amax(-1, keepdim=True).clamp(min=least) if s.shape[-1] else s.new_zeros(*s.shape[:-1], 1)
        grown = (s - top).exp()
        total = grown.sum(-1, keepdim=True)
        empty = total == 0
        safe = torch.where(empty, 1.0, total)
        weights = grown / safe
        lse = torch.where(empty, float("-inf"), top + safe.log()).squeeze(-1)
    if "weight" in call.edits:
        weights = call.edits["weight"](weights)
    return weights @ values.to(weights.dtype), lse, weights


def run(call: Call) -> Result:
    """Compute a call with all its scores at once."""
    call = call.without_dead_keys()
    keys, values = call.per_query_head()
    out, lse, weights = attend_rows(call, torch.arange(call.q.shape[2], device=call.q.device), keys, values)
    aux = {"weights": weights} if "weights" in call.need else {}
    return Result(out.to(call.v.dtype), lse if "lse" in call.need else None, aux)
