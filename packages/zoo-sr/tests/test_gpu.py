"""The fused engine computes the same network as the module; on CUDA within half precision, wherever an image goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo_core
from zoo_core.catalog import find
from zoo_core.errors import UsageError
from zoo_sr import backends, gpu
from zoo_sr.gpu import FusedIMDN
from zoo_sr.imdn import IMDN, IMDN_AS
from zoo_sr.options import SROptions
from zoo_sr.predict import SRPredictor
from zoo_sr.sweep import NotFiniteError
from zoo_sr.tiling import upscale


@pytest.fixture(params=[2, 3, 4])
def module(request: pytest.FixtureRequest) -> IMDN:
    torch.manual_seed(request.param)
    return IMDN(request.param, blocks=2).eval().requires_grad_(False)


def exact(module: IMDN, **options: object) -> FusedIMDN:
    """The engine on plain references in float64: only its wiring is left to differ."""
    return FusedIMDN(module, device="cpu", dtype=torch.float64, output=torch.float64, **options)  # type: ignore[arg-type]


def test_wiring_equals_the_module_in_float64(module: IMDN) -> None:
    images = torch.rand(2, 3, 9, 13, dtype=torch.float64)
    torch.testing.assert_close(exact(module)(images), module.double()(images), rtol=0, atol=1e-13)


def test_an_image_does_not_depend_on_its_batch_mates(module: IMDN) -> None:
    images = torch.rand(3, 3, 5, 6, dtype=torch.float64)
    images[0] *= 0.1  # other statistics, so other gates
    engine = exact(module)
    assert torch.equal(engine(images)[1], engine(images[1:2])[0])


def test_one_pixel_and_back_to_a_larger_size() -> None:
    torch.manual_seed(0)
    module = IMDN(4, blocks=1).eval().requires_grad_(False).double()
    engine = exact(module, sizes=1)  # every change of size evicts
    for height, width in ((6, 4), (1, 1), (6, 4), (2, 9)):
        images = torch.rand(1, 3, height, width, dtype=torch.float64)
        torch.testing.assert_close(engine(images), module(images), rtol=0, atol=1e-13)


def test_bytes_in_and_out_round_like_the_image_writer() -> None:
    torch.manual_seed(0)
    module = IMDN(2, blocks=1).eval().requires_grad_(False)
    pixels = torch.randint(0, 256, (1, 3, 7, 5), dtype=torch.uint8)
    out = FusedIMDN(module, device="cpu", dtype=torch.float32, output=torch.uint8)(pixels)
    expected = (module(pixels.float() / 255) * 255).round().clamp(0, 255).to(torch.uint8)
    assert out.dtype == torch.uint8
    assert (out.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("module", [IMDN_AS(blocks=1), IMDN(4, channels=32, blocks=1)], ids=["AS", "32 channels"])
def test_other_variants_are_refused_with_a_remedy(module: IMDN) -> None:
    with pytest.raises(UsageError, match="64 channels"):
        FusedIMDN(module, device="cpu")


def network(seed: int = 0) -> IMDN:
    torch.manual_seed(seed)
    return IMDN(2, blocks=1).eval().requires_grad_(False)


def picture(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def on_cpu(module: IMDN, dtype: torch.dtype = torch.float32) -> FusedIMDN:
    return FusedIMDN(module, device="cpu", dtype=dtype, output=torch.float32)


def test_images_of_one_tile_go_through_the_engine_and_others_do_not() -> None:
    # The engine is of another network, so that the picture tells which of the two made it.
    module, other, image = network(0), network(1), picture(40, 52, 3)
    fused = on_cpu(other)
    whole = upscale(module, image, output="float32", fused=fused)
    assert whole.plan.tiles == 1
    np.testing.assert_allclose(whole.image, upscale(other, image, output="float32").image, atol=1e-5)
    for options in ({"tile": 32}, {"wrap": True}):
        own = upscale(module, image, **options).image  # type: ignore[arg-type]
        np.testing.assert_array_equal(upscale(module, image, fused=fused, **options).image, own)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_every_depth_through_the_engine(kind: str) -> None:
    module, image = network(), picture(19, 23, 3)
    given = {"uint8": image, "uint16": image.astype(np.uint16) * 257, "float32": image.astype(np.float32) / 255}[kind]
    fused = upscale(module, given, output=kind, fused=on_cpu(module)).image  # type: ignore[arg-type]
    plain = upscale(module, given, output=kind).image  # type: ignore[arg-type]
    assert fused.dtype == plain.dtype
    np.testing.assert_allclose(fused.astype(float), plain.astype(float), atol=1e-5 if kind == "float32" else 1)


def test_overflow_in_the_engine_is_an_error_and_no_black_image() -> None:
    module = network()
    module.IMDB1.c1.weight.mul_(1e6)  # type: ignore[union-attr, operator]
    with pytest.raises(NotFiniteError, match="not finite in float16"):
        upscale(module, picture(16, 16, 3), fused=on_cpu(module, torch.float16))


def test_too_little_memory_for_the_engine_leaves_the_tiles() -> None:
    class Scarce(FusedIMDN):
        def _launch(self, plan: gpu.Plan) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    module, image = network(), picture(30, 30, 3)
    fused = Scarce(module, device="cpu", dtype=torch.float32, output=torch.float32)
    np.testing.assert_array_equal(upscale(module, image, fused=fused).image, upscale(module, image).image)
    assert not fused._kept


def predictor(module: IMDN, precision: str) -> SRPredictor:
    options = SROptions()
    return SRPredictor.open(find("imdn-x2"), module, device=torch.device("cpu"), precision=precision, options=options)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_prediction_uses_the_engine_for_colours_gray_and_alpha(channels: int) -> None:
    model, plain = predictor(network(0), "fp16"), predictor(network(1), "fp32")
    assert model._fused is None, "a CPU has no use for it"
    model._fused = on_cpu(network(1))
    image = picture(20, 26, channels)
    result, expected = model.predict(image), plain.predict(image)
    assert (result.tiles, result.exact, result.notes) == (1, True, ())
    assert np.abs(result.pixels.astype(int) - expected.pixels).max() <= 1


def test_what_overflows_in_the_engine_is_computed_again_in_fp32() -> None:
    image, model, broken = picture(16, 16, 3), predictor(network(), "fp16"), network()
    expected = predictor(network(), "fp32").predict(image).pixels
    broken.fea_conv.weight.mul_(1e6)  # type: ignore[operator, union-attr]
    model._fused = on_cpu(broken, torch.float16)
    result = model.predict(image)
    np.testing.assert_array_equal(result.pixels, expected)
    assert any("computed again in fp32" in note for note in result.notes)


def test_an_engine_is_taken_only_if_it_fits_and_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert backends.fused_if_right(network(), cpu, torch.float32)
    assert backends.fused_if_right(network(), cpu, torch.float16)
    assert backends.fused_if_right(IMDN(2, channels=32, blocks=1).eval(), cpu, torch.float32) is None
    assert backends.fused_if_right(IMDN_AS(blocks=1).eval(), cpu, torch.float32) is None
    right = gpu.conv3x3
    monkeypatch.setattr(gpu, "conv3x3", lambda x, w, *rest, **options: right(x, 1.2 * w, *rest, **options))
    assert backends.fused_if_right(network(), cpu, torch.float16) is None


def test_an_engine_that_cannot_run_here_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ValueError("out of resource: shared memory")

    monkeypatch.setattr(gpu, "conv3x3", refused)
    assert backends.fused_if_right(network(), torch.device("cpu"), torch.float32) is None


def test_maps_that_the_kernels_cannot_address_are_said_beforehand() -> None:
    engine = on_cpu(network())
    assert engine.fits(4096, 4096)
    assert not engine.fits(8192, 4096)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_prediction_on_cuda_is_fused_near_fp32_and_near_its_own_tiles() -> None:
    image = picture(45, 80, 3).repeat(4, axis=0).repeat(4, axis=1)
    exact = zoo_core.load("imdn-x4", device="cuda", precision="fp32", offline=True).predict(image).pixels
    model = zoo_core.load("imdn-x4", device="cuda", offline=True)
    assert model.precision == "fp16"
    results = [model.predict(image) for _ in range(3)]
    assert model._fused is not None  # type: ignore[attr-defined]
    assert all(np.array_equal(results[0].pixels, r.pixels) for r in results), "launched and replayed: the same bits"  # type: ignore[attr-defined]
    tiled = zoo_core.load("imdn-x4", device="cuda", tile=64, offline=True).predict(image)
    assert tiled.as_dict()["tiles"] > 1
    for pixels in (exact, tiled.pixels):  # type: ignore[attr-defined]
        apart = results[0].pixels.astype(float) - pixels  # type: ignore[attr-defined]
        assert np.abs(apart).max() <= 4
        assert np.sqrt(np.square(apart).mean()) < 0.3
    other = model.predict(image[:50, :70])  # a graph is of one size
    assert other.as_dict()["size"] == [280, 200]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("height", "width"), [(180, 320), (37, 53), (1, 1), (3, 500), (129, 64)])
def test_half_precision_on_cuda_stays_within_a_tenth_of_a_grey_level(height: int, width: int) -> None:
    torch.manual_seed(0)
    module = IMDN(4).eval().requires_grad_(False)
    images = torch.rand(2, 3, height, width)
    truth = module.cuda().double()(images.cuda().double())
    engine = FusedIMDN(module)
    out = engine(images)
    assert (out.double() - truth).square().mean().sqrt() * 255 < 0.1
    assert torch.equal(out, engine(images)), "the same input must give the same bits"
