"""Attention, written once: one function, with masks and biases as values, and the modules and papers built on it.

`attend` is the function. Nothing here is imported before it is used; see docs/attention.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_core.attention.atoms import Causal, Document, Padding, Prefix, Sink, Window
    from zoo_core.attention.biases import DenseBias, Distance, KeyBias, LowRank, alibi
    from zoo_core.attention.blockwise import Dense
    from zoo_core.attention.cache import DenseCache, RingCache
    from zoo_core.attention.call import Result
    from zoo_core.attention.dispatch import attend, explain
    from zoo_core.attention.masks import PerHead
    from zoo_core.attention.merging import merge
    from zoo_core.attention.module import Attention
    from zoo_core.attention.plans import Plan
    from zoo_core.attention.positions import RoPE
    from zoo_core.attention.spatial import attention_map
    from zoo_core.attention.stages import Decay
    from zoo_core.attention.taps import Taps

_NAMES = {
    "atoms": "Causal Document Padding Prefix Sink Window",
    "biases": "DenseBias Distance KeyBias LowRank alibi",
    "blockwise": "Dense",
    "cache": "DenseCache RingCache",
    "call": "Result",
    "dispatch": "attend explain",
    "masks": "PerHead",
    "merging": "merge",
    "module": "Attention",
    "plans": "Plan",
    "positions": "RoPE",
    "spatial": "attention_map",
    "stages": "Decay",
    "taps": "Taps",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = [
    "Attention",
    "Causal",
    "Decay",
    "Dense",
    "DenseBias",
    "DenseCache",
    "Distance",
    "Document",
    "KeyBias",
    "LowRank",
    "Padding",
    "PerHead",
    "Plan",
    "Prefix",
    "Result",
    "RingCache",
    "RoPE",
    "Sink",
    "Taps",
    "Window",
    "alibi",
    "attend",
    "attention_map",
    "explain",
    "merge",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo_core.attention' has no attribute {name!r}")
    return getattr(import_module(f"zoo_core.attention.{_HOME[name]}"), name)
