"""Attention, written once: one function, with masks and biases as values, and the modules and papers built on it.

`attend` is the function. Nothing here is imported before it is used; see docs/attention.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.attention.biases import DenseBias, Distance, KeyBias, LowRank, alibi
    from zoo_core.attention.blockwise import BlockList, Circle2D, Dense, StridedBlock, Tile3D
    from zoo_core.attention.call import Result
    from zoo_core.attention.dispatch import attend
    from zoo_core.attention.masks import Causal, Document, Padding, PerHead, Prefix, Sink, Window

_HOME = {
    "attend": "dispatch",
    **dict.fromkeys(("DenseBias", "Distance", "KeyBias", "LowRank", "alibi"), "biases"),
    **dict.fromkeys(("BlockList", "Circle2D", "Dense", "StridedBlock", "Tile3D"), "blockwise"),
    "Result": "call",
    **dict.fromkeys(("Causal", "Document", "Padding", "PerHead", "Prefix", "Sink", "Window"), "masks"),
}
__all__ = [
    "BlockList",
    "Causal",
    "Circle2D",
    "Dense",
    "DenseBias",
    "Distance",
    "Document",
    "KeyBias",
    "LowRank",
    "Padding",
    "PerHead",
    "Prefix",
    "Result",
    "Sink",
    "StridedBlock",
    "Tile3D",
    "Window",
    "alibi",
    "attend",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo_core.attention' has no attribute {name!r}")
    return getattr(import_module(f"zoo_core.attention.{_HOME[name]}"), name)
