"""Adapters, stages and rollouts: values and functions without state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from distill_parts import Net
from torch import nn

from zoo_core.distill.adapters import ClassMap, LayerNormed, PatchTokens, conv1x1, pca
from zoo_core.distill.adapters import linear as linear_adapter
from zoo_core.distill.rollout import Rollout, exit_index
from zoo_core.distill.stages import Plateau, Players, Stage
from zoo_core.errors import UsageError


def test_adapters_begin_as_they_say() -> None:
    wide, narrow = linear_adapter(4, 9), conv1x1(9, 4)
    torch.testing.assert_close(wide.weight.T @ wide.weight, torch.eye(4))
    torch.testing.assert_close(narrow.weight[:, :, 0, 0] @ narrow.weight[:, :, 0, 0].T, torch.eye(4))
    plane = torch.randn(50, 2) @ torch.randn(2, 7) + 3
    layer = pca(2, plane)
    inside = (plane - layer.bias) @ layer.weight
    torch.testing.assert_close(layer(inside), plane, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="cannot widen"):
        pca(8, plane)


def test_classes_are_matched_by_name_and_dropped_mass_is_told() -> None:
    mapped = ClassMap.between(["cat", "dog"], ["dog", "cow", "cat"])
    logits = torch.tensor([[1.0, -9.0, 2.0]])
    assert mapped(logits).tolist() == [[2.0, 1.0]]
    assert mapped.check(logits) < 1e-4
    with pytest.raises(UsageError, match=r"gives 9\d\.\d% of its probability"):
        mapped.check(torch.tensor([[0.0, 4.0, 0.0]]))
    with pytest.raises(UsageError, match=r"no class 'cow', 'pig'\."):
        ClassMap.between(["cow", "pig"], ["dog"])


def test_tokens_that_are_no_grid_are_refused() -> None:
    tokens = torch.arange(20.0).reshape(1, 10, 2)
    assert torch.equal(PatchTokens(1, (3, 3))(tokens), tokens[:, 1:])
    with pytest.raises(UsageError, match="no grid of 3 x 3"):
        PatchTokens(0, (3, 3))(tokens)
    torch.testing.assert_close(LayerNormed()(tokens).mean(-1), torch.zeros(1, 10))


def test_plateaus_are_functions_of_the_history() -> None:
    history = [{"acc": x} for x in (0.1, 0.5, 0.4, 0.5, 0.6, 0.6, 0.55)]
    ends = [n for n in range(len(history) + 1) if Plateau("acc", 2).reached(history[:n])]
    assert ends == [4, 7]
    assert not Plateau("acc", 2, higher=False).reached([{"acc": x} for x in (3.0, 2.0, 1.0)])
    with pytest.raises(UsageError, match=r"no metric 'ac'. Did you mean 'acc'"):
        Plateau("ac", 2).reached(history)
    with pytest.raises(UsageError, match="is no stage"):
        Stage("a/b", 3)


def test_turns_come_round() -> None:
    players = Players({"critic": 2, "generator": 1})
    assert [players.turn(step)[0] for step in range(7)] == list("ccgccgc")
    with pytest.raises(UsageError, match="no cycle"):
        Players({"critic": 0})


def test_rollouts_are_functions_of_seed_and_step() -> None:
    def make(student: nn.Module, data: Any, generator: torch.Generator, step: int) -> Any:
        noise = torch.randn(2, generator=generator)
        return {"y": student(torch.ones(2, 6)).sum(), "noise": noise}

    roll = Rollout(make, share=0.5, seed=3)
    student = Net()
    picked = [roll(student, None, step) is not None for step in range(400)]
    assert 150 < sum(picked) < 250
    step = picked.index(True)
    one, two = roll(student, None, step), roll(student, None, step)
    assert torch.equal(one["noise"], two["noise"])
    assert not torch.equal(one["noise"], roll(student, None, step, rank=1)["noise"])
    assert not one["y"].requires_grad
    assert Rollout(make, grad="last")(student, None, 0)["y"].requires_grad
    assert {exit_index(0, step, 4) for step in range(50)} == {0, 1, 2, 3}
