"""Distillation of networks that are trained by CTC: frame by frame, and by whole sequences (distill spec 4.8).

Logits are (B, T, V), the mask (B, T) is True on the frames of a line, and both networks have one stride: frames that
do not stand for the same columns of the image cannot be compared.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.distill.losses.reduce import same_shape, wide
from zoo_core.errors import UsageError
from zoo_core.kernels.ctc import ctc as kernel

Frames = Literal["uniform", "no_blank", "neighbourhood", "soft"]
UNREACHABLE = -1e30


def ctc(
    student: Tensor, labels: Tensor, *, frames: Tensor, lengths: Tensor, blank: int = 0, per_character: bool = True
) -> Tensor:
    """Negative log-probability of the labels, over all alignments (Graves et al., ICML 2006).

    A line with more characters (plus one frame between equal neighbours) than frames has an infinite loss: leave such
    lines out beforehand (`needed_frames` tells).

    Args:
        student: (B, T, V) logits.
        labels: (B, L), padded with anything.
        frames: (B,) frames of each line, at most T.
        lengths: (B,) characters of each line, at most L.
        blank: class number of the blank.
        per_character: divide by the number of characters, so that long lines do not dominate.

    Returns:
        (B,).
    """
    log_probs = functional.log_softmax(wide(student), -1)
    values = kernel(log_probs, labels, frames, lengths, blank=blank)
    return values / lengths.clamp(min=1) if per_character else values


def needed_frames(labels: Tensor, lengths: Tensor) -> Tensor:
    """Return how many frames an alignment takes at least: characters, and a blank between equal neighbours. (B,)."""
    inside = torch.arange(labels.shape[1] - 1, device=labels.device) < (lengths - 1)[:, None]
    return lengths + ((labels[:, 1:] == labels[:, :-1]) & inside).sum(1)


def frame_weights(
    teacher: Tensor, mask: Tensor, *, frames: Frames = "neighbourhood", k: int = 2, blank: int = 0, tau: float = 1.0
) -> Tensor:
    """Return how much each frame counts; the teacher's blanks dominate, and plain divergence learns mostly those.

    Args:
        teacher: (B, T, V) logits.
        mask: (B, T), True on frames of the line.
        frames: `uniform` 1 everywhere; `no_blank` frames whose best class is no blank; `neighbourhood` those and the k
            frames on either side of each (Hilmes et al., arXiv:2506.01503, symmetric selection); `soft`
            max(0.05, 1 - P(blank)).
        k: width of the neighbourhood.
        blank: class number of the blank.
        tau: temperature of P.

    Returns:
        (B, T), at least float32, 0 outside the mask.
    """
    teacher = wide(teacher)
    inside = mask.to(teacher.dtype)
    if frames == "uniform":
        return inside
    if frames == "soft":
        return (1 - torch.softmax(teacher / tau, -1)[..., blank]).clamp(min=0.05) * inside
    speaks = (teacher.argmax(-1) != blank).to(teacher.dtype) * inside
    if frames == "no_blank":
        return speaks
    if frames == "neighbourhood":
        return functional.max_pool1d(speaks[:, None], 2 * k + 1, stride=1, padding=k)[:, 0] * inside
    raise UsageError(f"frames={frames!r} is no way to weigh frames.", "Use uniform, no_blank, neighbourhood or soft.")


def ctc_frames(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor,
    tau: float = 2.0,
    frames: Frames = "neighbourhood",
    k: int = 2,
    blank: int = 0,
) -> Tensor:
    """tau^2 sum_t w_t KL(P_t || Q_t) / sum_t w_t, P = softmax(teacher / tau), Q = softmax(student / tau).

    Args:
        student: (B, T, V) logits.
        teacher: the same shape.
        mask: (B, T), True on frames of the line.
        tau: temperature, above 0.
        frames: what frames count; see `frame_weights`.
        k: width of the neighbourhood.
        blank: class number of the blank.

    Returns:
        (B,); 0 for a line where no frame counts.
    """
    same_shape(student, teacher)
    weight = frame_weights(teacher, mask, frames=frames, k=k, blank=blank, tau=tau)
    log_p, log_q = (functional.log_softmax(wide(x) / tau, -1) for x in (teacher, student))
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    kept = torch.where(weight > 0, divergence, 0.0) * weight
    total = weight.sum(1)
    return tau**2 * kept.sum(1) / torch.where(total > 0, total, 1.0)


class NBest(NamedTuple):
    """What a teacher reads, its k best readings: labels (B, K, L), their lengths (B, K), log-scores (B, K).

    A place without a reading has the score -inf.
    """

    labels: Tensor
    lengths: Tensor
    scores: Tensor


def ctc_sequence(
    student: Tensor, readings: NBest, *, frames: Tensor, blank: int = 0, per_character: bool = False
) -> Tensor:
    """sum_k w_k CTC(y_k, x), w = softmax of the scores: learns from readings, so lines need no labels.

    Not 0 at best: the value is at least that of a student that is certain of each reading at once, which none can be.

    Args:
        student: (B, T, V) logits.
        readings: of the teacher, best or not.
        frames: (B,) frames of each line.
        blank: class number of the blank.
        per_character: divide each reading's loss by its length.

    Returns:
        (B,).
    """
    count = readings.labels.shape[1]
    weights = torch.softmax(wide(readings.scores), 1)
    values = ctc(
        student.repeat_interleave(count, 0),
        readings.labels.flatten(0, 1),
        frames=frames.repeat_interleave(count),
        lengths=readings.lengths.flatten(),
        blank=blank,
        per_character=per_character,
    )
    values = values.reshape(weights.shape)
    # a reading that does not fit into the line's frames has an infinite loss; without weight it does not count
    return (torch.where(weights > 0, values, 0.0) * weights).sum(1)


@torch.no_grad()
def align(logits: Tensor, labels: Tensor, *, frames: Tensor, lengths: Tensor, blank: int = 0) -> Tensor:
    """Return the most likely class of each frame on a path that reads the labels (Viterbi), for a guided start.

    Cross-entropy of the student against the teacher's alignment puts its spikes where the teacher's are.

    Args:
        logits: (B, T, V) of the teacher.
        labels: (B, L), padded with anything.
        frames: (B,) frames of each line.
        lengths: (B,) characters of each line.
        blank: class number of the blank.

    Returns:
        (B, T) class numbers, blank beyond the line's frames.

    Raises:
        UsageError: a line has fewer frames than its labels need.
    """
    if bool((needed_frames(labels, lengths) > frames).any()):
        raise UsageError("A line has fewer frames than its labels need.", "Leave such lines out: see needed_frames.")
    log_probs = functional.log_softmax(wide(logits), -1)
    batch, time, _ = log_probs.shape
    states = 2 * labels.shape[1] + 1
    # blank, first character, blank, second character, ..., blank
    path = torch.full((batch, states), blank, dtype=torch.long, device=logits.device)
    path[:, 1::2] = labels.long().clamp(min=0, max=log_probs.shape[-1] - 1)
    may_skip = torch.zeros_like(path, dtype=torch.bool)
    may_skip[:, 2:] = (path[:, 2:] != blank) & (path[:, 2:] != path[:, :-2])
    emission = log_probs.gather(2, path[:, None].expand(-1, time, -1))
    score = torch.full_like(emission[:, 0], UNREACHABLE)
    score[:, :2] = emission[:, 0, :2]
    from_where = torch.zeros(batch, time, states, dtype=torch.long, device=logits.device)
    for t in range(1, time):
        one = functional.pad(score, (1, 0), value=UNREACHABLE)[:, :-1]
        two = functional.pad(score, (2, 0), value=UNREACHABLE)[:, :-2].masked_fill(~may_skip, UNREACHABLE)
        best, step = torch.stack([score, one, two]).max(0)
        going_on = (t < frames)[:, None]
        score = torch.where(going_on, best + emission[:, t], score)
        from_where[:, t] = torch.where(going_on, step, 0)
    rows = torch.arange(batch, device=logits.device)
    last = 2 * lengths.long()
    before = (last - 1).clamp(min=0)
    state = torch.where((score[rows, before] > score[rows, last]) & (lengths > 0), before, last)
    classes = torch.full((batch, time), blank, dtype=torch.long, device=logits.device)
    for t in range(time - 1, -1, -1):
        inside = t < frames
        classes[:, t] = torch.where(inside, path[rows, state], blank)
        state = state - torch.where(inside, from_where[rows, t, state], 0)
    return classes
