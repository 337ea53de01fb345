"""The order of the data: every sample once an epoch, the same for whoever asks when."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo_core.train import Order, step_generator


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
