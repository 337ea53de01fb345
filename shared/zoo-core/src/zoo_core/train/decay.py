"""Which parameters weight decay pulls at: matrices, and neither biases nor scales."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn


def decay_groups(module: nn.Module, weight_decay: float, *, free: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the parameters that learn as two groups for an optimiser, with decay and without.

    Args:
        module: whose parameters they are.
        weight_decay: of the first group.
        free: last parts of the names of parameters that have none, whatever their shape; those of fewer than two
            dimensions have none in any case.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (others if parameter.ndim < 2 or name.rpartition(".")[2] in free else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
