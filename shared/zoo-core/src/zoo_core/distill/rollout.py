"""Batches that the student makes itself. Randomness is a function of (seed, rank, step): no state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from zoo_core.distill.schedules import Schedule, at


def generator(seed: int, rank: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one process's draws in one step."""
    made = torch.Generator(device)
    made.manual_seed(_mixed(seed, rank, step))
    return made


def exit_index(seed: int, step: int, count: int) -> int:
    """Return a number in [0, count), the same in every process: where a rollout keeps its graph. Uniform over steps."""
    return _mixed(seed, -1, step) % count


@dataclass(frozen=True)
class Rollout:
    """Replaces a share of the batches by what the student makes of them.

    Args:
        make: (student, batch, generator, step) -> batch.
        share: of steps that use it; generalised knowledge distillation calls it lambda.
        seed: of its draws.
        grad: `none` runs it without gradients; `last` leaves it to `make`, whose last step keeps its graph.
    """

    make: Callable[[nn.Module, Any, torch.Generator, int], Any]
    share: float | Schedule = 1.0
    seed: int = 0
    grad: Literal["none", "last"] = "none"

    def __call__(self, student: nn.Module, batch: Any, step: int, *, rank: int = 0) -> Any:
        """Return the batch that step number `step` trains on."""
        # all processes decide alike; what they then draw differs
        if _mixed(self.seed, -2, step) / 2**63 >= at(self.share, step):
            return batch
        with torch.set_grad_enabled(self.grad == "last" and torch.is_grad_enabled()):
            return self.make(student, batch, generator(self.seed, rank, step), step)


def _mixed(*numbers: int) -> int:
    digest = hashlib.blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
