"""The figures of a table mean nothing unless the metric is the one of the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from zoo_sr.metrics import luma, psnr_y, ssim_y


def pair(height: int = 47, width: int = 61, noise: float = 9.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    smooth = np.add.outer(np.linspace(0, 200, height), np.linspace(0, 50, width))[..., None] + rng.uniform(0, 9, 3)
    true = np.clip(smooth + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)
    return np.clip(true + rng.normal(0, noise, true.shape), 0, 255).round().astype(np.uint8), true


@pytest.mark.parametrize("protocol", ["matlab", "python"])
@pytest.mark.parametrize("border", [0, 2, 4])
def test_both_metrics_agree_with_scikit_image(protocol: str, border: int) -> None:
    image, true = pair()
    a, b = (luma(x, protocol=protocol)[border : 47 - border, border : 61 - border] for x in (image, true))
    ssim, ssim_map = structural_similarity(
        b, a, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    expected_psnr = peak_signal_noise_ratio(b, a, data_range=255)
    assert psnr_y(image, true, border=border, protocol=protocol) == pytest.approx(expected_psnr, abs=1e-10)
    assert ssim_y(image, true, border=border, protocol=protocol) == pytest.approx(ssim, abs=1e-12)
    assert ssim == pytest.approx(ssim_map[5:-5, 5:-5].mean())  # scikit-image, too, takes valid positions only


def test_luma_of_the_corners_of_the_cube() -> None:
    # BT.601: black 16, white 235, and the three weights
    corners = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    np.testing.assert_allclose(luma(corners)[0], [16, 235, 81.481, 144.553, 40.966], atol=1e-12)
    np.testing.assert_array_equal(luma(corners, protocol="python")[0], [16, 235, 81, 145, 41])


def test_equal_images_are_perfect_and_a_shift_of_one_is_48_db() -> None:
    image, _ = pair()
    assert psnr_y(image, image, border=4) == math.inf
    assert ssim_y(image, image, border=4) == pytest.approx(1, abs=1e-12)
    grey = np.full((20, 20, 3), 100, dtype=np.uint8)
    # one step of RGB is 219/255 of a step of luma
    assert psnr_y(grey, grey + 1, border=0) == pytest.approx(20 * math.log10(255 / (219 / 255)), abs=1e-9)


def test_only_the_inside_of_the_border_counts() -> None:
    image, true = pair()
    spoiled = image.copy()
    spoiled[:3], spoiled[-3:], spoiled[:, :3], spoiled[:, -3:] = 0, 255, 0, 255
    assert psnr_y(spoiled, true, border=3) == psnr_y(image, true, border=3)
    assert ssim_y(spoiled, true, border=3) == ssim_y(image, true, border=3)
    assert psnr_y(spoiled, true, border=2) < psnr_y(image, true, border=2)


def test_what_cannot_be_measured_is_refused() -> None:
    image, true = pair()
    with pytest.raises(ValueError, match="differ in shape"):
        psnr_y(image[:-1], true, border=0)
    with pytest.raises(ValueError, match="too few"):
        ssim_y(image[:14], true[:14], border=2)
    with pytest.raises(ValueError, match="too few"):
        psnr_y(image, true, border=30)
    with pytest.raises(ValueError, match="RGB"):
        psnr_y(image[..., 0], true[..., 0], border=0)
    with pytest.raises(ValueError, match="protocols"):
        psnr_y(image, true, border=0, protocol="octave")
