"""The parts of training: data order, averaged weights, logs, curves, steps, records."""

from __future__ import annotations

import hashlib
import math
import os
import random
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo_core.config import load_recipe
from zoo_core.errors import MissingDependencyError, UsageError
from zoo_core.train import Order, RunRecord, TrainRecipe, fit, launch, seed_all, step_generator
from zoo_core.train.curves import draw_curves
from zoo_core.train.ema import Ema
from zoo_core.train.generators import generator_states, kept_generators, restore_generators
from zoo_core.train.log import Table, read_table
from zoo_core.train.prefetch import Part, prefetched
from zoo_core.train.resume import optimizer_state, restore_optimizer
from zoo_core.train.structure import map_tensors, tensors_in
from zoo_core.weights.build import config_in
from zoo_core.weights.files import read_tensors

# -- order -------------------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 50), batch=st.integers(1, 70), seed=st.integers(0, 2**40))
def test_every_sample_comes_once_an_epoch(n: int, batch: int, seed: int) -> None:
    order = Order(n, batch, seed)
    walk = np.concatenate([order.indices(step) for step in range(math.ceil(3 * n / batch))])
    for epoch in range(3):
        assert sorted(walk[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(n=st.integers(1, 50), batch=st.integers(1, 70), steps=st.lists(st.integers(0, 10**6), max_size=5))
def test_a_step_has_the_same_samples_whoever_asks_when(n: int, batch: int, steps: list[int]) -> None:
    used = Order(n, batch, 7)
    for step in steps:
        assert used.indices(step).tolist() == Order(n, batch, 7).indices(step).tolist()


def test_the_order_never_changes() -> None:
    # golden, made by this code with numpy 2.4: a checkpoint of today must resume with the numpy of tomorrow
    walk = np.concatenate([Order(1000, 64, 5).indices(step) for step in range(40)])
    digest = hashlib.sha256(walk.astype("<i8").tobytes()).hexdigest()
    assert digest == "d4a73669892fa713b849d79a1e2f44a3b485b382e10d648be8175f5a460e9fde"
    assert Order(5, 3, 0).epoch(0).tolist() != Order(5, 3, 1).epoch(0).tolist()


def test_first_places_are_uniform() -> None:
    first = Counter(int(Order(4, 4, seed).epoch(0)[0]) for seed in range(4000))
    # four standard deviations of a binomial
    assert all(abs(count - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75) for count in first.values()), first


def test_draws_of_a_step() -> None:
    def draw(seed: int, step: int) -> float:
        return float(torch.rand((), generator=step_generator(seed, step)))

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(seed, step) for seed in range(10) for step in range(10)}) == 100


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="n=0"):
        Order(0, 4, 0)


# -- prefetch and structure --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "kind"), [(0, "process"), (1, "thread"), (4, "thread"), (2, "process")])
def test_workers_change_nothing(workers: int, kind: Any) -> None:
    order = Order(103, 16, 0)
    made = list(prefetched(order.indices, range(3, 23), workers=workers, kind=kind))
    assert [batch.tolist() for batch in made] == [order.indices(step).tolist() for step in range(3, 23)]


WORKERS = """
import multiprocessing, sys, time
from zoo_core.train.order import Order
from zoo_core.train.prefetch import prefetched
if __name__ == "__main__":
    batches = prefetched(Order(9, 2, 0).indices, range(10**9), workers=1)
    next(batches)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


def test_workers_outlive_signals_but_not_their_parent(tmp_path: Path) -> None:
    # else kill -9 would leave processes behind, and Ctrl-C would break the batches before the state is saved
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker, number)
        time.sleep(0.2)
        os.kill(worker, 0)
        process.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            # an orphan that nobody collects stays in the table as a zombie
            if f"{worker} " not in (stat := Path(f"/proc/{worker}/stat").read_text()) or ") Z " in stat:
                return
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")


def test_a_failing_batch_is_an_error_in_its_place() -> None:
    def make(step: int) -> int:
        if step == 4:
            raise ValueError("bad sample")
        return step

    batches = prefetched(make, range(9), workers=3, kind="thread")
    assert [next(batches) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="bad sample"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_runs_out_of_something_does_not_end_the_run_as_if_all_were_well(workers: int) -> None:
    def make(step: int) -> int:
        return step if step < 2 else next(iter(()))

    batches = prefetched(make, range(9), workers=workers, kind="thread")
    assert [next(batches) for _ in range(2)] == [0, 1]
    with pytest.raises((RuntimeError, StopIteration)) as caught:
        next(batches)
    assert caught.type is RuntimeError


@dataclass(frozen=True)
class Crops:
    low: Tensor
    names: list[str]


class Pair(NamedTuple):
    a: Tensor
    b: Any


def test_batches_may_be_nested() -> None:
    batch = {
        "x": [torch.ones(4, 2), (torch.zeros(()), "text")],
        "y": Crops(torch.ones(4), ["a"]),
        "z": Pair(torch.ones(4), None),
    }
    doubled = map_tensors(lambda t: t * 2, batch)
    assert [float(t.sum()) for t in tensors_in(doubled)] == [16, 0, 8, 8]
    assert doubled["x"][1][1] == "text"
    assert isinstance(doubled["y"], Crops)
    assert isinstance(doubled["z"], Pair)


def test_parts_of_a_batch_make_it_whole() -> None:
    def make(step: int) -> dict[str, Tensor]:
        return {"x": torch.arange(6) + step, "weight": torch.tensor(0.5)}

    parts = [Part(make, 6, rank, 3)(10) for rank in range(3)]
    assert torch.cat([part["x"] for part in parts]).tolist() == list(range(10, 16))
    assert all(part["weight"] == 0.5 for part in parts)


# -- weights, optimiser, generators ------------------------------------------------------------------------------------


def test_ema_equals_its_closed_form() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = Ema(module, decay=0.9)
    history = [{k: v.clone().double() for k, v in module.state_dict().items()}]
    for step in range(40):
        with torch.no_grad():
            for value in module.parameters():
                value.add_(torch.randn_like(value))
        module[1].num_batches_tracked += 1
        ema.update(step)
        history.append({k: v.clone().double() for k, v in module.state_dict().items()})
    # e_T = sum_t w_t (1 - d_t) prod_{s > t} d_s, with w_0 unweighted by (1 - d)
    decays = [min(0.9, (1 + t) / (10 + t)) for t in range(40)]
    shares = [math.prod(decays)] + [(1 - decays[t]) * math.prod(decays[t + 1 :]) for t in range(40)]
    assert math.isclose(sum(shares), 1)
    for name, value in ema.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 40
            continue
        expected = sum(share * state[name] for share, state in zip(shares, history, strict=True))
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, betas=(0.8, 0.9), amsgrad=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.Rprop(p),
    ],
    ids=["adam", "momentum", "sgd", "rprop"],
)
def test_optimisers_survive_a_checkpoint(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    import json

    def steps(weight: nn.Parameter, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (weight**3).sum().backward()
            optimizer.step()

    one = nn.Parameter(torch.arange(4.0))
    optimizer = make([one])
    steps(one, optimizer, 3)
    tensors, rest = optimizer_state(optimizer)
    tensors, rest = {k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(rest))
    two = nn.Parameter(one.detach().clone())
    steps(one, optimizer, 3)
    other = make([two])
    restore_optimizer(other, tensors, rest)
    steps(two, other, 3)
    assert torch.equal(one, two)


def test_restored_moments_lie_in_memory_as_their_parameters_do() -> None:
    # the fused optimisers refuse anything else, which only a GPU run would show
    weight = nn.Parameter(torch.rand(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([weight])
    weight.square().sum().backward()
    optimizer.step()
    tensors, rest = optimizer_state(optimizer)
    other = torch.optim.Adam([weight])
    restore_optimizer(other, {name: tensor.contiguous() for name, tensor in tensors.items()}, rest)
    assert other.state[weight]["exp_avg"].stride() == weight.stride()
    assert torch.equal(other.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])


def test_generators_go_through_json() -> None:
    import json

    def draw() -> tuple[float, float, float]:
        return random.gauss(0, 1), float(np.random.randn()), float(torch.rand(()))

    seed_all(3)
    draw()
    states = json.loads(json.dumps(generator_states()))
    first = [draw() for _ in range(3)]
    restore_generators(states)
    with kept_generators():
        draw()
    assert [draw() for _ in range(3)] == first
    seed_all(3)
    one = draw()
    seed_all(3, rank=1)
    assert draw() != one


# -- logs --------------------------------------------------------------------------------------------------------------


def test_a_table_forgets_what_is_repeated_and_what_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    table = Table(path, after=0)
    for step in range(1, 5):
        table.add({"step": step, "loss": 1 / step})
    with path.open("a") as file:
        file.write("5,0.")  # killed here
    table = Table(path, after=3)
    table.add({"step": 4, "loss": 0.5, "extra": 7.5})
    read = read_table(path)
    assert [row["step"] for row in read] == [1, 2, 3, 4]
    assert [row["loss"] for row in read] == [1, 1 / 2, 1 / 3, 0.5]
    assert math.isnan(read[0]["extra"])
    assert read[3]["extra"] == 7.5
    assert Table(path, after=0).columns == []
    assert read_table(path) == []


def test_tensorboard_is_named_when_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recipe = line_recipe(tensorboard=True)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        fit(Line(recipe), recipe, tmp_path / "run")


def test_curves_are_well_formed(tmp_path: Path) -> None:
    assert draw_curves(tmp_path) is None
    losses, metrics = Table(tmp_path / "log.csv", after=0), Table(tmp_path / "eval.csv", after=0)
    for step in range(1, 9):
        losses.add({"step": step, "loss": 10.0**-step, "a<b": 1.0, "learning_rate": 0.1})
    metrics.add({"step": 8, "psnr": 30.0})
    path = draw_curves(tmp_path)
    assert path is not None
    text = path.read_text()
    lines = ET.fromstring(text).findall("{*}polyline")  # noqa: S314 (our own text)
    assert len(lines) == 3  # the learning rate is no curve
    assert "loss (logarithmic)" in text
    assert "nan" not in text


# -- a whole run -------------------------------------------------------------------------------------------------------


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


class Wider(Line):
    """A network that is not the manifest's, with a part that is not published."""

    def config(self) -> dict[str, Any]:
        return {"width": 32, "names": ["a", "ω"]}

    def published(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in tensors.items() if key.startswith("0.")}


def test_weights_bring_the_config_that_their_network_needs(tmp_path: Path) -> None:
    recipe = line_recipe(steps=2)
    record = fit(Wider(recipe), recipe, tmp_path)
    tensors, facts = read_tensors(tmp_path / "weights.safetensors")
    assert config_in(facts, what="weights") == {"width": 32, "names": ["a", "ω"]}
    assert tensors.keys() == {"0.weight", "0.bias"}
    assert record.parameters == 8 * 32 + 32


def test_a_run_learns_and_leaves_its_papers(tmp_path: Path) -> None:
    recipe = line_recipe()
    task = Line(recipe)
    bare = task.module
    record = fit(task, recipe, tmp_path / "run")
    assert task.module is bare
    losses = [row["loss"] for row in read_table(tmp_path / "run" / "log.csv")]
    assert losses[-1] < losses[0] / 5
    assert record == RunRecord.model_validate_json((tmp_path / "run" / "record.json").read_text())
    assert load_recipe(tmp_path / "run" / "recipe.resolved.yaml", [], TrainRecipe) == recipe
    assert record.weights is not None
    file = tmp_path / "run" / "weights.safetensors"
    assert record.weights["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    # what is published is what was evaluated: the averaged weights
    fresh = Line(recipe).module
    fresh.load_state_dict(load_file(file))
    with torch.no_grad():
        assert Line(recipe).evaluate(fresh.eval()) == record.metrics
    assert str(tmp_path) not in record.model_dump_json()


@pytest.mark.parametrize("keys", [{"clip_norm": 0.1}, {"precision": "bf16"}, {"ema_decay": 0.0}, {"precision": "tf32"}])
def test_other_ways_of_training(tmp_path: Path, keys: dict[str, Any]) -> None:
    recipe = line_recipe(**keys)
    fit(Line(recipe), recipe, tmp_path / "run")
    losses = [row["loss"] for row in read_table(tmp_path / "run" / "log.csv")]
    assert losses[-1] < losses[0] * 0.7


def test_a_dry_run_writes_nothing_and_says_how_long(tmp_path: Path) -> None:
    recipe = line_recipe(steps=10_000)
    record = fit(Line(recipe), recipe, tmp_path / "run", dry_run=True)
    assert record.status == "dry run"
    assert record.metrics["whole_run_seconds"] > 9_000 * record.metrics["step_seconds"] > 0
    assert record.metrics["step_memory_bytes"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"graph": True}, "graph=true needs a CUDA device"),
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"graph": True, "precision": "fp16"}, "graph=true and precision=fp16 need a CUDA device"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        launch(line_recipe(device="cpu", **keys))
    assert all(f"{key}=" in caught.value.remedy for key in keys)


def assert_same_losses(one: Path, two: Path, *, rel: float, after: int = 0) -> None:
    # losses, not weights: a bias before a normalisation has no gradient but rounding, which Adam makes large
    first, second = ({row["step"]: row["loss"] for row in read_table(out / "log.csv")} for out in (one, two))
    steps = {step for step in first.keys() & second.keys() if step > after}
    assert max(first) in steps
    for step in steps:
        assert second[step] == pytest.approx(first[step], rel=rel, abs=rel)


@pytest.mark.slow
def test_compiled_trains_the_same(tmp_path: Path) -> None:
    for name, keys in {"plain": {}, "compiled": {"compile": True}}.items():
        recipe = line_recipe(steps=20, **keys)
        fit(Line(recipe), recipe, tmp_path / name)
    assert_same_losses(tmp_path / "plain", tmp_path / "compiled", rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "keys", [{"graph": True}, {"compile": True}, {"compile": True, "graph": True}, {"graph": True, "clip_norm": 1.0}]
)
def test_graphs_and_compilers_train_the_same(tmp_path: Path, precision: Any, keys: dict[str, Any]) -> None:
    plain = {key: value for key, value in keys.items() if key == "clip_norm"}
    for name, ways in {"plain": plain, "fast": keys}.items():
        recipe = line_recipe(device="cuda", precision=precision, **ways)
        fit(Line(recipe, "cuda"), recipe, tmp_path / name)
    assert_same_losses(tmp_path / "plain", tmp_path / "fast", rel=1e-2 if precision in ("fp32", "tf32") else 0.1)


class Ragged(Line):
    """Batches of three sizes, in turns."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x, weight = super().batch(step)
        return x[: (24, 9, 16)[step % 3]], weight


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("keys", [{}, {"clip_norm": 1.0}, {"precision": "fp16"}, {"compile": True}])
def test_there_is_a_graph_for_each_shape_of_batch(tmp_path: Path, keys: dict[str, Any]) -> None:
    for name, graph in {"plain": False, "graphs": True}.items():
        recipe = line_recipe(device="cuda", graph=graph, **keys)
        fit(Ragged(recipe, "cuda"), recipe, tmp_path / name)
    assert_same_losses(tmp_path / "plain", tmp_path / "graphs", rel=0.1 if "precision" in keys else 1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_resumes(tmp_path: Path) -> None:
    whole = line_recipe(device="cuda", graph=True, save_every=10)
    fit(Line(whole, "cuda"), whole, tmp_path / "whole")
    short = line_recipe(device="cuda", graph=True, save_every=10, time_limit_minutes=1e-9)
    assert fit(Line(short, "cuda"), short, tmp_path / "parts").steps == 1
    fit(Line(whole, "cuda"), whole, tmp_path / "parts")
    assert_same_losses(tmp_path / "whole", tmp_path / "parts", rel=1e-2, after=10)
