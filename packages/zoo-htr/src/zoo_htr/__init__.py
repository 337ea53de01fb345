"""Handwriting recognition: HTR-JAND. Importing this imports nothing heavy; a name is loaded when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_htr.alphabet import Alphabet
    from zoo_htr.reading import Reading

_LAZY = {"Alphabet": "alphabet", "Reading": "reading"}
__all__ = ["Alphabet", "Reading"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
