"""Whole runs of a small network: what they leave behind, and every way of training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from train_parts import Line, line_recipe

from zoo_core.config import load_recipe
from zoo_core.errors import UsageError
from zoo_core.train import RunRecord, TrainRecipe, fit, launch
from zoo_core.train.log import read_table
from zoo_core.train.state import existing, read_checkpoint
from zoo_core.weights.build import config_in
from zoo_core.weights.files import read_tensors


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


def by_inductor(test: Any) -> Any:
    """Give PyTorch's compiler its time, and only show what it says of a machine (no tf32, no libdevice)."""
    return pytest.mark.timeout(300)(pytest.mark.filterwarnings("default")(test))


def assert_same_losses(one: Path, two: Path, *, rel: float, after: int = 0, what: str = "loss") -> None:
    # losses, not weights: a bias before a normalisation has no gradient but rounding, which Adam makes large
    first, second = ({row["step"]: row[what] for row in read_table(out / "log.csv")} for out in (one, two))
    steps = {step for step in first.keys() & second.keys() if step > after}
    assert max(first) in steps
    for step in steps:
        assert second[step] == pytest.approx(first[step], rel=rel, abs=rel)


class Parted(Line):
    """Compiled part by part."""

    def __init__(self, recipe: TrainRecipe) -> None:
        super().__init__(recipe)
        self.network = self.module

    def parts(self) -> list[nn.Module]:
        return [self.network]


@pytest.mark.slow
@by_inductor
@pytest.mark.parametrize("task", [Line, Parted])
def test_compiled_trains_the_same(tmp_path: Path, task: type[Line]) -> None:
    for name, keys in {"plain": {}, "compiled": {"compile": True}}.items():
        recipe = line_recipe(steps=20, **keys)
        fit(task(recipe), recipe, tmp_path / name)
    assert_same_losses(tmp_path / "plain", tmp_path / "compiled", rel=1e-3)


def test_only_the_parts_that_a_task_names_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda part, **how: compiled.append(part))
    monkeypatch.setattr(torch, "compile", lambda whole: pytest.fail("the whole was compiled"))
    recipe = line_recipe(steps=2, compile=True)
    task = Parted(recipe)
    fit(task, recipe, tmp_path / "run")
    assert compiled == [task.network]


class Faint(Line):
    """The same, with a loss so small that no gradient times the scaler's first scale is too large for fp16.

    Otherwise the first steps are skipped until the scale fits: two of them as PyTorch's kernels round what the last
    layer sends back to fp16, none as a compiled kernel adds it up in fp32, and the runs are two steps apart.
    """

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x, weight = super().batch(step)
        return x, weight / 1024


KEYS: list[dict[str, Any]] = [
    {"graph": True}, {"compile": True}, {"compile": True, "graph": True}, {"graph": True, "clip_norm": 1.0},
]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@by_inductor
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("keys", KEYS)
def test_graphs_and_compilers_train_the_same(tmp_path: Path, precision: Any, keys: dict[str, Any]) -> None:
    plain = {key: value for key, value in keys.items() if key == "clip_norm"}
    for name, ways in {"plain": plain, "fast": keys}.items():
        recipe = line_recipe(device="cuda", precision=precision, **ways)
        fit(Line(recipe, "cuda"), recipe, tmp_path / name)
    assert_same_losses(tmp_path / "plain", tmp_path / "fast", rel=0.1 if precision == "bf16" else 1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@by_inductor
@pytest.mark.parametrize("keys", KEYS)
def test_graphs_and_compilers_train_the_same_in_fp16(tmp_path: Path, keys: dict[str, Any]) -> None:
    plain = {key: value for key, value in keys.items() if key == "clip_norm"}
    for name, ways in {"plain": plain, "fast": keys}.items():
        recipe = line_recipe(device="cuda", precision="fp16", **ways)
        fit(Faint(recipe, "cuda"), recipe, tmp_path / name)
        scaler = read_checkpoint(existing(tmp_path / name / "checkpoints")[0]).data["scaler"]
        assert scaler["scale"] == torch.amp.GradScaler("cuda").get_scale(), "a step was skipped"
    assert_same_losses(tmp_path / "plain", tmp_path / "fast", rel=0.05, what="mae")


class Ragged(Line):
    """Batches of three sizes, in turns."""

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        x, weight = super().batch(step)
        return x[: (24, 9, 16)[step % 3]], weight


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@by_inductor
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
