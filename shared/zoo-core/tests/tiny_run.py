"""A tiny training problem as a program that can be killed: `python tiny_run.py FOLDER JSON-OF-RECIPE-KEYS`."""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.errors import InterruptedRunError
from zoo_core.testing.forked import ranks
from zoo_core.train import Order, TrainRecipe, seed_all
from zoo_core.train.loop import fit

N = 103  # a prime: no batch divides it


class Recipe(TrainRecipe):
    """With a section, as packages have them."""

    class Net(TrainRecipe.__base__):  # type: ignore[name-defined,misc]
        width: int = 16
        dropout: float = 0.1

    net: Net = Net()
    bad_step: int = -1
    delay_seconds: float = 0.0


class Network(nn.Module):
    """Draws from torch's generator (dropout), and counts in a buffer how often it has learned from each sample."""

    def __init__(self, net: Recipe.Net) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, net.width), nn.Dropout(net.dropout), nn.ReLU(), nn.Linear(net.width, 1))
        self.register_buffer("seen", torch.zeros(N, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Tiny:
    """Learn a sum of eight numbers."""

    def __init__(self, recipe: Recipe, *, data_seed: int = 0) -> None:
        self.recipe = recipe
        generator = torch.Generator().manual_seed(data_seed)
        self.x = torch.randn(N, 8, generator=generator)
        self.data_seed = data_seed
        self.order = Order(N, recipe.batch, recipe.seed)
        seed_all(recipe.seed)
        self.module: nn.Module = Network(recipe.net)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.module.parameters(), betas=(0.9, 0.95))

    def learning_rate(self, step: int) -> float:
        return 1e-2 * (1 - step / self.recipe.steps)

    def batch(self, step: int) -> dict[str, Tensor]:
        chosen = torch.from_numpy(self.order.indices(step))
        x = self.x[chosen]
        if step == self.recipe.bad_step:
            x = x * torch.inf
        return {"x": x, "y": self.x[chosen].sum(dim=1, keepdim=True), "sample": chosen}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(self.recipe.delay_seconds)
        self.module.seen.index_add_(0, batch["sample"], torch.ones_like(batch["sample"]))
        # draws from python's and numpy's generators, which must be resumed too
        weight = 1.0 if self.recipe.net.dropout == 0 else 1 + 0.1 * random.random() + 0.1 * float(np.random.rand())
        error = self.module(batch["x"]) - batch["y"]
        return weight * error.square().mean(), {"mae": error.detach().abs().mean()}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        # draws, so that a test sees whether an evaluation disturbs the training
        noise = torch.randn(()) * 1e-6 + random.random() * 1e-6
        return {"mse": float((module(self.x) - self.x.sum(dim=1, keepdim=True)).square().mean() + noise)}

    def fingerprint(self) -> str:
        return f"{self.data_seed:064x}"

    def describe(self, step: int) -> str:
        return f"row {self.order.indices(step)[0]}, ..."


def recipe(**keys: Any) -> Recipe:
    return Recipe(
        **{"steps": N, "batch": 16, "ema_decay": 0.99, "save_every": 5, "eval_every": 20, "log_every": 7, **keys}
    )


def main(out: Path, keys: dict[str, Any]) -> None:
    settings = recipe(**keys)
    fit(Tiny(settings), settings, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    folder, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    if (number := asked.pop("processes", 1)) > 1:
        sys.exit(ranks(number, lambda: main(folder, asked)))
    try:
        main(folder, asked)
    except InterruptedRunError as error:
        sys.exit(error.exit_code)
