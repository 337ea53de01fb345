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
from zoo_core.nn.number_format import number_format
from zoo_sr import tiling
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
    # Gates in float64 and a sum in another order leave 1e-6 between them: a pixel close to .5 may round the other way.
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


@pytest.mark.parametrize("name", ["small", "rtc"])
def test_a_seamless_texture_stays_seamless(name):
    # On a torus no pixel is special: rolling the input by some pixels rolls the output by as many times the scale.
    network, image = lively(name), picture(70, 90)
    plain = tiling.upscale(network, image, wrap=True).image
    for tile in ("auto", 40):
        rolled = tiling.upscale(network, np.roll(image, (13, -29), (0, 1)), tile=tile, wrap=True).image
        assert np.array_equal(np.roll(plain, (26, -58), (0, 1)), rolled)
    assert not np.array_equal(plain, tiling.upscale(network, image).image)


def test_a_texture_smaller_than_the_halo_repeats():
    image = picture(5, 9)
    once = tiling.upscale(SHARED["small"], image, wrap=True, output="float32").image
    many = tiling.upscale(SHARED["small"], np.tile(image, (3, 2, 1)), wrap=True, output="float32").image
    assert np.allclose(np.tile(once, (3, 2, 1)), many, atol=1e-5)


def test_sixteen_bits_and_floats_carry_more_than_eight():
    image = picture(60, 80)
    deep = image.astype(np.uint16) * 257
    eight = tiling.upscale(SHARED["x2"], image).image
    sixteen = tiling.upscale(SHARED["x2"], deep, output="uint16", tile=32).image
    floats = tiling.upscale(SHARED["x2"], image.astype(np.float32) / 255, output="float32", tile=33).image
    inside = (floats > 0) & (floats < 1)
    assert sixteen.dtype == np.uint16
    assert floats.dtype == np.float32
    assert np.abs(sixteen / 65535 - floats)[inside].max() < 1e-5
    assert np.abs(eight / 255 - floats)[inside].max() < 0.5 / 255 + 1e-5


def test_arrays_that_are_views_or_read_only():
    image = picture(64, 48)
    expected = tiling.upscale(SHARED["small"], image).image
    shared = np.array(image[::-1, ::-1].transpose(1, 0, 2))
    shared.flags.writeable = False
    assert np.array_equal(tiling.upscale(SHARED["small"], shared.transpose(1, 0, 2)[::-1, ::-1]).image, expected)


@pytest.mark.parametrize("size", [(61, 94), (3, 3), (1, 7), (2, 40)])
def test_sides_that_the_stride_does_not_divide(size):
    # Reflected up to the multiple, and cut: the same as giving the padded image, where nothing is pooled over padding.
    for name, factor in (("as", 1), ("rte", 2)):
        result = tiling.upscale(lively(name), picture(*size)).image
        assert result.shape == (size[0] * factor, size[1] * factor, 3)


class Scarce(Stages):
    """Runs out of memory above a number of pixels, as a CUDA device or the host's allocator does."""

    def __init__(self, network: IMDN, most_pixels: int, error: Exception) -> None:
        super().__init__(network)
        self.room_px, self.error, self.refusals = most_pixels, error, 0

    def parts(self, i, h):
        if h.shape[2] * h.shape[3] > self.room_px:
            self.refusals += 1
            raise self.error
        return super().parts(i, h)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory: you tried to allocate")]
)
def test_out_of_memory_halves_the_tiles_and_changes_nothing(error):
    image = picture(90, 120)
    stages = Scarce(SHARED["x2"], 3000, error)
    halved = tiling.upscale(SHARED["x2"], image, stages=stages).image
    assert np.array_equal(halved, tiling.upscale(SHARED["x2"], image).image)
    assert 1 <= stages.refusals <= 4  # what did not fit once is not tried again for every tile and block


def test_no_memory_at_all_ends_with_a_sentence():
    with pytest.raises(ZooError, match="not enough memory even for a tile"):
        tiling.upscale(SHARED["x2"], picture(64, 64), stages=Scarce(SHARED["x2"], 0, torch.OutOfMemoryError("")))


def test_another_error_is_not_taken_for_lack_of_memory():
    with pytest.raises(RuntimeError, match="shape mismatch"):
        tiling.upscale(SHARED["x2"], picture(64, 64), stages=Scarce(SHARED["x2"], 0, RuntimeError("shape mismatch")))


def test_overflow_is_an_error_and_no_black_image():
    network = lively("x2").half()
    network.IMDB1.c1.weight.data *= 1e5
    with pytest.raises(NotFiniteError, match="not finite in float16"):
        tiling.upscale(network, picture(40, 40))


def test_large_values_are_no_overflow():
    network = lively("small")
    network.upsampler[0].bias.data.fill_(3e38)  # finite, but the sum of two is not
    assert (tiling.upscale(network, picture(40, 40)).image == 255).all()


@given(height=st.integers(1, 4000), width=st.integers(1, 4000))
@settings(max_examples=50, deadline=None)
def test_the_automatic_tiles_cost_at_most_15_percent_more_work(height, width):
    assert tiling.plan(SHARED["x4"], height, width).work_ratio <= 1.15
    assert tiling.plan(SHARED["x4"], height, width, memory_limit_bytes=400 << 20).work_ratio <= 1.15


def test_a_plan_keeps_within_its_memory_limit():
    for limit in (200 << 20, 1 << 30, 4 << 30, 16 << 30):
        way = tiling.plan(SHARED["x4"], 3000, 4000, memory_limit_bytes=limit)
        assert way.memory_bytes <= limit
        assert way.output_shape == (12000, 16000)
        assert way.places.count("file") * 3000 * 4000 * 64 * 4 == way.disk_bytes
    assert way.disk_bytes == 0


def test_bands_arrive_in_order_and_cover_the_image():
    image, seen = picture(100, 60), []
    way = tiling.plan(SHARED["small"], *image.shape[:2], tile=32)
    counts = []
    for top, pixels in tiling.bands(SHARED["small"], image, way=way, progress=lambda *count: counts.append(count)):
        assert top == sum(map(len, seen))
        assert torch.is_grad_enabled()  # what the caller does between two bands runs in its own mode
        seen.append(pixels)
    assert np.array_equal(np.concatenate(seen), tiling.upscale(SHARED["small"], image).image)
    assert len(seen) == len(way.grid.rows()) > 2
    assert [done for done, _ in counts] == list(range(1, counts[-1][1] + 1))


@pytest.mark.parametrize(
    ("image", "tile", "words"),
    [
        (np.zeros((4, 4), np.uint8), "auto", r"\(H, W, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "auto", r"\(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "auto", "int64"),
        (np.zeros((4, 4, 3), np.uint8), 31, "smallest is 32"),
    ],
)
def test_what_cannot_be_upscaled_is_refused(image, tile, words):
    with pytest.raises(UsageError, match=words):
        tiling.upscale(SHARED["small"], image, tile=tile)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_tiles_on_a_gpu(precision, tmp_path):
    # cuDNN picks its algorithm by shape, so bits may differ between tile sizes: by rounding, not by seams.
    network, image = lively("x4").to("cuda", precision), picture(300, 400)
    bound = 2e-5 if precision == torch.float32 else 2e-2
    with number_format("fp32"):
        whole = tiling.upscale(network, image, tile=4096, output="float32").image
        for limit in (None, 1):
            tiled = tiling.upscale(
                network, image, tile=96, output="float32", memory_limit_bytes=limit, scratch=tmp_path
            ).image
            assert np.abs(tiled - whole).max() < bound
