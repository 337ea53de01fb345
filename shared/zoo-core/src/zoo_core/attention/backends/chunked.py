"""The reference in blocks of queries: memory for `BLOCK` rows of scores, in training too, where rows are redone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zoo_core.attention.backends import reference
from zoo_core.attention.call import Call, Result

T = TypeVar("T")
BLOCK = 256


def refusal(call: Call) -> str:
    """Return why it cannot run a call."""
    if "weights" in call.need or "weight" in call.edits or "score" in call.edits:
        return "it never holds all scores at once"
    return ""


def run(call: Call) -> Result:
    """Compute a call block by block."""
    call = call.without_dead_keys()
    keys, values = call.per_query_head()

    def rows(queries: Tensor) -> tuple[Tensor, Tensor]:
        out, lse, _ = reference.attend_rows(call, queries, keys, values)
        return out, lse

    parts = _blocks(call, rows)
    out, lse = (torch.cat(list(part), dim=2) for part in zip(*parts, strict=True))
    return Result(out.to(call.v.dtype), lse if "lse" in call.need else None)


def log_sums(call: Call) -> Tensor:
    """Return lse (B, Hq, Nq) alone: half the products of the whole."""
    keys, _ = call.without_dead_keys().per_query_head()

    def rows(queries: Tensor) -> Tensor:
        s = reference.scores(call, queries, keys)
        empty = torch.isneginf(s).all(-1, keepdim=True)
        return torch.where(empty, 0.0, s).logsumexp(-1).masked_fill(empty.squeeze(-1), float("-inf"))

    return torch.cat(_blocks(call, rows), dim=2)


def row_blocks(call: Call) -> list[Tensor]:
    """Return the indices of all queries in blocks; one empty block if there is none."""
    count = call.q.shape[2]
    starts = range(0, max(count, 1), BLOCK)
    return [torch.arange(start, min(start + BLOCK, count), device=call.q.device) for start in starts]


def _blocks(call: Call, rows: Callable[[Tensor], T]) -> list[T]:
    """Apply a function of indices of queries to all of them, block by block."""
    blocks = row_blocks(call)
    if call.grad and len(blocks) > 1:
        return [checkpoint(rows, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return [rows(block) for block in blocks]
