"""The fused engine computes the same network as the module; on CUDA within half precision, wherever an image goes."""

from __future__ import annotations

import pytest
import torch

from zoo_core.errors import UsageError
from zoo_sr.gpu import FusedIMDN
from zoo_sr.imdn import IMDN, IMDN_AS


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


@pytest.mark.gpu
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
