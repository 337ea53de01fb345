"""Whatever the tile size, the place of the maps and the memory, the upscaled image has the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from zoo_core.errors import UsageError, ZooError
from zoo_sr import storage, tiling
from zoo_sr.imdn import IMDN, IMDN_AS, IMDN_RTC, IMDN_RTE
from zoo_sr.stages import Geometry, Stages
from zoo_sr.sweep import NotFiniteError

OFFICIAL = Path(os.environ.get("ZOO_PACKS", Path(__file__).parents[4] / "shared/data")) / "sr/official"
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official checkpoints are not here")

NETWORKS = {
    "x2": lambda: IMDN(2),
    "x3": lambda: IMDN(3),
    "x4": lambda: IMDN(4),
    "as": IMDN_AS,
    "rtc": IMDN_RTC,
    "rte": IMDN_RTE,
}


def lively(name: str, **overrides: int) -> nn.Module:
    """A network with random weights whose gates differ between images and channels, as trained ones do."""
    torch.manual_seed(7)
    network = {**NETWORKS, "small": lambda: IMDN(2, channels=16, blocks=2)}[name]()
    for key, parameter in network.named_parameters():
        if ".cca." in key:
            parameter.data *= 4
        elif parameter.ndim == 4:
            parameter.data *= 1.4
    return network.eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Dark on the left, bright on the right, edges and noise in between: tiles of it have very different statistics."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    stripes = np.sin(x * (0.1 + y / height))[..., None] * np.array([60, 40, 20])
    tone = 200 * x[..., None] / width
    return np.clip(tone + stripes + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


SHARED = {name: lively(name) for name in ("x4", "x2", "small")}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    tile=st.integers(32, 200),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    seed=st.integers(0, 1000),
    on_disk=st.booleans(),
)
def test_any_tile_size_gives_the_image_of_one_tile(tile, height, width, seed, on_disk, tmp_path_factory):
    image = picture(height, width, seed)
    whole = tiling.upscale(SHARED["x4"], image, tile=4096)
    assert whole.plan.tiles == 1
    limit = 1 if on_disk else None
    tiled = tiling.upscale(
        SHARED["x4"], image, tile=tile, memory_limit_bytes=limit, scratch=tmp_path_factory.getbasetemp()
    )
    assert np.array_equal(whole.image, tiled.image)


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_every_network_in_either_precision(name, precision):
    network, image = lively(name).to(precision), picture(131, 158)
    whole = tiling.upscale(network, image, tile=4096).image
    assert len(np.unique(whole)) > 20
    for tile in (32, 51, 96):
        assert np.array_equal(whole, tiling.upscale(network, image, tile=tile).image), tile


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_one_tile_is_the_network(name):
    # A gate in float64 and a sum in another order leave 1e-6; a pixel that stands close to .5 may round to the other side.
    network, image = lively(name), picture(72, 100)
    geometry = Geometry.of(network)
    with torch.inference_mode():
        x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255 * geometry.peak
        plain = network(x)[0].permute(1, 2, 0).numpy() / geometry.peak
    ours = tiling.upscale(network, image, output="float32").image
    assert np.abs(ours - plain).max() < 1e-5
    eight_bit = tiling.upscale(network, image).image
    assert np.array_equal(eight_bit, np.clip(np.rint(ours * np.float32(255)), 0, 255))


@needs_official
@pytest.mark.parametrize("name", ["x2", "x4"])
def test_official_weights_and_thin_images(name):
    from safetensors.torch import load_file

    network = NETWORKS[name]()
    network.load_state_dict(load_file(OFFICIAL / f"imdn_{name}.safetensors"))
    for size in ((160, 120), (3, 700), (700, 1), (33, 32), (1, 1)):
        image = picture(*size)
        whole = tiling.upscale(network, image, tile=4096).image
        for tile in (32, 77):
            assert np.array_equal(whole, tiling.upscale(network, image, tile=tile).image), (size, tile)
