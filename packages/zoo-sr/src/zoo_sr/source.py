"""Image in, image out, a tile at a time: integers to [0, 1] on the device, and back."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_sr.regions import Region
from zoo_sr.stages import Geometry

Output = Literal["uint8", "uint16", "float32"]
_WHITE = {"uint8": 255, "uint16": 65535, "float32": 1}


class Source:
    """An RGB image that is read by tiles, seen through its padding.

    Args:
        image: (H, W, 3), uint8, uint16 or float in [0, 1].
        geometry: of the network; the padded sides are multiples of its stride.
        wrap: whether the image continues on its other side (a seamless texture). Else its lower and right edge are
            reflected (repeated where there is too little to reflect) up to the multiple.
        device: where tiles go.
        dtype: of the tiles.
    """

    def __init__(
        self, image: NDArray[np.generic], geometry: Geometry, *, wrap: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.image, self.geometry, self.device, self.dtype = image, geometry, device, dtype
        self.rows = padded_indices(image.shape[0], geometry, wrap=wrap)
        self.columns = padded_indices(image.shape[1], geometry, wrap=wrap)
        self.padded = (len(self.rows), len(self.columns)) != image.shape[:2]

    def read(self, region: Region) -> Tensor:
        """Return a region of the padded image as (1, 3, h, w), white at the network's peak."""
        rows, columns = region.slices
        tile = self.image[np.ix_(self.rows[rows], self.columns[columns])] if self.padded else self.image[rows, columns]
        values = torch.from_numpy(np.array(tile)).to(self.device).float()
        white = _WHITE.get(str(self.image.dtype), 1)
        if white != self.geometry.peak:
            values *= self.geometry.peak / white
        return values[None].permute(0, 3, 1, 2).to(self.dtype)  # channels_last, which permuting first would hide


def padded_indices(length: int, geometry: Geometry, *, wrap: bool) -> NDArray[np.intp]:
    """Return which row (column) of the image stands at every row (column) of the padded image."""
    stride = geometry.stride
    missing = -length % stride
    if wrap:
        margin = stride * geometry.reach_px
        return np.arange(-margin, length + missing + margin) % length
    return np.pad(np.arange(length), (0, missing), mode="reflect" if missing < length else "edge")


class Quantiser:
    """Turns the network's values into pixels: clamped and rounded for integers, as they are for float32.

    Args:
        output: type of the pixels.
        peak: the network's value for white.
    """

    def __init__(self, output: Output, peak: float) -> None:
        self.dtype: np.dtype[np.generic] = np.dtype(output)
        self.white, self.peak = _WHITE[output], peak

    def __call__(self, values: Tensor) -> NDArray[np.generic]:
        """(1, 3, h, w) -> (h, w, 3)."""
        pixels = values[0].permute(1, 2, 0).float()
        if self.white != self.peak:
            pixels = pixels * (self.white / self.peak)
        if self.white == 1:
            return pixels.cpu().numpy()
        return pixels.round().clamp_(0, self.white).to(getattr(torch, str(self.dtype))).cpu().numpy()
