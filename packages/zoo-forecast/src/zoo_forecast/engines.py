"""Which engine runs which network."""

from __future__ import annotations

from torch import nn

from zoo_forecast.asked import Runs
from zoo_forecast.aurora import Aurora
from zoo_forecast.engine import Engine
from zoo_forecast.mode import Mode


def engine_of(module: nn.Module, mode: Mode) -> Runs:
    """Return the engine of a network.

    Args:
        module: the network, in evaluation mode, on its device and of its type.
        mode: how Aurora is run; others have one way.

    Raises:
        TypeError: it is no network of this package.
    """
    if isinstance(module, Aurora):
        return Engine(module, mode)
    raise TypeError(f"{type(module).__name__} is no network that forecasts")
