"""CTC on CUDA: a program walks one line, all its states side by side; neighbours are exchanged through memory.

Every step a program writes its row, waits for its own threads, and reads the row shifted by one and by two.
"""

# Triton's language has no type annotations of its own for what a kernel takes.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zoo_core.kernels.ctc import reference

WARPS = 4


@triton.jit
def _add(a, b, c):
    """log(exp a + exp b + exp c), also where all are -inf."""
    most = tl.maximum(a, tl.maximum(b, c))
    nothing = most == -float("inf")
    safe = tl.where(nothing, 0.0, most)
    total = tl.exp(a - safe) + tl.exp(b - safe) + tl.exp(c - safe)
    return tl.where(nothing, most, safe + tl.log(tl.where(nothing, 1.0, total)))


@triton.jit
def _alpha(log_probs, labels, frames, lengths, alpha, loss, T, V, L, blank, S: tl.constexpr):
    line = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, S)
    j = s // 2
    count = tl.load(lengths + line)
    last = tl.load(frames + line) - 1
    exists = s < 2 * count + 1
    letter = exists & (s % 2 == 1)
    symbol = tl.load(labels + line * L + j, mask=letter, other=blank)
    before = tl.load(labels + line * L + j - 1, mask=letter & (j > 0), other=-1)
    skips = letter & (j > 0) & (symbol != before)
    probs = log_probs + line * T * V + symbol
    rows = alpha + line * T * S
    row = tl.load(probs, mask=exists & (s < 2), other=-float("inf"))
    tl.store(rows + s, row)
    for t in range(1, last + 1):
        tl.debug_barrier()
        one = tl.load(rows + (t - 1) * S + s - 1, mask=s > 0, other=-float("inf"))
        two = tl.load(rows + (t - 1) * S + s - 2, mask=skips, other=-float("inf"))
        emitted = tl.load(probs + t * V, mask=exists, other=-float("inf"))
        row = _add(row, one, two) + emitted
        tl.store(rows + t * S + s, row)
    ends = tl.where(exists & (s >= 2 * count - 1), row, -float("inf"))
    most = tl.max(ends, 0)
    reached = most > -float("inf")
    total = tl.sum(tl.exp(ends - tl.where(reached, most, 0.0)), 0)
    tl.store(loss + line, tl.where(reached, -(most + tl.log(tl.where(reached, total, 1.0))), float("inf")))


@triton.jit
def _posterior(log_probs, labels, frames, lengths, alpha, loss, scratch, posterior, T, V, L, blank, S: tl.constexpr):
    line = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, S)
    j = s // 2
    count = tl.load(lengths + line)
    last = tl.load(frames + line) - 1
    nll = tl.load(loss + line)
    exists = s < 2 * count + 1
    letter = exists & (s % 2 == 1)
    symbol = tl.load(labels + line * L + j, mask=letter, other=blank)
    after = tl.load(labels + line * L + j + 1, mask=letter & (j + 1 < count), other=-1)
    skips = letter & (j + 1 < count) & (symbol != after)
    probs = log_probs + line * T * V + symbol
    rows = alpha + line * T * S
    row = tl.where(exists & (s >= 2 * count - 1), 0.0, -float("inf"))
    shown = tl.exp(tl.load(rows + last * S + s) + row + nll)
    tl.store(posterior + line * T * S + last * S + s, tl.where(exists, shown, 0.0))
    for step in range(1, last + 1):
        t = last - step
        row += tl.load(probs + (t + 1) * V, mask=exists, other=-float("inf"))
        # two rows in turns: nobody writes into the one that others may still be reading
        buffer = scratch + (2 * line + step % 2) * S
        tl.store(buffer + s, row)
        tl.debug_barrier()
        one = tl.load(buffer + s + 1, mask=s + 1 < S, other=-float("inf"))
        two = tl.load(buffer + s + 2, mask=skips, other=-float("inf"))
        row = _add(row, one, two)
        shown = tl.exp(tl.load(rows + t * S + s) + row + nll)
        tl.store(posterior + line * T * S + t * S + s, tl.where(exists, shown, 0.0))


def forward(log_probs: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """See `zoo_core.kernels.ctc.reference.forward`; alpha has a power of two of states, and is undefined beyond a line.

    Raises:
        ValueError: log_probs is not float32 and contiguous.
    """
    log_probs, labels = _checked(log_probs), labels.contiguous()
    batch, time, symbols = log_probs.shape
    width = reference.states(labels, padded=True)
    alpha = log_probs.new_empty(batch, time, width)
    loss = log_probs.new_empty(batch)
    _alpha[(batch,)](
        log_probs, labels, frames, lengths, alpha, loss, time, symbols, labels.shape[1], blank,
        S=width, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    return loss, alpha


def backward(
    gradient: Tensor,
    log_probs: Tensor,
    labels: Tensor,
    frames: Tensor,
    lengths: Tensor,
    loss: Tensor,
    alpha: Tensor,
    blank: int,
) -> Tensor:
    """See `zoo_core.kernels.ctc.reference.backward`."""
    log_probs, labels = _checked(log_probs), labels.contiguous()
    batch, time, symbols = log_probs.shape
    width = alpha.shape[2]
    posterior = torch.zeros_like(alpha)
    # a line that has no alignment has no posterior either: e to the -inf, whatever is added
    loss = torch.where(loss.isfinite(), loss, 0.0)
    _posterior[(batch,)](
        log_probs, labels, frames, lengths, alpha, loss, alpha.new_empty(batch, 2, width), posterior,
        time, symbols, labels.shape[1], blank, S=width, num_warps=WARPS, num_stages=1,
    )  # fmt: skip
    return reference.gathered(posterior, labels, blank, symbols) * -gradient[:, None, None]


def _checked(log_probs: Tensor) -> Tensor:
    if log_probs.dtype != torch.float32:
        raise ValueError(f"log_probs is {log_probs.dtype}: this kernel computes in float32")
    return log_probs.contiguous()
