"""The CTC kernel agrees with its formula, and the formula with torch's loss and with counting all alignments.

On CUDA for real, elsewhere through Triton's interpreter, which conftest.py at the root of the repository turns on.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from zoo_core.kernels.ctc import ctc, reference
from zoo_core.nn.graphs import captured

pytest.importorskip("triton", reason="Triton is not installed: only the reference can run here")
from zoo_core.kernels.ctc import triton as kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SYMBOLS = 6
# frames and labels; with equal neighbours, with nothing to read, with just enough frames, with one frame
LINES = ((9, [1, 2, 3]), (9, [4, 4, 4]), (7, []), (5, [2, 2, 1, 5]), (1, [3]), (1, []), (8, [5, 1, 5, 1]))


def batch(dtype: torch.dtype, lines: tuple[tuple[int, list[int]], ...] = LINES) -> tuple[Tensor, ...]:
    time, longest = max(t for t, _ in lines), max(len(label) for _, label in lines)
    logits = torch.randn(len(lines), time, SYMBOLS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([label + [0] * (longest - len(label)) for _, label in lines], dtype=torch.long)
    frames, lengths = torch.tensor([t for t, _ in lines]), torch.tensor([len(label) for _, label in lines])
    return logits.to(DEVICE, dtype), labels.to(DEVICE), frames.to(DEVICE), lengths.to(DEVICE)


def loss_and_gradient(function: object, logits: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    loss = function(leaf.log_softmax(2), *rest)  # type: ignore[operator]
    weights = torch.linspace(0.5, 2, len(loss), dtype=loss.dtype, device=loss.device)
    (gradient,) = torch.autograd.grad((loss * weights).sum(), leaf)
    return loss.detach(), gradient


def by_reference(log_probs: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    """The operator on the CPU, where its implementation is the reference, forward and backward."""
    return torch.ops.zoo.ctc(log_probs, labels, frames, lengths, 0)[0]


def by_torch(log_probs: Tensor, labels: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    return functional.ctc_loss(log_probs.transpose(0, 1), labels, frames, lengths, reduction="none")


def on_cpu(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.cpu() for tensor in tensors)


def test_the_formula_counts_all_alignments() -> None:
    logits, labels, frames, lengths = on_cpu(batch(torch.float64))
    log_probs = logits.log_softmax(2)
    losses = by_reference(log_probs, labels, frames, lengths)
    for line in (3, 4, 5):
        total = 0.0
        for path in itertools.product(range(SYMBOLS), repeat=int(frames[line])):
            kept = [symbol for symbol, _ in itertools.groupby(path) if symbol]
            if kept == labels[line, : lengths[line]].tolist():
                total += math.exp(sum(float(log_probs[line, t, symbol]) for t, symbol in enumerate(path)))
        assert float(losses[line]) == pytest.approx(-math.log(total), rel=1e-10)


def test_the_formula_is_torchs_loss_with_its_gradient() -> None:
    given = on_cpu(batch(torch.float64))
    (loss, gradient), (theirs, their_gradient) = (loss_and_gradient(f, *given) for f in (by_reference, by_torch))
    assert torch.allclose(loss, theirs, rtol=1e-10)
    assert torch.allclose(gradient, their_gradient, atol=1e-10)


def test_the_gradient_of_the_formula_is_that_of_its_value() -> None:
    logits, *rest = on_cpu(batch(torch.float64, ((5, [1, 1]), (4, [2, 3, 2]))))
    assert torch.autograd.gradcheck(lambda x: by_reference(x.log_softmax(2), *rest), logits.requires_grad_())


@pytest.mark.parametrize("lines", [LINES, ((1, [2]),), ((20, [1] * 8), (13, [3, 2, 3, 2, 3]), (3, []))])
def test_the_kernel_is_the_formula(lines: tuple[tuple[int, list[int]], ...]) -> None:
    given = batch(torch.float32, lines)
    logits, labels, frames, lengths = given
    truth, true_gradient = loss_and_gradient(by_reference, *(t.cpu() for t in (logits.double(), *given[1:])))
    log_probs = logits.log_softmax(2)
    loss, alpha = kernel.forward(log_probs, labels, frames, lengths, 0)
    assert torch.allclose(loss.cpu().double(), truth, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(0.5, 2, len(loss), device=loss.device)
    passed = kernel.backward(weights, log_probs, labels, frames, lengths, loss, alpha, 0)
    # through the softmax
    gradient = passed - log_probs.exp() * passed.sum(2, keepdim=True)
    assert torch.allclose(gradient.cpu().double(), true_gradient, atol=1e-5)


def test_a_line_with_too_few_frames_is_infinite_and_teaches_nothing() -> None:
    logits, labels, frames, lengths = batch(torch.float32, ((2, [1, 1]), (4, [1, 1])))
    log_probs = logits.log_softmax(2)
    loss, alpha = kernel.forward(log_probs, labels, frames, lengths, 0)
    assert loss[0] == math.inf
    assert loss[1].isfinite()
    gradient = kernel.backward(torch.ones_like(loss), log_probs, labels, frames, lengths, loss, alpha, 0)
    assert not gradient[0].any()
    assert gradient[1].isfinite().all()


def test_the_public_function_is_one_of_the_two() -> None:
    given = batch(torch.float32)
    (loss, gradient), (theirs, their_gradient) = (loss_and_gradient(f, *given) for f in (ctc, by_torch))
    assert torch.allclose(loss, theirs, rtol=1e-5)
    assert torch.allclose(gradient, their_gradient, atol=1e-5)
    with pytest.raises(ValueError, match="float32"):
        kernel.forward(given[0].double(), *given[1:], 0)


def test_compilers_see_one_operator() -> None:
    given = batch(torch.float32)
    compiled = torch.compile(lambda *x: torch.ops.zoo.ctc(*x, 0)[0].sum(), backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(*given), torch.ops.zoo.ctc(*given, 0)[0].sum())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # that it is a prototype
def test_nothing_waits_for_the_device_and_a_graph_holds_it() -> None:
    logits, *rest = batch(torch.float32)
    leaf = logits.requires_grad_()

    def run() -> Tensor:
        loss = ctc(leaf.log_softmax(2), *rest).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient

    expected = run()
    try:
        torch.cuda.set_sync_debug_mode("error")
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph, replayed = captured(run, DEVICE)
    graph.replay()
    assert torch.allclose(replayed, expected)
    assert reference.states(rest[0]) == 9
