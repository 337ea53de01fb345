"""CTC: the loss a line."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from zoo_htr.alphabet import BLANK


def frames_needed(label: list[int]) -> int:
    """Return the least number of frames that can show a label: its length, and a blank between equal neighbours."""
    return len(label) + sum(a == b for a, b in pairwise(label))


def ctc_loss(logits: Tensor, frames: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """Return -log p(label) a symbol of the label, (B,) float32, in nats (Graves et al., 2006).

    Infinite where a line has fewer frames than `frames_needed`: such lines are to be sorted out before.

    Args:
        logits: (B, T, V), any floating type; computed in float32.
        frames: (B,) int64, how many of the T count.
        labels: (B, L) int64, padded with anything.
        lengths: (B,) int64, how many of the L count; 0 for an empty line.
    """
    with torch.autocast(logits.device.type, enabled=False):
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_probs = wide.log_softmax(2).transpose(0, 1)
        loss = functional.ctc_loss(log_probs, labels, frames, lengths, blank=BLANK, reduction="none")
        return loss / lengths.clamp_min(1)
