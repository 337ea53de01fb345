"""torch's scaled_dot_product_attention, with biases folded into q and k where that is exact, else in one table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from zoo_core.attention.backends import chunked
from zoo_core.attention.biases import Bias, Distance
from zoo_core.attention.call import Call, Result, grouped

LONG = 1024  # keys from which a table costs more than columns do
# cuDNN's gradient under a mask is NaN where keys end in the middle of its tile (64, 192, ... of them) and all scores of
# a query lie far below 0: PyTorch's issue 196678, of torch 2.11 and later
WITH_GRADIENTS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def refusal(call: Call) -> str:
    """Return why it cannot run a call."""
    return call.unfused()


def needs_table(call: Call) -> bool:
    """Return whether the bias is added as a table: if some summand does not fold, or all are short and fp32.

    fp32 is asked for where digits matter, and a table keeps one more of them than a longer sum.
    """
    if call.bias is None:
        return False
    if call.scale <= 0 or (call.q.dtype == torch.float32 and call.k.shape[2] < LONG):
        return True
    return not all(part.folds(call.q.dtype, causal=call.never_ahead) for part in call.bias.parts())


def with_columns(call: Call, parts: tuple[Bias, ...]) -> Call:
    """Return the call with biases as columns of q and k, whose heads then are the query's; widths in eights."""
    folds = [part.fold(call.pairs, call.q.dtype, scale=call.scale) for part in parts]
    batch, heads = call.q.shape[:2]
    keys, values = call.per_query_head()

    def appended(x: Tensor, columns: list[Tensor]) -> Tensor:
        wider = torch.cat([x, *(c.to(x.dtype).expand(batch, heads, -1, -1) for c in columns)], -1)
        return pad(wider, (0, -wider.shape[-1] % 8))

    own = tuple(range(heads))
    q = appended(call.q, [fold.queries for fold in folds])
    k = appended(keys, [fold.keys for fold in folds])
    return replace(call, q=q, k=k, v=values, key_heads=own, value_heads=own, bias=None)


def run(call: Call) -> Result:
    """Compute a call; lse, if asked for, by a second pass over the scores in blocks."""
    asked, call = call, call.within_reach().without_dead_keys()
    table = call.bias if needs_table(call) else None
    if call.bias is not None and table is None:
        call = with_columns(call, call.bias.parts())
    flag = call.causal and table is None
    keep = empty = added = None
    if call.mask is not None and not flag:
        keep = call.mask.at(call.pairs)
        keep = keep[(None,) * (4 - keep.ndim)]
        empty = ~keep.any(-1, keepdim=True)
        added = keep = keep | empty  # a row without a key sees all, and its output is dropped: nothing divides by zero
    if table is not None:
        added = _near_zero(table.at(call.pairs), keep).to(call.q.dtype)
        added = added[(None,) * (4 - added.ndim)]
        added = added if keep is None else added.masked_fill(~keep, float("-inf"))
        if any(not isinstance(part, Distance) for part in table.parts()):  # a table may forbid pairs by -inf
            barred = added.isneginf().all(-1, keepdim=True)
            added = added.masked_fill(barred, 0)
            empty = barred if empty is None else empty | barred
    k, v = call.k, call.v
    shared = added is None and call.key_heads == call.value_heads == grouped(call.q.shape[1], k.shape[1])
    if not shared:
        k, v = call.per_query_head()
    attention = partial(
        scaled_dot_product_attention,
        attn_mask=added,
        is_causal=flag,
        scale=call.scale,
        enable_gqa=shared and k.shape[1] < call.q.shape[1],
    )
    if added is not None and torch.is_grad_enabled() and any(x.requires_grad for x in (call.q, k, v)):
        with sdpa_kernel(WITH_GRADIENTS):
            out = attention(call.q, k, v)
    else:
        out = attention(call.q, k, v)
    if empty is not None:
        out = out.masked_fill(empty, 0)
    return Result(out, chunked.log_sums(asked) if "lse" in call.need else None)


def _near_zero(table: Tensor, keep: Tensor | None) -> Tensor:
    """Take the largest value off each row, which no softmax sees: the finest numbers of half precision are there."""
    highest = (table if keep is None else table.masked_fill(~keep, float("-inf"))).detach().amax(-1, keepdim=True)
    return table - highest.masked_fill(highest.isinf(), 0)
