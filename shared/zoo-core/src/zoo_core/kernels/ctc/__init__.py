"""The loss of connectionist temporal classification, without a wait for the host, so that a CUDA graph can hold it.

torch's own loss on CUDA copies lengths between host and device, with a wait each time, also where they are on the
device already. Here lengths and labels stay where they are. On the CPU, and in float64, torch's loss is what runs.

Forward and backward are two operators of torch.library: torch.compile and export see them as opaque.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.kernels.ctc import reference

torch.library.define(
    "zoo::ctc", "(Tensor log_probs, Tensor labels, Tensor frames, Tensor lengths, int blank) -> (Tensor, Tensor)"
)
torch.library.define(
    "zoo::ctc_backward",
    "(Tensor gradient, Tensor log_probs, Tensor labels, Tensor frames, Tensor lengths, Tensor loss, Tensor alpha, "
    "int blank) -> Tensor",
)
torch.library.impl("zoo::ctc", "CompositeExplicitAutograd", reference.forward)
torch.library.impl("zoo::ctc_backward", "CompositeExplicitAutograd", reference.backward)


@torch.library.impl("zoo::ctc", "CUDA")
def _forward(log_probs: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    from zoo_core.kernels.ctc import triton

    return triton.forward(log_probs, labels, frames, lengths, blank)


@torch.library.impl("zoo::ctc_backward", "CUDA")
def _backward(
    gradient: Tensor,
    log_probs: Tensor,
    labels: Tensor,
    frames: Tensor,
    lengths: Tensor,
    loss: Tensor,
    alpha: Tensor,
    blank: int,
) -> Tensor:
    from zoo_core.kernels.ctc import triton

    return triton.backward(gradient, log_probs, labels, frames, lengths, loss, alpha, blank)


def _shapes(log_probs: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    batch, time, _ = log_probs.shape
    alpha = log_probs.new_empty(batch, time, reference.states(labels, padded=log_probs.is_cuda))
    return log_probs.new_empty(batch), alpha


def _same_shape(gradient: Tensor, log_probs: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(log_probs)


torch.library.register_fake("zoo::ctc", _shapes)
torch.library.register_fake("zoo::ctc_backward", _same_shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.blank = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    log_probs: Tensor = torch.ops.zoo.ctc_backward(gradient, *ctx.saved_tensors, ctx.blank)
    return log_probs, None, None, None, None


torch.library.register_autograd("zoo::ctc", _gradients, setup_context=_keep)


def ctc(log_probs: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor, *, blank: int = 0) -> Tensor:
    """Return -log p(labels | log_probs) for each line, over all alignments (Graves et al., ICML 2006, section 4).

    Infinite where a line has fewer frames than its labels need; the kernel's gradient is 0 there, torch's NaN.

    Args:
        log_probs: (B, T, V), normalised over V; float32 or float64.
        labels: (B, L) int64, padded with anything in [0, V).
        frames: (B,) int64, how many of the T count, at least 1.
        lengths: (B,) int64, how many of the L count.
        blank: which of the V stands for no label.

    Returns:
        (B,), in nats.
    """
    if not log_probs.is_cuda or log_probs.dtype != torch.float32:
        ahead = log_probs.transpose(0, 1)
        return functional.ctc_loss(ahead, labels, frames, lengths, blank=blank, reduction="none")
    loss: Tensor = torch.ops.zoo.ctc(log_probs, labels, frames, lengths, blank)[0]
    return loss
