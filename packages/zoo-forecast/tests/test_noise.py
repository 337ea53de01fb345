"""Noise: standard normal, of its place alone, and coherent over tokens."""

from __future__ import annotations

import pytest
import torch

from zoo_forecast.noise import coherent, key, normal

KEYS = [key(0, item) for item in ("a", "b", "c")]


def test_it_is_standard_normal_and_uncorrelated() -> None:
    x = normal(KEYS, 200, 4, 48).double()
    assert abs(float(x.mean())) < 0.02
    assert float(x.var()) == pytest.approx(1, abs=0.02)
    assert float((x**4).mean()) == pytest.approx(3, abs=0.1)
    assert x.unique().numel() > 0.99 * x.numel()
    for axis in range(4):
        n = x.shape[axis] - 1
        neighbours = x.narrow(axis, 0, n) * x.narrow(axis, 1, n)
        assert abs(float(neighbours.mean())) < 5 / neighbours.numel() ** 0.5, f"neighbours along axis {axis} correlate"


def test_a_value_depends_on_its_place_alone() -> None:
    whole = normal(KEYS, 10, 6, 16)
    assert torch.equal(normal(KEYS[1:2], 10, 6, 16)[0], whole[1])
    assert torch.equal(normal(KEYS, 3, 2, 16), whole[:, :3, :2])
    assert torch.equal(normal(KEYS, 10, 4, 16, first=2), whole[:, :, 2:])


def test_keys_differ_by_seed_and_by_item() -> None:
    assert len({key(seed, item) for seed in range(10) for item in ("a", "b", "1", "")}) == 40


@pytest.mark.parametrize("coherence", [0.0, 0.5, 0.9, 1.0])
def test_tokens_follow_each_other_and_stay_standard(coherence: float) -> None:
    x = coherent(normal(KEYS, 300, 6, 16), coherence=coherence)
    assert float(x[:, :, -1].var()) == pytest.approx(1, abs=0.05)
    assert float((x[:, :, 1:] * x[:, :, :-1]).mean()) == pytest.approx(coherence, abs=0.05)


def test_coherent_noise_goes_on_where_it_was() -> None:
    fresh = normal(KEYS, 4, 6, 16)
    whole = coherent(fresh, coherence=0.7)
    first = coherent(fresh[:, :, :2], coherence=0.7)
    torch.testing.assert_close(coherent(fresh[:, :, 2:], first[:, :, -1], coherence=0.7), whole[:, :, 2:])
