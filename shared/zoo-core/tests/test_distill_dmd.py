"""DMD and Phased DMD: the critic's minimum is the right score, and phases keep modes that a random exit loses."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo_core.distill import dmd
from zoo_core.errors import UsageError

TOOL = Path(__file__).parents[3] / "tools/distill_flow.py"


@settings(deadline=None)
@given(s=st.floats(0, 0.9), share=st.floats(0, 1), std=st.floats(0.1, 3))
def test_noising_from_any_time_gives_the_distribution_of_the_later_one(s: float, share: float, std: float) -> None:
    t = torch.tensor([s + share * (1 - s)], dtype=torch.float64)
    a, b = dmd.coefficients(t, s)
    variance = lambda time: (1 - time) ** 2 * std**2 + time**2  # noqa: E731 - of Gaussian data
    torch.testing.assert_close(a.square() * variance(s) + b.square(), variance(t), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(a * (1 - s), 1 - t)


def slope(s: float, t: float, *, naive: bool) -> float:
    """The k of the best e_hat(x_t) = k x_t on Gaussian data of deviation 0.7, as the critic's loss has it."""
    draws = torch.Generator().manual_seed(0)
    x_0, e_s, e = (torch.randn(400_000, 1, generator=draws, dtype=torch.float64) for _ in range(3))
    x_s = dmd.noised(0.7 * x_0, e_s, torch.full((len(x_0),), s, dtype=torch.float64))
    at, time = (0.0 if naive else s), torch.full((len(x_0),), t, dtype=torch.float64)
    x_t = dmd.noised(x_s, e, time, at)

    def gradient(k: float) -> float:
        factor = torch.tensor(k, dtype=torch.float64, requires_grad=True)
        v = (factor * x_t - x_t) / (1 - t)  # e_hat = x_t + (1 - t) v
        (found,) = torch.autograd.grad(dmd.critic_loss(v, x_s, e, time, at).mean(), factor)
        return float(found)

    low, high = gradient(0.0), gradient(1.0)  # a line: the loss is a square in k
    return low / (low - high)


@pytest.mark.parametrize(("s", "t", "true", "clean"), [(0.4, 0.8, 1.21286, 1.2244), (0.4, 0.5, 1.3423, 1.4965)])
def test_the_critic_of_a_phase_learns_the_score_and_would_not_from_clean_samples(
    s: float, t: float, true: float, clean: float
) -> None:
    # in closed form t / ((1 - t)^2 0.49 + t^2); taking x_s for clean, t / ((1 - t)^2 var(x_s) + t^2)
    assert true == pytest.approx(t / ((1 - t) ** 2 * 0.49 + t**2), rel=1e-4)
    assert slope(s, t, naive=False) == pytest.approx(true, rel=3e-3)
    assert slope(s, t, naive=True) == pytest.approx(clean, rel=3e-3)


def test_the_generators_gradient_is_the_normalised_difference() -> None:
    x = torch.randn(3, 2, 4, requires_grad=True)
    real, fake = torch.randn(3, 2, 4), torch.randn(3, 2, 4, requires_grad=True)
    (found,) = torch.autograd.grad(dmd.generator_loss(x, real, fake).sum(), x)
    size = (x - real).abs().mean((1, 2), keepdim=True) + 1e-3
    torch.testing.assert_close(found, ((fake - real) / size).detach())
    assert not dmd.generator_loss(x, real, real).any(), "nothing to learn where both expect the same"


def test_flow_and_noise_say_the_same_of_clean_samples() -> None:
    x, e, t = torch.randn(5, 3), torch.randn(5, 3), dmd.times(5)
    torch.testing.assert_close(dmd.clean(dmd.noised(x, e, t), e - x, t), x)
    torch.testing.assert_close(dmd.critic_loss(e - x, x, e, t), torch.zeros(5))
    late = dmd.times(1000, after=0.4)
    assert 0.4 < float(late.min()) < 0.42
    assert 0.98 < float(late.max()) < 1


def test_times_before_a_phase_are_refused() -> None:
    with pytest.raises(UsageError, match=r"at s=0.5 cannot be noised to t from 0.3"):
        dmd.noised(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0.3]), 0.5)


def test_the_exact_teacher_of_the_plane_is_the_mean_of_its_samples() -> None:
    modes = runpy.run_path(str(TOOL))["Modes"]()
    draws = torch.Generator().manual_seed(0)
    x_0 = modes.draw(200_000, draws)
    t = torch.full((len(x_0),), 0.3)
    x_t = dmd.noised(x_0, torch.randn(x_0.shape, generator=draws), t)
    error: Tensor = x_0 - modes.clean(x_t, t)
    # what is left has no part that x_t could tell: uncorrelated with functions of it
    for told in (torch.ones_like(x_t), x_t, x_t.sin(), x_t.square()):
        assert float((error * told).mean(0).abs().max()) < 5e-3


def test_phases_keep_modes_that_a_random_exit_loses() -> None:
    tool = runpy.run_path(str(TOOL))
    modes, settings_ = tool["Modes"](), tool["Study"](flow_steps=800, steps=400, rate=1e-3)
    flow = settings_.flow(modes)
    measured = {
        name: tool["measure"](train(modes, flow), modes).variation
        for name, train in (("exit", settings_.random_exit), ("phased", settings_.phased))
    }
    assert measured["phased"] < measured["exit"] / 2, measured


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_table_of_three_seeds() -> None:
    tool = runpy.run_path(str(TOOL))
    for seed in range(3):
        figures = tool["study"](tool["Study"](width=128, seed=seed))
        assert figures["Phased DMD, 2 steps"].variation <= figures["DMD, 2 steps, a random exit"].variation / 2
        assert figures["DMD, 1 step"].variation <= 0.08
        assert (figures["the flow, 1 step"].found, figures["DMD, 1 step"].found) <= (2, 25)
