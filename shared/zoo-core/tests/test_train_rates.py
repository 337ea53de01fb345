"""The learning rate's way, and what weight decay pulls at."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from zoo_core.train import decay_groups, warm_cosine

RUN = {"steps": 100, "warmup_steps": 10, "highest": 0.3, "lowest": 0.02}


def test_a_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    rates = [warm_cosine(step, **RUN) for step in range(101)]
    assert rates[:10] == pytest.approx([0.03 * (step + 1) for step in range(10)])
    assert rates[9] == rates[10] == max(rates) == pytest.approx(0.3)
    assert all(one > other for one, other in pairwise(rates[10:]))
    assert rates[55] == pytest.approx((0.3 + 0.02) / 2)
    assert rates[100] == pytest.approx(0.02)


def test_a_run_may_have_no_rise_and_no_fall() -> None:
    assert warm_cosine(0, steps=5, warmup_steps=0, highest=1.0, lowest=0.0) == 1.0
    assert warm_cosine(4, steps=5, warmup_steps=5, highest=1.0, lowest=0.0) == 1.0


def test_decay_pulls_at_matrices_that_learn_and_at_nothing_else() -> None:
    module = nn.ModuleDict({"a": nn.Linear(3, 2), "norm": nn.LayerNorm(2), "still": nn.Linear(2, 2)})
    module.register_parameter("place", nn.Parameter(torch.zeros(4, 2)))
    module["still"].requires_grad_(False)
    decayed, free = decay_groups(module, 0.1, free=("place",))
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert [id(one) for one in decayed["params"]] == [id(module["a"].weight)]
    named = {id(one): name for name, one in module.named_parameters()}
    assert {named[id(one)] for one in free["params"]} == {"a.bias", "norm.weight", "norm.bias", "place"}
