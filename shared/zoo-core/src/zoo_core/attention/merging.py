"""Attention over parts of the keys, put together: exact, whoever computed the parts, on whatever machine."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zoo_core.attention.call import Result


def merge(parts: Sequence[Result]) -> Result:
    """Return attention over all keys from attention over disjoint parts of them.

    out = sum_p exp(lse_p - lse) out_p, lse = log sum_p exp(lse_p); a part without a key for some row takes no share.

    Args:
        parts: of one set of queries, each with out (B, H, Nq, dv) and lse (B, H, Nq).

    Raises:
        ValueError: there is no part, or one without lse.
    """
    sums = [part.lse for part in parts]
    if not sums or any(lse is None for lse in sums):
        raise ValueError("merge needs at least one part, and each with its lse: ask for need=('out', 'lse')")
    stacked = torch.stack([lse for lse in sums if lse is not None])
    empty = stacked.isneginf()
    nowhere = empty.all(0)
    finite = torch.where(empty & nowhere, 0.0, stacked)  # logsumexp of nothing but -inf has no gradient
    total = finite.logsumexp(0)
    shares = torch.where(empty, 0.0, (stacked.masked_fill(empty, 0.0) - total).exp())
    out = (shares[..., None] * torch.stack([part.out for part in parts]).to(shares.dtype)).sum(0)
    return Result(out.to(parts[0].out.dtype), total.masked_fill(nowhere, float("-inf")))
