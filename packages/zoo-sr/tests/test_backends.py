"""The default engine: it must give the picture that plain PyTorch gives, and the same bits whatever the tiles."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from zoo_sr import backends
from zoo_sr.imdn import IMDN, IMDN_AS
from zoo_sr.stages import Stages
from zoo_sr.tiling import upscale


def network(kind: type[IMDN] = IMDN) -> IMDN:
    torch.manual_seed(3)
    return (IMDN(scale=4, channels=64, blocks=2) if kind is IMDN else kind(blocks=2)).eval()


def picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    ramp = np.linspace(0, 200, width)[None, :, None]
    return (noise * 0.2 + ramp).clip(0, 255).astype(np.uint8)


def packed_or_skip(module: IMDN) -> backends.Packed:
    if not backends.fits(module):
        pytest.skip("this processor or build of PyTorch has no oneDNN for the type")
    return backends.Packed(module)


@pytest.mark.parametrize("kind", [IMDN, IMDN_AS])
def test_packed_gives_the_values_of_plain_pytorch(kind: type[IMDN]) -> None:
    module = network(kind)
    image = picture(60, 52)
    plain = upscale(module, image, output="float32", stages=Stages(module)).image
    ours = upscale(module, image, output="float32", stages=packed_or_skip(module)).image
    assert np.abs(ours - plain).max() < 2e-6


def test_bf16_stays_as_near_as_plain_bf16_does() -> None:
    module = network()
    half = copy.deepcopy(module).bfloat16()
    image = picture(60, 52)
    exact = upscale(module, image, output="float32", stages=Stages(module)).image
    plain = upscale(half, image, output="float32", stages=Stages(half)).image
    ours = upscale(half, image, output="float32", stages=packed_or_skip(half)).image
    assert np.square(ours - exact).mean() <= 1.1 * np.square(plain - exact).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tile", [32, 57])
def test_any_tile_gives_the_same_bits(tile: int, dtype: torch.dtype) -> None:
    module = network().to(dtype)
    stages = packed_or_skip(module)
    image = picture(131, 97)
    whole = upscale(module, image, tile=4096, output="float32", stages=stages).image
    tiled = upscale(module, image, tile=tile, output="float32", stages=stages).image
    assert np.array_equal(whole, tiled)


def test_the_default_is_packed_where_it_runs_and_plain_elsewhere() -> None:
    module = network()
    packed_or_skip(module)
    assert type(backends.fastest(module)) is backends.Packed
    assert type(backends.fastest(network().double())) is Stages
    assert type(backends.fastest(network().to("meta"))) is Stages


def test_an_engine_that_disagrees_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later PyTorch may change an undocumented operator: then results must stay right."""
    module = network()
    packed_or_skip(module)
    right = backends.PackedConvolution.plus
    monkeypatch.setattr(backends.PackedConvolution, "plus", lambda self, x, other: right(self, x, 1.01 * other))
    assert type(backends.fastest(module)) is Stages


def test_an_operator_that_is_gone_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(backends.PackedConvolution, "__call__", gone)
    assert type(backends.fastest(network())) is Stages


def test_the_weights_are_copied() -> None:
    module = network()
    stages = packed_or_skip(module)
    x = torch.rand(1, 64, 20, 24).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        before = stages.parts(0, x)
        nn.init.zeros_(module.blocks()[0].c1.weight)
        assert torch.equal(stages.parts(0, x), before)
