"""The two ways of running Aurora: as its authors do, for parity, or with slips put right, the default."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_forecast.flow import Sampler
from zoo_forecast.resize import Resize


@dataclass(frozen=True)
class Mode:
    """How Aurora is run.

    Args:
        sampler: `ode` follows the flow; `official` averages its predictions, which is too narrow.
        resize: `even` keeps levels for every token length; `official` does not.
        shared_period: draw all pictures of a batch with one period, so that a forecast depends on its batch.
        attend_padding: read the padding behind a text, so that a forecast depends on its length.
        keep_remainder: fill the oldest token up with zeros, which are read as data, instead of leaving it out.
        coherence: correlation of the noise of neighbouring future tokens, 0 to 1. The default is a middle value that
            was not fitted.
        double: scale in float64 and by the exact standard deviation, so that any magnitude works.
    """

    sampler: Sampler = "ode"
    resize: Resize = "even"
    shared_period: bool = False
    attend_padding: bool = False
    keep_remainder: bool = False
    coherence: float = 0.5
    double: bool = True


CORRECTED = Mode()
OFFICIAL = Mode("official", "official", True, True, True, 0.0, False)
