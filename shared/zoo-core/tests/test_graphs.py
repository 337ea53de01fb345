"""What a graph computes is what the function computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo_core.nn.graphs import Graphs, captured


def twice(x: Tensor, y: Tensor | None, *, plus: int) -> tuple[Tensor, Tensor | None]:
    return 2 * x + plus, None if y is None else y @ y.mT


def test_on_a_cpu_it_is_the_function() -> None:
    graphs, x, y = Graphs(twice), torch.randn(3, requires_grad=True), torch.randn(2, 2)
    for _ in range(3):
        doubled, squared = graphs(x, y, plus=1)
        assert torch.equal(doubled, 2 * x + 1)
        assert torch.equal(squared, y @ y.mT)
    assert doubled.requires_grad, "a CPU's tensors are as without graphs"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_results_are_their_own_and_arguments_may_be_missing() -> None:
    graphs = Graphs(twice)
    given = [torch.full((2, 2), float(n), device="cuda") for n in range(6)]
    results = [graphs(x, x if n % 2 else None, plus=1) for n, x in enumerate(given)]
    for n, (x, (doubled, squared)) in enumerate(zip(given, results, strict=True)):
        assert torch.equal(doubled, 2 * x + 1)
        assert squared is None if n % 2 == 0 else torch.equal(squared, x @ x.mT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("shapes", "lengths", "runs"),
    [
        # the first time a length runs, the second time it runs to warm up and to be recorded, then it is replayed
        (2, [1, 1, 2, 1, 3, 1, 2], [1, 1, 1, 2, 3, 2]),
        (1, [1, 1, 1, 2, 2, 1, 1], [1, 1, 1, 2, 2, 2, 1, 1, 1]),
    ],
)
def test_the_kind_not_used_for_longest_goes(shapes: int, lengths: list[int], runs: list[int]) -> None:
    ran = []

    def squares(x: Tensor) -> Tensor:
        ran.append(len(x))
        return (x + 1).square()

    graphs = Graphs(squares, shapes=shapes)
    for n, length in enumerate(lengths):
        given = torch.full((length,), float(n), device="cuda")
        assert torch.equal(graphs(given), torch.full_like(given, (n + 1) ** 2))
    assert ran == runs


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replay_reads_what_is_there_now_and_graphs_may_share_memory() -> None:
    x = torch.zeros(1000, device="cuda")
    first, squared = captured(lambda: (x + 1).square(), x.device)
    second, scaled = captured(lambda: (x + 2) * 5, x.device, pool=first.pool(), warm_ups=2)
    for value in (3.0, 4.0):
        x.fill_(value)
        first.replay()
        second.replay()
        assert torch.equal(squared, torch.full_like(x, (value + 1) ** 2))
        assert torch.equal(scaled, torch.full_like(x, (value + 2) * 5))
