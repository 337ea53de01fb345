"""Probabilistic forecasts of time series: Aurora. Importing this imports nothing heavy; a name is loaded when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_forecast.aurora import Aurora
    from zoo_forecast.forecaster import Forecast, Forecaster
    from zoo_forecast.mode import Mode

_LAZY = {"Aurora": "aurora", "Forecast": "forecaster", "Forecaster": "forecaster", "Mode": "mode"}
__all__ = ["Aurora", "Forecast", "Forecaster", "Mode"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
