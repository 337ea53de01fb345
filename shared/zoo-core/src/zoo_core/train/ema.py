"""Averaged weights: an exponential moving average of what is trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """A second copy of a module that follows the first: e <- d e + (1 - d) w after each step.

    With t steps done before, d = min(decay, (1 + t) / (10 + t)): the average forgets its random start also in short
    runs. Buffers that are not floating point (counters) are copied.

    Args:
        module: what is trained; on its device already.
        decay: in (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        theirs, ours = module.state_dict(keep_vars=True), self.module.state_dict(keep_vars=True)
        floats = [name for name, value in theirs.items() if value.is_floating_point()]
        self._theirs = [theirs[name] for name in floats]
        self._ours = [ours[name] for name in floats]
        self._counters = [(ours[name], value) for name, value in theirs.items() if not value.is_floating_point()]

    def decay_at(self, step: int) -> float:
        """Return d of the update after step number `step` (counted from 0)."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after step number `step`."""
        torch._foreach_lerp_(self._ours, [value.detach() for value in self._theirs], 1 - self.decay_at(step))
        for mine, theirs in self._counters:
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights under the names of the trained ones."""
        return dict(self.module.state_dict())

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over saved averaged weights, strictly."""
        self.module.load_state_dict(tensors)
