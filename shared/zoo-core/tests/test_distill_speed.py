"""What looking and learning from a cache cost, in pairs on one thread: `pytest -m slow`, on a machine at rest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zoo_core.distill import Objective, Student, Teacher, TeacherCache, Term
from zoo_core.distill.losses.logits import cross_entropy, kl
from zoo_core.probe import Probe

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ratio(one: Callable[[], None], two: Callable[[], None], times: int = 40) -> float:
    """The median over pairs of the time of `one` over that of `two`, which come in turns and lead in turns."""
    found = []
    for number in range(times):
        order = (one, two) if number % 2 else (two, one)
        seconds = {}
        for step in order:
            begin = time.perf_counter()
            step()
            seconds[step] = time.perf_counter() - begin
        found.append(seconds[one] / seconds[two])
    return statistics.median(found)


def deep(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU()) for _ in range(10)]
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    )


def test_ten_points_cost_at_most_a_hundredth_of_a_step() -> None:
    net, x = deep(32), torch.randn(16, 3, 32, 32)
    probe = Probe(net, {f"p{i}": f"{i + 1}" for i in range(10)})

    def step(run: Callable[[Tensor], Tensor]) -> None:
        run(x).sum().backward()
        net.zero_grad()

    found = ratio(lambda: step(lambda x: probe(x).out), lambda: step(net))
    print(f"probe of ten points / none: {found:.4f}")  # noqa: T201
    assert found <= 1.01


def test_a_step_from_a_cache_costs_at_most_a_twentieth_more_than_a_plain_one(tmp_path: Path) -> None:
    net, batch = deep(32), {"x": torch.randn(16, 3, 32, 32), "id": torch.arange(16), "y": torch.arange(16) % 10}
    large = deep(64)
    plain = Teacher(large, {"logits": ""}, inputs="x")
    cache = TeacherCache(tmp_path, teacher=plain.fingerprint, data="d")
    cache.add(batch["id"], plain(batch))
    cache.flush()
    teacher = Teacher(large, {"logits": ""}, inputs="x", keys="id", cache=TeacherCache(tmp_path))
    terms = [Term("task", lambda s, b: cross_entropy(s, b["y"]), "out")]
    alone, taught = Objective(terms), Objective([*terms, Term("kd", kl, "out", "logits")])
    student = Student(net, {})

    def step(objective: Objective, teaches: Callable[[dict[str, Tensor]], object] | None) -> None:
        seen = teaches(batch) if teaches else None
        objective(student(batch["x"]), seen, batch, 0)[0].backward()  # type: ignore[arg-type]
        net.zero_grad()

    found = ratio(lambda: step(taught, teacher), lambda: step(alone, None))
    live = ratio(lambda: step(taught, plain), lambda: step(alone, None), times=10)
    print(f"step from a cache / plain: {found:.4f}; with the teacher running: {live:.2f}")  # noqa: T201
    assert found <= 1.05
