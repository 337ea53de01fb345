"""A small distillation as a program that can be killed: `python distill_run.py FOLDER JSON-OF-RECIPE-KEYS`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo_core.distill import Objective, Student, Teacher, TeacherCache, Term, cosine, linear
from zoo_core.distill.losses.features import mse
from zoo_core.distill.losses.logits import cross_entropy, kl
from zoo_core.probe import Point, Seen
from zoo_core.train import Order, TrainRecipe, fit, seed_all

SAMPLES, CLASSES = 96, 5


class Recipe(TrainRecipe):
    may_change: ClassVar[frozenset[str]] = TrainRecipe.may_change | {"cache", "shard_bytes", "teacher_seed"}
    kd: float = 1.0
    feature: float = 0.5
    teacher_seed: int = 7
    cache: Path | None = None
    form: str = "fp32"
    shard_bytes: int = 2000
    plain: bool = False


class Net(nn.Module):
    """Images (B, 3, 8, 8) -> logits, with dropout and batch norm, so that resuming has something to get wrong."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, 3, 8, 8, generator=generator)
    return x, torch.randint(0, CLASSES, (SAMPLES,), generator=generator)


def labels(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return cross_entropy(logits, batch["label"])


def teacher_network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Net(16)
        network(images()[0])  # its batch norm has seen data
    return network


class Lesson:
    """Learn labels, a teacher's logits, and its pooled features through an adapter."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.x, self.y = images()
        self.order = Order(SAMPLES, recipe.batch, recipe.seed)
        points = {"logits": Point(""), "pool": Point("body.3")}
        network = teacher_network(recipe.teacher_seed)
        self.teacher = Teacher(network, points, inputs="x", keys="id", fill=True)
        if recipe.cache:
            cache = TeacherCache(
                recipe.cache, teacher=self.teacher.fingerprint, data=self.fingerprint(), form=recipe.form,  # type: ignore[arg-type]
                shard_bytes=recipe.shard_bytes,
            )  # fmt: skip
            self.teacher = Teacher(network, points, inputs="x", keys="id", fill=True, cache=cache)
        seed_all(recipe.seed)
        student = Net(8)
        heat = cosine(4, 2, 0, 30)
        self.objective = Objective(
            [
                Term("task", labels, "out"),
                Term("kd", kl, "out", "logits", weight=linear(0, recipe.kd, 4, 20), constants={"tau": heat}),
                Term(
                    "feature", self._flat, "pool", "pool", adapter=nn.Conv2d(8, 16, 1), weight=recipe.feature,
                    only=lambda batch: batch["id"] % 3 > 0,
                ),
            ]
        )  # fmt: skip
        self.module: nn.Module = Student(student, {"pool": "body.3"}, self.objective)
        if recipe.plain:
            self.module = student

    @staticmethod
    def _flat(student: Tensor, teacher: Tensor) -> Tensor:
        return mse(student.flatten(1), teacher.flatten(1))

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.module.parameters(), weight_decay=0.01)

    def learning_rate(self, step: int) -> float:
        return 1e-2

    def batch(self, step: int) -> dict[str, Any]:
        chosen = torch.from_numpy(self.order.indices(step))
        return {"x": self.x[chosen], "label": self.y[chosen], "id": chosen, "step": step}

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.recipe.plain:
            loss = nn.functional.cross_entropy(self.module(batch["x"]), batch["label"])
            return loss, {"task": loss.detach()}
        taught = self.teacher(batch)
        seen: Seen = self.module(batch["x"])
        return self.objective(seen, taught, batch, batch["step"])

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        network = module.module if isinstance(module, Student) else module
        assert isinstance(network, nn.Module)
        return {"accuracy": float((network(self.x).argmax(-1) == self.y).float().mean())}

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors) if self.recipe.plain else Student.published(tensors)

    def identities(self) -> dict[str, str]:
        return {"teacher": self.teacher.identity}

    def fingerprint(self) -> str:
        return "d" * 64


def recipe(**keys: Any) -> Recipe:
    return Recipe(
        **{
            "steps": 60,
            "batch": 16,
            "ema_decay": 0.9,
            "save_every": 5,
            "eval_every": 20,
            "log_every": 4,
            "device": "cpu",
            **keys,
        }
    )


def main(out: Path, keys: dict[str, Any]) -> None:
    settings = recipe(**keys)
    fit(Lesson(settings), settings, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
