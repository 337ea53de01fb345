"""The core of zoo: what its packages share. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from zoo_core.errors import ZooError
    from zoo_core.predict import load

_LAZY = {"load": "zoo_core.predict", "ZooError": "zoo_core.errors"}
__all__ = ["ZooError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'zoo_core' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
