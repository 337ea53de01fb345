"""How a picture of a line becomes what the network reads: one way for training, evaluation and prediction.

Two steps. `prepare` gives every line one height, dark ink on light paper, as bytes. `standardise` takes the paper's
tone off and divides by the contrast. Its statistics come from a histogram of the line's own columns, so they are exact,
and the same to the bit whatever else is in the batch and on whatever device.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_htr.htr_jand import valid_columns

VERSION = 1  # of everything in this file; results and checkpoints name it
HEIGHT = 64
PAPER_SHARE = 0.75  # the paper's tone is the median of the brighter half
LEAST_DEVIATION = 0.05 * 255  # in grey levels: an empty line is not blown up to noise
LEAST_CONTRAST = 48  # grey levels between the extremes below which dark and light mean nothing

Pixels = NDArray[np.uint8]


def prepare(grey: Pixels, *, height: int = HEIGHT) -> Pixels:
    """Return a line with dark ink on light paper, scaled to one height; what is so already stays as it is.

    Scaled down by areas, up by cubics; the width follows in proportion and is at least 1.

    Args:
        grey: (h, w) uint8, 0 is black.
        height: of the result in pixels.

    Raises:
        ValueError: no picture of one channel with at least one pixel.
    """
    if grey.ndim != 2 or grey.dtype != np.uint8 or not grey.size:
        raise ValueError(f"a line is (h, w) uint8 with pixels in it, not {grey.shape} {grey.dtype}")
    counts = np.bincount(grey.ravel(), minlength=256)
    low, middle, high = (_percentile(counts, q) for q in (1, 50, 99))
    if high - low >= LEAST_CONTRAST and 2 * middle < low + high:
        grey = 255 - grey  # light ink on dark paper
    if grey.shape[0] == height:
        return grey
    from PIL import Image

    width = max(1, round(grey.shape[1] * height / grey.shape[0]))
    way = Image.Resampling.BOX if grey.shape[0] > height else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(grey).resize((width, height), way))  # a copy that may be written to


def standardise(grey: Tensor, widths: Tensor) -> Tensor:
    """Return lines as the network takes them: paper about 0, ink positive, padding 0.

    x = (m - v) / s with the paper's tone m (the upper quartile of the line's own pixels) and their standard deviation
    s, at least 0.05 of the range.

    Args:
        grey: (B, H, W), whole numbers 0..255 of any type.
        widths: (B,) int64, how many columns are the line's own.

    Returns:
        (B, 1, H, W) float32.
    """
    valid = valid_columns(widths, grey.shape[2])[:, None]
    paper, deviation = statistics(grey, valid)
    shade = (paper[:, None, None] - grey.float()) / deviation[:, None, None]
    return torch.where(valid, shade, 0.0)[:, None]


def standardise_one(grey: Pixels) -> Tensor:
    """Return what `standardise` does for one line (H, W) uint8, as (H, W) float32, to the bit and in less time."""
    counts = torch.from_numpy(np.bincount(grey.ravel(), minlength=256))[None]
    paper, deviation = _of_counts(counts)
    shades = ((paper - torch.arange(256)) / deviation).numpy()  # of each level
    return torch.from_numpy(shades.take(grey))


def statistics(grey: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the paper's tone and the standard deviation, floored, in grey levels, both (B,) float32.

    Args:
        grey: (B, H, W), whole numbers 0..255.
        valid: (B, 1, W) bool, True for the first columns of each line.
    """
    return _of_counts(_counts(grey, valid))


def _of_counts(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `statistics` does from how many pixels have each level, (B, 256)."""
    counts = counts.double()
    levels = torch.arange(256, device=counts.device, dtype=torch.float64)
    total = counts.sum(1).clamp_min(1)
    paper = (counts.cumsum(1) < PAPER_SHARE * total[:, None]).sum(1)
    mean = (counts * levels).sum(1) / total
    variance = (counts * (levels - mean[:, None]).square()).sum(1) / total
    return paper.float(), variance.sqrt().float().clamp_min(LEAST_DEVIATION)


def _counts(grey: Tensor, valid: Tensor) -> Tensor:
    """Return how many valid pixels of each line have each of the 256 levels, (B, 256) of whole numbers."""
    if grey.device.type == "cpu":  # in a fraction of the time of what suits a GPU
        own = [line[:, : int(kept.sum())].flatten().to(torch.uint8) for line, kept in zip(grey, valid, strict=True)]
        return torch.stack([torch.bincount(pixels, minlength=256) for pixels in own])
    beyond = 256  # where the pixels of the padding are counted
    bins = torch.where(valid, grey.long(), beyond).flatten(1)
    counts = torch.zeros(len(grey), beyond + 1, dtype=torch.int32, device=grey.device)
    return counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.int32))[:, :beyond]


def _percentile(counts: NDArray[np.int64], percent: float) -> float:
    """Return what `numpy.percentile` returns for grey levels that occur so often, without sorting them."""
    ends = counts.cumsum()
    place = (ends[-1] - 1) * percent / 100
    below, above = np.searchsorted(ends, (np.floor(place), np.ceil(place)), side="right")
    return float(below + (above - below) * (place - np.floor(place)))
