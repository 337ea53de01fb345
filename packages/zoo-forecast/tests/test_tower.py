"""The light tower: what it learns from MiniLM, and that a text is read alike whatever is beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoo_core.catalog import find
from zoo_core.config import load_recipe
from zoo_core.errors import WeightsError
from zoo_core.weights.eight_bits import compact
from zoo_core.weights.files import write_tensors
from zoo_forecast import minilm
from zoo_forecast.bert import BERT
from zoo_forecast.light_tower import LightTower, open_tower
from zoo_forecast.small_exam import Exam, events
from zoo_forecast.small_task import Recipe
from zoo_forecast.tower_task import FIRST_WORD, LONGEST, TowerTask
from zoo_forecast.words import CLS, SEP

CPU = torch.device("cpu")
RECIPE = find("aurora-small").recipe_path().parent / "aurora-small-tower.yaml"
TEXTS = ["The plant closes in 3 days.", "Sales rise by a third from Monday on.", "Nothing happens. " * 100]


@pytest.fixture
def task() -> TowerTask:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = BERT(width=384, heads=2, layers=1, feed_forward=16, vocabulary=30522, positions=512).eval()
        tower = LightTower(rank=16, width=32, layers=1, heads=2, feed_forward=32)
        settings = load_recipe(RECIPE, ["batch=6", "learning_rate=3e-3"], Recipe, smoke=True)
        return TowerTask(tower, teacher, settings, TEXTS, Exam([], events(4)), None, CPU)


def test_the_recipe_loads() -> None:
    assert load_recipe(RECIPE, [], Recipe, smoke=False).tuned == "tower"


def test_the_student_approaches_its_teacher(task: TowerTask) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = task.optimizer()
        first = task.loss(task.batch(0))[1]
        before = task.evaluate(task.module)
        for step in range(40):
            optimizer.zero_grad()
            task.loss(task.batch(step))[0].backward()
            optimizer.step()
        last = task.loss(task.batch(0))[1]
    assert last["features"] < 0.7 * first["features"]
    assert last["relations"] < first["relations"]
    assert task.evaluate(task.module)["rows"] < before["rows"], "phrases that were not learnt are read better too"
    task.check_unchanged()


def test_a_step_shows_the_same_texts_whenever_it_comes(task: TowerTask) -> None:
    one, again, next_one = task.batch(3), task.batch(3), task.batch(4)
    assert torch.equal(one.pieces, again.pieces)
    assert not torch.equal(one.pieces[:, :5], next_one.pieces[:, :5])


def test_words_are_replaced_and_signs_are_not(task: TowerTask) -> None:
    known = {number for cut in task.cut for number in cut.numbers}
    seen = [task.batch(step) for step in range(20)]
    strange = {number for read in seen for number in read.pieces.flatten().tolist()} - known - {0}
    assert strange
    assert min(strange) >= FIRST_WORD
    assert all((read.pieces[:, 0] == CLS).all() for read in seen)
    short = [(row, length) for read in seen for row, length in zip(read.pieces, read.lengths, strict=True)]
    assert all(row[length - 1] == SEP for row, length in short if length < min(LONGEST))


def test_every_place_of_a_text_is_learnt(task: TowerTask) -> None:
    longest = max(int(task.batch(step).lengths.max()) for step in range(40))
    assert longest == minilm.PIECES


def test_a_text_is_read_alike_beside_longer_ones(task: TowerTask) -> None:
    alone, together = minilm.read(task.module, TEXTS[:1]), minilm.read(task.module, TEXTS)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=2e-3)  # kept in half precision


def test_what_is_published_opens_again(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = LightTower().eval()
    path = tmp_path / "tower.safetensors"
    write_tensors(path, compact(tower.state_dict(), but=minilm.PLACES), {})
    assert path.stat().st_size < 6 * 2**20, "it travels in the wheel"
    own, opened = (minilm.read(one, TEXTS).float() for one in (tower, open_tower(path, device=CPU)))
    assert (own - opened).square().mean().sqrt() < 0.05 * own.square().mean().sqrt()


def test_the_packaged_tower_is_the_one_that_the_manifest_names() -> None:
    (part,) = find("aurora-small").manifest.parts
    assert part.size_bytes < 6 * 2**20
    rows = minilm.read(open_tower(device=CPU), TEXTS).float()
    assert rows.isfinite().all()
    # what it was taught: two texts about the same thing are nearer than two about different ones
    said = ["Sales will rise sharply next month.", "Sales should jump strongly in a month.", "The server is down."]
    near, far = minilm.read(open_tower(device=CPU), said).float().sum(1)[1:].unbind()
    first = minilm.read(open_tower(device=CPU), said[:1]).float().sum(1)[0]
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(first, near, dim=0) > cosine(first, far, dim=0)


def test_another_file_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find("aurora-small")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "light-tower.safetensors").write_bytes(b"x")
    monkeypatch.setattr("zoo_forecast.light_tower.find", lambda _: replace(entry, folder=tmp_path))
    with pytest.raises(WeightsError, match="light-tower has 4"):
        open_tower(device=CPU)
