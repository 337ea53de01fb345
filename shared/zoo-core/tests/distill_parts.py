"""What the tests of distillation share: a small network, a batch of it, and a teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.distill import Teacher
from zoo_core.distill.losses.logits import cross_entropy
from zoo_core.probe import Point


class Net(nn.Module):
    """(B, 6) -> (B, 4), with a hidden layer."""

    def __init__(self, width: int = 8, *, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.hidden = nn.Sequential(nn.Linear(6, width), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


def batch(samples: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(samples, 6, generator=generator),
        "label": torch.randint(0, 4, (samples,), generator=generator),
        "id": torch.arange(samples) + 100 * seed,
        "labelled": torch.arange(samples) % 3 > 0,
    }


def labels(logits: Tensor, data: dict[str, Tensor]) -> Tensor:
    return cross_entropy(logits, data["label"])


def teacher(**options: Any) -> Teacher:
    return Teacher(Net(16, seed=9), {"logits": Point(""), "hidden": "hidden"}, **{"inputs": "x", **options})
