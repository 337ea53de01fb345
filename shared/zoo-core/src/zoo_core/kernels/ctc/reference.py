"""CTC in plain PyTorch: the recursions of Graves et al. (2006), equations 6 to 11 and 14, in logarithms.

States of a line: blank, first label, blank, second label, ..., blank; S = 2 L + 1 of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def states(labels: Tensor, *, padded: bool = False) -> int:
    """Return S for labels (B, L), or the next power of two, which kernels work on."""
    count = 2 * labels.shape[1] + 1
    return 1 << (count - 1).bit_length() if padded else count


def _lines(labels: Tensor, lengths: Tensor, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the symbol of each state (B, S), which states exist, and which may be entered from two states before."""
    symbols = labels.new_full((len(labels), states(labels)), blank)
    symbols[:, 1::2] = labels
    place = torch.arange(symbols.shape[1], device=labels.device)
    exists = place < 2 * lengths[:, None] + 1
    before = functional.pad(symbols, (2, 0), value=-1)[:, :-2]
    return symbols, exists, exists & (place % 2 == 1) & (place > 1) & (symbols != before)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Return x (B, S) moved to the right (by > 0) or left (by < 0), with -inf coming in."""
    padded = functional.pad(x, (max(by, 0), max(-by, 0)), value=-math.inf)
    return padded[:, max(-by, 0) :][:, : x.shape[1]]


def _sum(*terms: Tensor) -> Tensor:
    return torch.stack(terms).logsumexp(0)


def forward(log_probs: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Return the loss (B,) and alpha (B, T, S): log p(of all ways to be in a state at a frame); -inf beyond a line."""
    symbols, exists, skips = _lines(labels, lengths, blank)
    emitted = log_probs.gather(2, symbols[:, None].expand(-1, log_probs.shape[1], -1))
    begins = exists & (torch.arange(symbols.shape[1], device=labels.device) < 2)
    row = torch.where(begins, emitted[:, 0], -math.inf)
    rows = [row]
    for t in range(1, log_probs.shape[1]):
        two = torch.where(skips, _shifted(row, 2), -math.inf)
        moved = _sum(row, _shifted(row, 1), two) + emitted[:, t]
        row = torch.where(exists & (t < frames)[:, None], moved, -math.inf)
        rows.append(row)
    alpha = torch.stack(rows, dim=1)
    last = alpha[torch.arange(len(alpha), device=alpha.device), frames - 1]
    ends = last.gather(1, 2 * lengths[:, None])[:, 0]
    before = last.gather(1, (2 * lengths[:, None] - 1).clamp_min(0))[:, 0]
    return -torch.where(lengths > 0, torch.logaddexp(ends, before), ends), alpha


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
    """Return d loss / d log_probs times `gradient`: minus the posterior of each symbol at each frame (B, T, V)."""
    symbols, exists, skips = _lines(labels, lengths, blank)
    emitted = log_probs.gather(2, symbols[:, None].expand(-1, log_probs.shape[1], -1))
    place = torch.arange(symbols.shape[1], device=labels.device)
    ends = exists & (place >= 2 * lengths[:, None] - 1)
    skipped = functional.pad(skips, (0, 2))[:, 2:]  # whether one may go on to the state after next
    row = torch.full_like(alpha[:, 0], -math.inf)
    rows = []
    for t in reversed(range(log_probs.shape[1])):
        if t + 1 < log_probs.shape[1]:
            ahead = row + emitted[:, t + 1]
            row = _sum(ahead, _shifted(ahead, -1), torch.where(skipped, _shifted(ahead, -2), -math.inf))
        row = torch.where((frames == t + 1)[:, None], torch.where(ends, 0.0, -math.inf), row)
        row = torch.where(exists & (t < frames)[:, None], row, -math.inf)
        rows.append(row)
    beta = torch.stack(rows[::-1], dim=1)
    posterior = torch.where(loss.isfinite()[:, None, None], (alpha + beta + loss[:, None, None]).exp(), 0.0)
    return gathered(posterior, labels, blank, log_probs.shape[2]) * -gradient[:, None, None]


def gathered(posterior: Tensor, labels: Tensor, blank: int, symbols: int) -> Tensor:
    """Add up the states (B, T, S) of each symbol: (B, T, V). A product, as a scatter would add in changing order."""
    ahead = posterior[:, :, 1::2][:, :, : labels.shape[1]]
    total = ahead @ functional.one_hot(labels, symbols).to(posterior.dtype)
    total[:, :, blank] += posterior[:, :, 0::2].sum(2)
    return total
