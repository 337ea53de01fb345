"""CTC: the loss a line, and the plainest reading of what the network gives."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from zoo_htr.alphabet import BLANK, Alphabet
from zoo_htr.reading import Char, Reading

ALTERNATIVES = 3


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


def greedy(log_probs: Tensor, alphabet: Alphabet) -> Reading:
    """Read the likeliest symbol of each frame: repeats are one symbol, blanks none.

    A symbol's confidence is the mean of its posterior over its frames, the line's the geometric mean over symbols (of
    an empty line: the mean posterior of the blank); not calibrated. The score is that of the one best path, a lower
    bound of the text's.

    Args:
        log_probs: (T, V) log-softmax of one line.
        alphabet: V symbols.
    """
    best, symbols = log_probs.detach().float().cpu().max(dim=1)
    top = log_probs.detach().float().cpu().topk(min(ALTERNATIVES + 2, log_probs.shape[1]), dim=1)
    path, chars, logs, start = symbols.tolist(), [], [], 0
    for end in range(1, len(path) + 1):
        if end < len(path) and path[end] == path[start]:
            continue
        if path[start] != BLANK:
            own = best[start:end]
            peak = start + int(own.argmax())
            others = zip(top.indices[peak].tolist(), top.values[peak].exp().tolist(), strict=True)
            alternatives = [(alphabet.symbols[i], p) for i, p in others if i not in (BLANK, path[start])]
            confidence = float(own.exp().mean())
            logs.append(math.log(max(confidence, 1e-9)))
            chars.append(
                Char(alphabet.symbols[path[start]], confidence, start, end, tuple(alternatives[:ALTERNATIVES]))
            )
        start = end
    if not logs:
        logs = [math.log(float(best.exp().mean()))] if path else [0.0]
    sure = math.exp(sum(logs) / len(logs))
    return Reading(tuple(chars), sure, float(best.sum()))
