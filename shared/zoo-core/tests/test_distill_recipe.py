"""Distillation as data: a recipe is the same as code, and slips in it are named."""

from __future__ import annotations

from typing import Any

import pytest
from distill_parts import Net, batch, labels, teacher
from torch import Tensor, nn

from zoo_core.config import parse_yaml
from zoo_core.distill import (
    Objective,
    Student,
    Term,
    cosine,
    linear,
    steps,
)
from zoo_core.distill.losses.features import spatial_attention
from zoo_core.distill.recipe import DistillRecipe, objective, point, schedule, stages
from zoo_core.distill.rehearsal import rehearse
from zoo_core.distill.stages import Plateau
from zoo_core.errors import UsageError
from zoo_core.probe import Point

SECTION = """
teacher: yolov4-voc
cache: kd-cache
points: {p3: neck.p3, q: "blocks.3.attn:q"}
terms:
  at: {loss: spatial_attention, at: p3, p: 3, weight: {linear: [0, 50, 0, 1000]}}
  kd: {loss: kl, student: out, teacher: logits, tau: {cosine: [4, 1, 0, 100]}, only: labelled}
  feature: {loss: mse, at: p3, adapter: {conv1x1: [8, 16]}, weight: {steps: [1, [500, 0]]}}
stages:
  - {name: warm, steps: 1000, train: ["neck.*"]}
  - {name: all, steps: 9000, until: {metric: map50, patience: 5}, optimizer: keep}
"""


def section(text: str = SECTION, **terms: Any) -> DistillRecipe:
    data = parse_yaml(text, origin="test")
    data["terms"].update(terms)
    return DistillRecipe.model_validate(data)


def test_a_recipe_is_the_same_objective_as_code() -> None:
    made = objective(section(), [Term("task", labels, "out")])
    _, at, kd, feature = made.terms
    assert (at.loss, at.student, at.teacher, at.weight) == (spatial_attention, "p3", "p3", linear(0, 50, 0, 1000))
    assert at.constants == {"p": 3}
    assert (kd.only, kd.constants) == ("labelled", {"tau": cosine(4, 1, 0, 100)})
    assert feature.weight == steps(1, (500, 0))
    assert isinstance(feature.adapter, nn.Conv2d)
    assert made.balance is None
    balanced = objective(section(SECTION + "balance: {at: p3, every: 10}\n"), []).balance
    assert balanced is not None
    assert (balanced.at, balanced.decay, balanced.every) == ("p3", 0.99, 10)
    warm, everything = stages(section())
    assert (warm.train, everything.until, everything.optimizer) == (("neck.*",), Plateau("map50", 5), "keep")
    assert point(section().points["q"]) == Point("blocks.3.attn", "q")


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"loss": "spatial_atention", "at": "p3"}, "Did you mean 'spatial_attention'"),
        ({"loss": "kl", "at": "p3", "taw": 2}, r"no key 'taw'. Did you mean 'tau'"),
        ({"loss": "kl"}, "says no point"),
        ({"loss": "kl", "at": "p3", "weight": {"linaer": [0, 1, 0, 9]}}, "Did you mean 'linear'"),
        ({"loss": "kl", "at": "p3", "weight": {"linear": [0, 1]}}, r"takes \(first, last, start, end\)"),
        ({"loss": "kl", "at": "p3", "weight": "big"}, "neither a number nor a schedule"),
        ({"loss": "mse", "at": "p3", "adapter": {"conv": [8, 16]}}, "no adapter 'conv'"),
        ({"loss": "mse", "at": "p3", "adapter": "conv1x1"}, r"Write \{linear: \[64, 128\]\}"),
    ],
)
def test_slips_in_a_recipe_are_named(term: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        objective(section(at=term), [])


def test_points_and_schedules_as_text() -> None:
    assert point("neck.p3") == Point("neck.p3")
    with pytest.raises(UsageError, match="has no 'head'"):
        point("attn:head")
    assert schedule(2, where="w") == 2.0


def test_a_new_method_is_one_small_file_and_no_change_of_the_core() -> None:
    # a stranger's loss goes through terms, recipes and the dry run like one of ours
    def hint(student: Tensor, other: Tensor, *, margin: float = 0.0) -> Tensor:
        return (student - other).abs().sub(margin).clamp(min=0).mean(1)

    recipe = section(at={"loss": "hint", "student": "out", "teacher": "logits", "margin": 0.01})
    first = objective(recipe, [], losses={"hint": hint}).terms[0]
    found = rehearse(Objective([first]), Student(Net(), {}), teacher(), batch(), inputs="x")
    assert found.rows[0].gradient > 0
