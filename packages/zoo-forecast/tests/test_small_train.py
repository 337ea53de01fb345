"""Training of Aurora small beside what the conformance suite tests: tuning, losses, fewer steps of the flow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from tiny_small import tiny_small

from zoo_core.catalog import find
from zoo_core.config import load_recipe
from zoo_core.errors import MissingDependencyError
from zoo_core.weights.files import read_tensors, write_tensors
from zoo_forecast import minilm
from zoo_forecast.corpus import Corpus, Track
from zoo_forecast.small import LEVELS, AuroraSmall, Outlook
from zoo_forecast.small_exam import Exam, held_out
from zoo_forecast.small_inputs import Inputs
from zoo_forecast.small_steps import Journey, StepsTask
from zoo_forecast.small_task import Recipe, quantile_loss
from zoo_forecast.train import train
from zoo_forecast.windows import Window, Windows

CPU = torch.device("cpu")
ENTRY = find("aurora-small")
RECIPES = ENTRY.recipe_path().parent


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    stamps = np.datetime64("2024-01-01", "us") + np.arange(300) * np.timedelta64(1, "D")
    path = tmp_path / "mine.parquet"
    table = {"item_id": ["a"] * 300, "timestamp": stamps, "target": np.sin(np.arange(300) * 2 * np.pi / 7) + 5}
    parquet.write_table(arrow.table(table), path)
    return path


def test_tuning_to_few_series_moves_the_heads_alone(mine: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = AuroraSmall(**ENTRY.manifest.config).state_dict()
    start = tmp_path / "start.safetensors"
    write_tensors(start, before, {})
    record = train(
        ENTRY,
        [f"packs=[{mine}]", f"init={start}", "steps=2", "batch=2", "device=cpu"],
        recipe=RECIPES / "aurora-small-finetune.yaml",
        out=tmp_path / "run",
    )
    assert {"crps_mine", "coverage"} <= record.metrics.keys()
    after, _ = read_tensors(tmp_path / "run" / "weights.safetensors")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved <= {"decoder", "decoded", "head", "flow"}
    assert "head" in moved
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("decoder.0."))


def test_texts_of_packs_are_not_passed_over_silently(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = parquet.read_table(mine)
    parquet.write_table(table.append_column("text", arrow.array(["said"] * 300)), mine)
    monkeypatch.setenv("ZOO_PACKS", str(tmp_path))
    monkeypatch.setattr(minilm, "find_spec", lambda _: None)
    arguments = [f"packs=[{mine}]", "steps=1", "batch=2", "device=cpu"]
    with pytest.raises(MissingDependencyError, match="MiniLM"):
        train(ENTRY, arguments, recipe=RECIPES / "aurora-small-finetune.yaml", out=tmp_path / "run")


@pytest.mark.parametrize("name", ["aurora-small", "aurora-small-finetune", "aurora-small-steps"])
def test_recipes_load(name: str) -> None:
    for smoke in (False, True):
        assert load_recipe(RECIPES / f"{name}.yaml", [], Recipe, smoke=smoke).steps > 0


def test_the_flow_learns_to_arrive_in_one_step() -> None:
    made = [Track("a", np.sin(np.arange(400) * 0.9) + np.arange(400) / 50, 7, group="a")]
    corpus = Corpus(made, CPU)
    settings = load_recipe(
        RECIPES / "aurora-small-steps.yaml", ["batch=8", "taught_steps=8", "learning_rate=3e-3"], Recipe, smoke=True
    )
    network = tiny_small()
    windows = Windows(corpus, corpus, None, None, settings.shares, 48)
    task = StepsTask(network, settings, windows, Exam([]), CPU)
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items() if not name.startswith("flow.")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = task.evaluate(network)
        optimizer = task.optimizer()
        for step in range(60):
            optimizer.zero_grad()
            loss, _ = task.loss(task.batch(step))
            loss.backward()
            optimizer.step()
        after = task.evaluate(network)
    assert after["off_1"] < 0.7 * before["off_1"]
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in kept.items())
    task.check_unchanged()
    assert task.config() == {"sampling_steps": 4}


def test_more_steps_of_a_flow_are_what_the_sampler_does() -> None:
    network = tiny_small()
    start = torch.randn(3, 48 + 16)
    with torch.no_grad():
        ends = [Journey(network.flow, steps)(start) for steps in (1, 50, 60)]
    assert (ends[1] - ends[2]).abs().max() < 0.2 * (ends[0] - ends[2]).abs().max()


def outlook(median: torch.Tensor) -> tuple[Outlook, Inputs]:
    quantiles = median[..., None] + torch.special.ndtri(torch.tensor(LEVELS))
    one = torch.ones(len(median))
    inputs = Inputs(one, one, one, one, one, one)
    return Outlook(quantiles, one, one), inputs


def test_the_quantile_loss_is_least_for_the_true_quantiles_and_masks_what_is_not_asked() -> None:
    target = torch.randn(1, 4, 2000, generator=torch.Generator().manual_seed(0))
    asked = torch.ones_like(target)
    losses = []
    for shift in (-0.5, 0.0, 0.5):
        expected, inputs = outlook(torch.full_like(target, shift))
        losses.append(quantile_loss(expected, Window(inputs, target, asked)))
    assert losses[1] < min(losses[0], losses[2])
    asked[:, 2:] = 0
    expected, inputs = outlook(torch.zeros_like(target))
    spoilt = torch.where(asked > 0, target, 1e3)
    masked = (quantile_loss(expected, Window(inputs, values, asked)) for values in (target, spoilt))
    assert torch.equal(*masked)


def test_the_exam_scores_each_source() -> None:
    values = [np.random.default_rng(n).standard_normal(400).cumsum() for n in range(2)]
    asked = held_out([Track(f"s{n}", own, 7, group=f"s{n}") for n, own in enumerate(values)])
    scores = Exam(asked)(tiny_small())
    assert scores.keys() == {"crps_s0", "crps_s1", "crps", "mae", "coverage"}
    assert scores["crps"] == pytest.approx((scores["crps_s0"] * scores["crps_s1"]) ** 0.5)
    assert 0 <= scores["coverage"] <= 1


def test_questions_ask_for_what_is_held_out() -> None:
    values = np.random.default_rng(0).standard_normal(1000).cumsum()
    track = Track("a", values, 24, group="a")
    asked = held_out([track])
    assert asked
    for question in asked:
        begin = next(n for n in range(1000) if np.array_equal(values[n : n + len(question.coming)], question.coming))
        assert begin >= track.held
        assert np.array_equal(question.past, values[max(0, begin - len(question.past)) : begin])
