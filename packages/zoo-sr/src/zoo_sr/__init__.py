"""Super-resolution: IMDN and its variants. Importing this imports nothing heavy; a name is loaded when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_sr.imdn import IMDN, IMDN_AS, IMDN_RTC, IMDN_RTE
    from zoo_sr.tiling import upscale

_LAZY = {
    "IMDN": "imdn",
    "IMDN_AS": "imdn",
    "IMDN_RTC": "imdn",
    "IMDN_RTE": "imdn",
    "upscale": "tiling",
}
__all__ = ["IMDN", "IMDN_AS", "IMDN_RTC", "IMDN_RTE", "upscale"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
