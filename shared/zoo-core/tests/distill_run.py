"""A small distillation as a program that can be killed: `python distill_run.py FOLDER JSON-OF-RECIPE-KEYS`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo_core.distill import (
    Balance,
    Objective,
    Student,
    Teacher,
    TeacherCache,
    Term,
    after,
    cosine,
    linear,
    write_cache,
)
from zoo_core.distill.losses.features import mse
from zoo_core.distill.losses.logits import cross_entropy, kl
from zoo_core.distill.rollout import generator
from zoo_core.distill.stages import Plateau, Players, Stage
from zoo_core.probe import Point, Seen
from zoo_core.testing.forked import ranks
from zoo_core.train import Order, fit, seed_all
from zoo_core.train.recipe import CachingRecipe
from zoo_core.train.stages import fit_stages

SAMPLES, CLASSES = 96, 5


class Recipe(CachingRecipe):
    may_change: ClassVar[frozenset[str]] = CachingRecipe.may_change | {
        "cache", "shard_bytes", "teacher_seed", "form", "preprocessing", "data_seed",
    }  # fmt: skip
    preprocessing: str = ""
    data_seed: int = 0
    kd: float = 1.0
    feature: float = 0.5
    teacher_seed: int = 7
    cache: Path | None = None
    form: str = "fp32"
    shard_bytes: int = 2000
    plain: bool = False
    dropout: float = 0.1
    norm: bool = True
    feature_from: int = 0
    balance: bool = False
    moving: bool = False
    what: str = "lesson"
    bad_step: int = -1


class Net(nn.Module):
    """Images (B, 3, 8, 8) -> logits, with dropout and batch norm, so that resuming has something to get wrong."""

    def __init__(self, width: int, dropout: float = 0.1, *, norm: bool = True) -> None:
        super().__init__()
        between = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), between, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2)
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

    def __init__(self, recipe: Recipe, stage: Stage | None = None) -> None:
        self.recipe = recipe
        self.x, self.y = images()
        self.order = Order(SAMPLES, recipe.batch, recipe.seed)
        points = {"logits": Point(""), "pool": Point("body.3")}
        network = self.teacher_network = teacher_network(recipe.teacher_seed)
        self.teacher = Teacher(network, points, inputs="x", keys="id", fill=True, preprocessing=recipe.preprocessing)
        if recipe.cache:
            cache = TeacherCache(
                recipe.cache, teacher=self.teacher.fingerprint, data=self.fingerprint(), form=recipe.form,  # type: ignore[arg-type]
                shard_bytes=recipe.shard_bytes,
            )  # fmt: skip
            self.teacher = Teacher(network, points, inputs="x", keys="id", fill=True, cache=cache)
        seed_all(recipe.seed)
        student = Net(8, recipe.dropout, norm=recipe.norm)
        heat = cosine(4, 2, 0, 30)
        self.objective = Objective(
            [
                Term("task", labels, "out"),
                Term("kd", kl, "out", "logits", weight=linear(0, recipe.kd, 4, 20), constants={"tau": heat}),
                Term(
                    "feature", self._flat, "pool", "pool", adapter=nn.Conv2d(8, 16, 1),
                    weight=after(recipe.feature_from, recipe.feature),
                    only=lambda batch: batch["id"] % 3 > 0,
                ),
            ],
            balance=Balance("pool", decay=0.9, every=2) if recipe.balance else None,
        )  # fmt: skip
        self.module: Any = Student(student, {"pool": "body.3"}, self.objective)
        if recipe.plain:
            self.module = student
        if stage is not None:
            self.module.trains(stage.train, stage.freeze)

    @staticmethod
    def _flat(student: Tensor, teacher: Tensor) -> Tensor:
        return mse(student.flatten(1), teacher.flatten(1))

    def fill_cache(self) -> Generator[tuple[int, int]]:
        assert self.teacher.cache is not None
        batches = ({"x": self.x[rows], "id": rows} for rows in torch.arange(SAMPLES).split(16))
        cache = self.teacher.cache
        for done in write_cache(cache, self.teacher, batches, keys="id"):
            yield done, SAMPLES

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
        if batch["step"] == self.recipe.bad_step:
            batch = {**batch, "x": batch["x"] * torch.inf}
        if self.recipe.moving:  # somebody else trains the teacher's network
            self.teacher_network.train()(batch["x"])
            self.teacher_network.eval()
        taught = self.teacher(batch)
        seen: Seen = self.module(batch["x"])
        return self.objective(seen, taught, batch, batch["step"])

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        network = module.module if isinstance(module, Student) else module
        assert isinstance(network, nn.Module)
        return {"accuracy": float((network(self.x).argmax(-1) == self.y).float().mean())}

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors) if self.recipe.plain else Student.published(tensors)

    def check_unchanged(self) -> None:
        self.teacher.check_unchanged()

    def identities(self) -> dict[str, str]:
        return self.teacher.identities()

    def fingerprint(self) -> str:
        return f"{self.recipe.data_seed:x}" * 64


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


STAGES = (
    Stage("head", 30, train=("head.*",)),
    Stage("all", 60, until=Plateau("accuracy", 2), optimizer="new"),
    Stage("cool", 40, freeze=("body.0.bias",), optimizer="keep"),
)


class Two(nn.Module):
    """A generator and a critic in one module, so that both are saved."""

    def __init__(self) -> None:
        super().__init__()
        self.critic, self.generator = (
            nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.1), nn.SiLU(), nn.Linear(16, outs)) for outs in (1, 2)
        )


class Duel:
    """A critic that learns three times for each time that the generator learns, with its own speed."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        seed_all(recipe.seed)

        self.module: Any = Two()
        self.players = Players({"critic": 3, "generator": 1})

    def optimizer(self) -> torch.optim.Optimizer:
        groups = [
            {"params": self.module.critic.parameters(), "lr_scale": 4.0, "betas": (0.0, 0.999)},
            {"params": self.module.generator.parameters(), "betas": (0.5, 0.9)},
        ]
        return torch.optim.AdamW(groups)

    def learning_rate(self, step: int) -> float:
        return 1e-3

    def batch(self, step: int) -> dict[str, Any]:
        draws = generator(self.recipe.seed, 0, step)
        return {"z": torch.randn(16, 2, generator=draws), "real": torch.randn(16, 2, generator=draws) + 3, "step": step}

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        critic, maker = self.module.critic, self.module.generator
        with self.players.at(batch["step"], {"critic": critic, "generator": maker}) as turn:
            fake = maker(batch["z"])
            if turn == "critic":
                loss = (
                    nn.functional.softplus(critic(fake)).mean() + nn.functional.softplus(-critic(batch["real"])).mean()
                )
            else:
                loss = nn.functional.softplus(-critic(fake)).mean()
        return loss, {}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        return {"weight": float(sum(p.sum() for p in module.parameters()))}

    def fingerprint(self) -> str:
        return "e" * 64


def main(out: Path, keys: dict[str, Any]) -> None:
    settings = recipe(**keys)
    if settings.what == "stages":
        fit_stages(STAGES, lambda stage: Lesson(settings, stage), settings, out)
    else:
        fit((Duel if settings.what == "duel" else Lesson)(settings), settings, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    folder, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    if (number := asked.pop("processes", 1)) > 1:
        sys.exit(ranks(number, lambda: main(folder, asked)))
    main(folder, asked)
