"""Every published figure is measured on Matlab's bicubic: one byte off here and no number can be compared any more."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo_sr.resize import resize, resize_tensor

PACKS = Path(os.environ.get("ZOO_PACKS", Path(__file__).parents[3].parent / "shared/data")) / "sr/eval"


@pytest.mark.skipif(not PACKS.is_dir(), reason="the data packs are not here: set ZOO_PACKS")
@pytest.mark.parametrize("pack", ["set5", "set14", "bsd100_part", "urban100_part"])
def test_every_official_small_image_is_reproduced_bit_for_bit(pack: str) -> None:
    # Set5's small images are the authors' own; 81 over the four packs.
    for row in pq.read_table(PACKS / f"{pack}.parquet").to_pylist():
        hr = np.asarray(Image.open(io.BytesIO(row["hr"])))
        for scale in (2, 3, 4):
            height, width = (side // scale * scale for side in hr.shape[:2])
            expected = np.asarray(Image.open(io.BytesIO(row[f"lr_x{scale}"])))
            got = resize(hr[:height, :width], scale=1 / scale)
            np.testing.assert_array_equal(got, expected, err_msg=f"{row['name']} x{scale}")


def matlab_dense(image: np.ndarray, out: tuple[int, int], scale: float) -> np.ndarray:
    """An independent imresize in float: dense matrices, written from the definition (spec 4.1), rows first."""

    def kernel(t: float) -> float:
        t = abs(t)
        if t <= 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t <= 2 else 0.0

    def matrix(n: int, m: int) -> np.ndarray:
        q = min(scale, 1.0)
        result = np.zeros((m, n))
        for i in range(m):
            centre = (i + 0.5) / scale - 0.5
            for j in range(math.floor(centre - 2 / q) - 1, math.ceil(centre + 2 / q) + 2):
                mirrored = j
                while not 0 <= mirrored < n:
                    mirrored = -1 - mirrored if mirrored < 0 else 2 * n - 1 - mirrored
                result[i, mirrored] += kernel(q * (centre - j))
            result[i] /= result[i].sum()
        return result

    rows, columns = matrix(image.shape[0], out[0]), matrix(image.shape[1], out[1])
    return rows @ image @ columns.T


@pytest.mark.parametrize("scale", [4.0, 3.0, 2.0, 2.5, 0.83, 0.5, 1 / 3, 0.25, 0.05])
def test_float_images_agree_with_dense_matrices(scale: float) -> None:
    image = np.random.default_rng(3).normal(size=(23, 41))
    got = resize(image, scale=scale)
    assert got.shape == (math.ceil(23 * scale), math.ceil(41 * scale))
    np.testing.assert_allclose(got, matlab_dense(image, got.shape, scale), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scale=st.floats(0.1, 4.5),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_batch_on_a_device_gets_the_bytes_of_single_images(
    height: int, width: int, scale: float, batch: int, seed: int
) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    got = resize_tensor(torch.from_numpy(images).permute(0, 3, 1, 2), scale=scale).permute(0, 2, 3, 1).numpy()
    for one, expected in zip(got, images, strict=True):
        np.testing.assert_array_equal(one, resize(expected, scale=scale))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_bytes_of_the_cpu() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 301, 203), dtype=np.uint8))
    for scale in (0.25, 1 / 3, 0.5, 0.77, 2.0, 4.0):
        got = resize_tensor(images.cuda(), scale=scale).cpu()
        assert torch.equal(got, resize_tensor(images, scale=scale)), scale


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(1).integers(0, 65536, (37, 53, 3), dtype=np.uint16)
    whole = resize(image, scale=1.7)
    monkeypatch.setattr("zoo_sr.resize._BLOCK_ELEMENTS", 1)
    np.testing.assert_array_equal(resize(image, scale=1.7), whole)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_a_flat_image_stays_flat_and_keeps_its_type(dtype: type) -> None:
    image = np.full((9, 7, 3), 200, dtype=dtype)
    for size in [(1, 1), (9, 7), (40, 3), (2, 30)]:
        got = resize(image, size=size)
        assert got.dtype == dtype
        assert got.shape == (*size, 3)
        np.testing.assert_allclose(got, 200, rtol=1e-7)


def test_16_bit_images_keep_their_precision() -> None:
    image = np.random.default_rng(1).integers(20_000, 40_000, (32, 32), dtype=np.uint16)  # far from being clipped
    exact = matlab_dense(image.astype(np.float64), (16, 16), 0.5)
    assert np.abs(resize(image, scale=0.5).astype(np.float64) - exact).max() < 1.5


def test_the_input_is_never_returned_or_changed() -> None:
    image = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)
    image.setflags(write=False)
    got = resize(image, scale=1.0)
    np.testing.assert_array_equal(got, image)
    assert not np.shares_memory(got, image)


@pytest.mark.parametrize(
    ("image", "kwargs"),
    [
        (np.zeros((4, 4), np.uint8), {}),
        (np.zeros((4, 4), np.uint8), {"scale": 2.0, "size": (2, 2)}),
        (np.zeros((4, 4), np.uint8), {"scale": 0.0}),
        (np.zeros((4, 4), np.uint8), {"scale": math.nan}),
        (np.zeros((4, 4), np.uint8), {"size": (0, 2)}),
        (np.zeros((0, 4), np.uint8), {"scale": 2.0}),
        (np.zeros((4, 4), np.int32), {"scale": 2.0}),
        (np.zeros(4, np.uint8), {"scale": 2.0}),
    ],
)
def test_nonsense_is_refused(image: np.ndarray, kwargs: dict) -> None:
    with pytest.raises(ValueError):
        resize(image, **kwargs)
