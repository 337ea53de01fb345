"""A picture that a user puts beside a series, made fit for the vision tower."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image as pil
from torch import Tensor

from zoo_core.errors import InputError


def as_picture(given: Any, side: int, *, name: str = "the picture") -> Tensor:
    """Return a picture (3, side, side) in [-1, 1].

    Args:
        given: a PIL image of any mode, or an array (h, w), (h, w, channels) or (channels, h, w) with 1 to 4 channels:
            gray, gray and opacity, RGB, RGB and opacity. Whole numbers are of 0 to 255, others of 0 to 1. What is not
            opaque is laid on white.
        side: in pixels.
        name: for messages.

    Raises:
        InputError: it is none of these.
    """
    image = given if isinstance(given, pil.Image) else _image(given, name)
    white = pil.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    small = np.asarray(white.convert("RGB").resize((side, side), pil.Resampling.BILINEAR), dtype=np.float32)
    return torch.from_numpy(small / 127.5 - 1).permute(2, 0, 1)


def _image(given: Any, name: str) -> pil.Image:
    if isinstance(given, Tensor):
        given = given.detach().cpu().numpy()
    array = np.asarray(given)
    if array.ndim == 3 and array.shape[2] > 4 >= array.shape[0]:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4 or 0 in array.shape or array.dtype.kind not in "buif":
        raise InputError(
            f"{name} has shape {np.shape(given)}, but must be a picture with 1 to 4 channels.", "Give an RGB image."
        )
    if array.dtype.kind == "f":
        array = array * 255
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 255:
        raise InputError(
            f"{name} has values out of range.", "Whole numbers lie between 0 and 255, others between 0 and 1."
        )
    pixels = np.round(array).astype(np.uint8)
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    return pil.fromarray(pixels[..., 0] if mode == "L" else pixels, mode)
