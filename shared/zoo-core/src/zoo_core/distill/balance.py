"""Weights that keep their promise: the shares of the gradient follow the stated weights, whatever the losses' sizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed
from torch import Tensor, nn

from zoo_core.errors import UsageError


class Balance(nn.Module):
    """Scales terms so that ||g_k|| / sum ||g|| at one point of the student is w_k / sum w (distill spec 3.5).

    Norms are averaged over the steps, n_k <- d n_k + (1 - d) ||g_k|| from the first one on, and the sum of the weighted
    norms stays what it was, so the learning rate keeps its meaning:

        w'_k = w_k (sum_j w_j n_j) / (n_k sum_j w_j)

    The averages are state: a `Student` made with the objective saves them, and does not publish them.

    Args:
        at: point of the student, the last that all terms share.
        decay: d in [0, 1).
        every: steps between two measurements, each of which costs a backward pass from the terms to the point.
        most: no term is scaled up by more: the gradient of one that has converged is next to nothing.

    Raises:
        UsageError: a number is out of its range.
    """

    def __init__(self, at: str, *, decay: float = 0.99, every: int = 1, most: float = 100.0) -> None:
        super().__init__()
        if not 0 <= decay < 1 or every < 1 or most < 1:
            raise UsageError(
                f"Balance(decay={decay}, every={every}, most={most}) is out of range.",
                "decay is in [0, 1), every and most are at least 1.",
            )
        self.at, self.decay, self.every, self.most = at, decay, every, most

    def know(self, name: str) -> None:
        """Add a term; 0 stands for a norm that was never measured."""
        if not hasattr(self, _key(name)):
            self.register_buffer(_key(name), torch.zeros(()))

    def norm(self, name: str) -> Tensor:
        """Return the average norm of a term."""
        return self.get_buffer(_key(name))

    @torch.no_grad()
    def update(self, parts: Mapping[str, Tensor], point: Tensor) -> None:
        """Take in the gradients of a step.

        Args:
            parts: by term, its unweighted value of this process's samples as it enters the sum; the graph stays.
            point: the tensor at `at`.
        """
        squares = []
        for value in parts.values():
            found = None
            if value.requires_grad:
                (found,) = torch.autograd.grad(value, point, retain_graph=True, allow_unused=True)
            squares.append(point.new_zeros((), dtype=torch.float32) if found is None else found.float().square().sum())
        total = torch.stack(squares)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)  # each process has the gradient at its own samples
            total = total / torch.distributed.get_world_size() ** 2
        for name, now in zip(parts, total.sqrt(), strict=True):
            average = self.norm(name)
            average.copy_(torch.where(average == 0, now, self.decay * average + (1 - self.decay) * now))

    def factors(self, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Return w'_k / w_k for terms of these weights; 1 for a term that has no gradient yet."""
        norms = {name: self.norm(name) for name in weights}
        mean = torch.stack([weight * norms[name] for name, weight in weights.items()]).sum() / sum(weights.values())
        return {
            name: torch.where(norm > 0, mean / norm.clamp(min=1e-30), 1.0).clamp(max=self.most)
            for name, norm in norms.items()
        }


def _key(name: str) -> str:
    return f"norm_{name}"
