"""The picture of a series (section 3.1 of the paper): one column a period, one row a phase, gray.

The period is where the amplitude spectrum has its peak. Upstream takes the mean spectrum of the batch, so that a series
looks different beside other ones; ours is each row's own.

Series of different periods fold into images of different sizes, but are drawn together: a pixel is a weighted sum over
the points of the series, and the weight of a point is that of its phase times that of its period.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEFAULT_PERIOD = 48  # where the spectrum names none inside of the series
WEIGHTS = 1 << 24  # of points, that are held at a time: 64 MB


def periods(series: Tensor, *, shared: bool = False) -> Tensor:
    """Return the period of every row in points, (B,) integers.

    Args:
        series: (B, L), normalised.
        shared: one period for all, from the mean spectrum, as upstream has it.
    """
    length = series.shape[1]
    amplitude = torch.fft.rfft(series.float()).abs()
    if shared:
        amplitude = amplitude.mean(0, keepdim=True).expand(len(series), -1)
    if amplitude.shape[1] < 2:
        return torch.full((len(series),), length, device=series.device)
    # a row without any wave peaks nowhere: argmax says the lowest frequency, whose period is the whole series
    found: Tensor = length // (amplitude[:, 1:].argmax(1) + 1)
    return found.masked_fill(found >= length, min(DEFAULT_PERIOD, length))


def draw(series: Tensor, period: Tensor, side: int) -> Tensor:
    """Return pictures (B, 1, side, side) in the units of the series.

    Args:
        series: (B, L), normalised; it is filled up with zeros on the left to whole periods.
        period: (B,) of each row, from 1 to L.
        side: in pixels.
    """
    rows = max(1, WEIGHTS // (side * series.shape[1]))
    parts = zip(torch.split(series, rows), torch.split(period, rows), strict=True)
    return torch.cat([_drawn(some, its[:, None], side) for some, its in parts])


def _drawn(series: Tensor, period: Tensor, side: int) -> Tensor:
    length = series.shape[1]
    columns = (length + period - 1) // period
    place = torch.arange(length, device=series.device) + columns * period - length
    down, across = _weights(place % period, period, side), _weights(place // period, columns, side)
    pictures = (down * series.float()[:, None]) @ across.mT
    return pictures[:, None].to(series.dtype)


def _weights(place: Tensor, size: Tensor, side: int) -> Tensor:
    """Return the weights (B, side, L) of antialiased linear interpolation, fp32.

    Args:
        place: (B, L) where along one axis each point lies, from 0.
        size: (B, 1) places along that axis.
        side: pixels along it.
    """
    step = size.double() / side
    reach = step.clamp(min=1)  # a smaller picture sees all places that a pixel covers
    center = step * (torch.arange(side, device=place.device) + 0.5) - 0.5  # (B, side)
    # all weights of a pixel together, of places that have no point too: two arithmetic series, up to the centre and on
    first, last = (center - reach).ceil().clamp(min=0), (center + reach).floor().minimum(size - 1)
    middle = center.floor()
    left, right = middle - first + 1, last - middle
    total = left + right - (left * (center - (first + middle) / 2) + right * ((middle + 1 + last) / 2 - center)) / reach
    # whole numbers first: fp32 would not hold the fraction of a place far from 0
    distance = place.float()[:, None] - middle.float()[..., None] - (center - middle).float()[..., None]
    return (1 - distance.abs() / reach.float()[..., None]).clamp(min=0) / total.float()[..., None]
