"""Averages, optimisers and generators: what a checkpoint takes up and gives back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zoo_core.train import seed_all
from zoo_core.train.ema import Ema
from zoo_core.train.generators import generator_states, kept_generators, restore_generators
from zoo_core.train.resume import optimizer_state, restore_optimizer


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
