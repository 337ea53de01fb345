"""Nested structures of tensors, such as batches and results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], nested: Any) -> Any:
    """Return the same structure (dicts, lists, tuples, dataclasses) with `function` applied to every tensor."""
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, dict):
        return {key: map_tensors(function, value) for key, value in nested.items()}
    if isinstance(nested, tuple) and hasattr(nested, "_fields"):
        return type(nested)(*(map_tensors(function, value) for value in nested))
    if isinstance(nested, list | tuple):
        return type(nested)(map_tensors(function, value) for value in nested)
    if dataclasses.is_dataclass(nested) and not isinstance(nested, type):
        fields = {f.name: map_tensors(function, getattr(nested, f.name)) for f in dataclasses.fields(nested) if f.init}
        return dataclasses.replace(nested, **fields)
    return nested


def tensors_in(nested: Any) -> list[Tensor]:
    """Return all tensors of the structure, in its order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, nested)
    return found
