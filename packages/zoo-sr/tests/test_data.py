"""What training sees: aligned, exact, reproducible patches."""

import numpy as np
import pytest
import torch

from zoo_core.errors import InputError
from zoo_sr.data import Photo, PhotoPool, fingerprint
from zoo_sr.resize import resize

RNG = np.random.default_rng(7)
PHOTOS = [Photo(f"p{i}", RNG.integers(0, 256, (60 + 7 * i, 80 - 5 * i, 3), dtype=np.uint8)) for i in range(4)]


def pool(**changes):
    settings = {"scale": 2, "patch": 12, "batch": 3, "seed": 5, "device": torch.device("cpu")} | changes
    return PhotoPool(PHOTOS, **settings)


def windows(image, side):
    """All square windows of an (H, W, 3) image, as a set of bytes."""
    view = np.lib.stride_tricks.sliding_window_view(image, (side, side), axis=(0, 1))  # (rows, columns, 3, side, side)
    return {np.ascontiguousarray(w).tobytes() for w in view.reshape(-1, 3, side, side)}


def variants(patch):
    """The 8 turns and 6 channel orders of a (3, p, p) patch."""
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        for turns in range(4):
            turned = np.rot90(patch[list(order)], turns, axes=(1, 2))
            yield turned
            yield turned[:, :, ::-1]


def test_low_patch_is_a_window_of_the_exactly_reduced_photo():
    drawn = pool(reductions=(1.0,))
    crops = drawn.cut(drawn.draw(0))
    photo = {i: p.pixels[: p.pixels.shape[0] // 2 * 2, : p.pixels.shape[1] // 2 * 2] for i, p in enumerate(PHOTOS)}
    known_low = {i: windows(resize(p, scale=0.5), 12) for i, p in photo.items()}
    known_high = {i: windows(p, 24) for i, p in photo.items()}
    for low, high in zip(crops.low, crops.high, strict=True):
        low, high = (np.rint(t.numpy() * 255).astype(np.uint8) for t in (low, high))
        found = [
            i
            for small, large in zip(variants(low), variants(high), strict=True)
            for i in photo
            if np.ascontiguousarray(small).tobytes() in known_low[i]
            and np.ascontiguousarray(large).tobytes() in known_high[i]
        ]
        assert found, "no photo contains this pair at the same place and turn"


def test_patches_are_aligned_at_every_size():
    smooth = [Photo("ramp", np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)[..., None].repeat(3, 2))]
    drawn = PhotoPool(smooth, scale=2, patch=12, batch=16, seed=1, device=torch.device("cpu"))
    crops = drawn.cut(drawn.draw(3))
    coarse = torch.nn.functional.avg_pool2d(crops.high, 2)
    assert (coarse - crops.low).abs().max() < 1.5 / 255


def test_batches_are_a_function_of_seed_and_step_alone():
    one, other = pool(), pool()
    for step in (9, 2):
        one.draw(step)
    assert torch.equal(one.draw(4), other.draw(4))
    assert not torch.equal(one.draw(4), pool(seed=6).draw(4))


def test_a_photo_smaller_than_a_patch_is_named():
    with pytest.raises(InputError, match="p0"):
        pool(patch=64)


def test_fingerprint_sees_one_changed_pixel():
    changed = [Photo(p.name, p.pixels.copy()) for p in PHOTOS]
    assert fingerprint(changed) == fingerprint(PHOTOS)
    changed[2].pixels[5, 5, 1] ^= 1
    assert fingerprint(changed) != fingerprint(PHOTOS)
