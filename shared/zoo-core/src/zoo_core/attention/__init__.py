"""Attention, written once: one function, with masks and biases as values, and the modules and papers built on it.

`attend` is the function. Nothing here is imported before it is used; see docs/attention.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.attention.biases import DenseBias, Distance, KeyBias, LowRank, alibi
    from zoo_core.attention.blockwise import Dense, StridedBlock
    from zoo_core.attention.call import Result
    from zoo_core.attention.dispatch import attend, explain
    from zoo_core.attention.masks import Causal, Document, Padding, PerHead, Prefix, Sink, Window
    from zoo_core.attention.taps import Taps

_HOME = {
    **dict.fromkeys(
        (
            "DenseBias",
            "Distance",
            "KeyBias",
            "LowRank",
            "alibi",
        ),
        "biases",
    ),
    **dict.fromkeys(
        (
            "Dense",
            "StridedBlock",
        ),
        "blockwise",
    ),
    **dict.fromkeys(("Result",), "call"),
    **dict.fromkeys(
        (
            "attend",
            "explain",
        ),
        "dispatch",
    ),
    **dict.fromkeys(
        (
            "Causal",
            "Document",
            "Padding",
            "PerHead",
            "Prefix",
            "Sink",
            "Window",
        ),
        "masks",
    ),
    **dict.fromkeys(("Taps",), "taps"),
}
__all__ = [
    "Causal",
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
    "Taps",
    "Window",
    "alibi",
    "attend",
    "explain",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo_core.attention' has no attribute {name!r}")
    return getattr(import_module(f"zoo_core.attention.{_HOME[name]}"), name)
