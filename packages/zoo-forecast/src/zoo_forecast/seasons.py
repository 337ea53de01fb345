"""The period of a series of which nobody knows it."""

from __future__ import annotations

import numpy as np

from zoo_forecast.series import Values

LEAST = 0.2  # correlation with itself one period before, below which there is no period
PEAKS = 8  # of the spectrum that are looked at
NEWEST = 4096  # points that are looked at


def find_period(values: Values, longest: int = 400) -> int:
    """Return after how many points a series repeats: the peak of its spectrum at which it is most like itself.

    Args:
        values: (L,) without gaps.
        longest: that is looked for.

    Returns:
        the period, or 1 where there is none.
    """
    values = values[-NEWEST:]
    length = len(values)
    if length < 8:
        return 1
    largest = np.abs(values).max() or 1.0
    values = values / largest
    time = np.linspace(-1, 1, length)
    slope, level = np.polyfit(time, values, 1)
    values = values - slope * time - level
    strength = np.abs(np.fft.rfft(values * np.hanning(length))) ** 2
    energy = np.fft.irfft(np.abs(np.fft.rfft(values, 2 * length)) ** 2)[:length]
    if energy[0] <= 0:
        return 1
    alike = energy / energy[0] * length / np.arange(length, 0, -1)
    best, period = LEAST, 1
    for peak in np.argsort(strength[1:])[::-1][:PEAKS] + 1:
        for lag in {int(np.floor(length / peak)), int(np.ceil(length / peak))}:
            if 2 <= lag <= min(longest, length // 2) and alike[lag] > best:
                best, period = float(alike[lag]), lag
    return period
