"""The sampler: folded as plain, and the width of what comes out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from tiny_aurora import tiny_aurora
from torch import Tensor

from zoo_core.nn.graphs import Graphs
from zoo_forecast import flow, folded
from zoo_forecast.flow import Sampler


@pytest.mark.parametrize("sampler", ["ode", "official"])
@pytest.mark.parametrize(("samples", "tokens", "steps"), [(1, 1, 1), (3, 5, 10), (2, folded.TOKENS + 3, 2)])
def test_folded_gives_what_plain_gives(sampler: Sampler, samples: int, tokens: int, steps: int) -> None:
    net = tiny_aurora().flow
    start, z = torch.randn(samples, tokens, 16), torch.randn(tokens, 32)
    plain = flow.sample(net, start, z, steps=steps, sampler=sampler)
    quick = folded.sample(net, start, z, steps=steps, sampler=sampler)
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
    exact = net.double()
    plain, quick = (
        way.sample(exact, start.double(), z.double(), steps=steps, sampler=sampler) for way in (flow, folded)
    )
    net.float()
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-6)  # the code of the time is fp32


@pytest.mark.parametrize("sampler", ["ode", "official"])
@pytest.mark.parametrize(("samples", "tokens", "steps"), [(3, 5, 10), (2, folded.TOKENS + 3, 2)])
def test_fused_gives_what_plain_gives(sampler: Sampler, samples: int, tokens: int, steps: int) -> None:
    net = tiny_aurora().flow
    start, z = torch.randn(samples, tokens, 16), torch.randn(tokens, 32)
    plain = flow.sample(net, start, z, steps=steps, sampler=sampler)
    quick = folded.fused(net, start, z, steps=steps, sampler=sampler)
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sampler", ["ode", "official"])
def test_fused_on_a_device_is_as_near_to_float64_as_folded(sampler: Sampler) -> None:
    net = tiny_aurora().flow.to("cuda")
    start, z = torch.randn(100, 7, 16, device="cuda"), torch.randn(7, 32, device="cuda")
    exact = flow.sample(copy.deepcopy(net).double(), start.double(), z.double(), steps=10, sampler=sampler)
    half = net.to(torch.bfloat16)
    folded_off, fused_off = (
        float((follow(half, start, z.bfloat16(), steps=10, sampler=sampler) - exact).norm() / exact.norm())
        for follow in (folded.sample, folded.fused)
    )
    assert fused_off < 1.1 * folded_off


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("dtype", "follow"),
    [(torch.float32, folded.sample), (torch.bfloat16, folded.sample), (torch.bfloat16, folded.fused)],
)
def test_a_graph_gives_what_folded_gives_whatever_ran_before(dtype: torch.dtype, follow: Callable[..., Tensor]) -> None:
    net = tiny_aurora().flow.to("cuda", dtype)
    graphs = Graphs(partial(follow, net), shapes=2)
    sizes = [(3, 5, "ode"), (3, 5, "ode"), (2, 7, "ode"), (2, 7, "ode"), (3, 5, "ode"), (3, 5, "official")]
    with torch.inference_mode():
        for samples, tokens, sampler in [*sizes, *sizes]:
            start = torch.randn(samples, tokens, 16, device="cuda")
            z = torch.randn(tokens, 32, device="cuda", dtype=dtype)
            graph = graphs(start, z, steps=10, sampler=sampler)
            assert torch.equal(graph, follow(net, start, z, steps=10, sampler=sampler))


class Ideal(torch.nn.Module):
    """The best net for targets N(0, sigma^2) and starts N(0, 1): E[y | x_t]."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        t = t[..., None]
        return t * self.sigma**2 * x / (t**2 * self.sigma**2 + (1 - t) ** 2)


# shares of the true spread that the authors' sampler reaches, measured beside their code
@pytest.mark.parametrize(("sigma", "official"), [(2.0, 0.59), (1.0, 0.48), (0.5, 0.37), (0.3, 0.30), (0.1, 0.17)])
def test_the_ode_reaches_the_true_spread_and_the_official_sampler_does_not(sigma: float, official: float) -> None:
    start = torch.randn(20_000, 1, 1, generator=torch.Generator().manual_seed(0))
    shares = {}
    for sampler in ("ode", "official"):
        paths = flow.sample(Ideal(sigma), start, torch.zeros(1, 1), steps=50, sampler=sampler)  # type: ignore[arg-type]
        shares[sampler] = float(paths.std() / sigma)
    assert shares["ode"] == pytest.approx(1, abs=0.1)  # Euler steps fall a little short
    assert shares["official"] == pytest.approx(official, abs=0.02)
