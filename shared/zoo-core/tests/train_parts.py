"""What the tests of training share: a network that learns a line."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.train import Order, TrainRecipe, seed_all


class Line:
    """Learn a linear map."""

    def __init__(self, recipe: TrainRecipe, device: str = "cpu") -> None:
        seed_all(recipe.seed)
        self.recipe = recipe
        self.module: nn.Module = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1))
        self.x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).to(device)
        self.order = Order(64, recipe.batch, recipe.seed)

    def optimizer(self) -> torch.optim.Optimizer:
        groups = [{"params": [p], "lr_scale": 2.0 if p.ndim == 1 else 1.0} for p in self.module.parameters()]
        return torch.optim.Adam(groups, fused=self.x.is_cuda)

    def learning_rate(self, step: int) -> float:
        return 1e-2

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.x[torch.from_numpy(self.order.indices(step)).to(self.x.device)], torch.tensor(1.0)

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        x, weight = batch
        error = self.module(x).float() - x.sum(dim=1, keepdim=True)
        return weight * error.square().mean(), {"mae": error.detach().abs().mean()}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        assert not module.training
        assert not torch.is_grad_enabled()
        return {"mse": float((module(self.x) - self.x.sum(dim=1, keepdim=True)).square().mean())}

    def fingerprint(self) -> str:
        return "0" * 64


def line_recipe(**keys: Any) -> TrainRecipe:
    return TrainRecipe(**{"steps": 60, "batch": 24, "log_every": 10, "ema_decay": 0.9, "device": "cpu", **keys})
