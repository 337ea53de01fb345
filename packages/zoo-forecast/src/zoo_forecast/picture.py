"""The picture of a series (section 3.1 of the paper): one column a period, one row a phase, gray.

The period is where the amplitude spectrum has its peak. Upstream takes the mean spectrum of the batch, so that a series
looks different beside other ones; ours is each row's own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

DEFAULT_PERIOD = 48  # where the spectrum names none inside of the series


def periods(series: Tensor, *, shared: bool = False) -> list[int]:
    """Return the period of every row in points.

    Args:
        series: (B, L), normalised.
        shared: one period for all, from the mean spectrum, as upstream has it.
    """
    length = series.shape[1]
    amplitude = torch.fft.rfft(series.float()).abs()
    if shared:
        amplitude = amplitude.mean(0, keepdim=True).expand(len(series), -1)
    peaks: list[int] = amplitude[:, 1:].argmax(1).add(1).tolist() if amplitude.shape[1] > 1 else [0] * len(series)
    # a row without any wave peaks nowhere: argmax says the lowest frequency, whose period is the whole series
    found = [length // peak if peak else 0 for peak in peaks]
    return [period if 0 < period < length else min(DEFAULT_PERIOD, length) for period in found]


def draw(series: Tensor, period: list[int], side: int) -> Tensor:
    """Return pictures (B, 1, side, side) in the units of the series.

    Args:
        series: (B, L), normalised; it is filled up with zeros on the left to whole periods.
        period: of each row.
        side: in pixels.
    """
    pictures = series.new_empty(len(series), 1, side, side)
    for each in sorted(set(period)):
        rows = torch.tensor([row for row, own in enumerate(period) if own == each], device=series.device)
        folded = (
            pad(series[rows], (-series.shape[1] % each, 0)).reshape(len(rows), -1, each).mT
        )  # (rows, phase, number)
        # bilinear with antialiasing knows no bfloat16 on the CPU
        wide = interpolate(folded[:, None].float(), size=(side, side), mode="bilinear", antialias=True)
        pictures[rows] = wide.to(series.dtype)
    return pictures
