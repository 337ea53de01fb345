"""Getting at the parts of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from zoo_core.errors import UsageError, did_you_mean

Pick: TypeAlias = str | Callable[[Any], Any]
"""A part of a batch: a key or attribute, or a function of the batch."""


def pick(batch: Any, what: Pick) -> Any:
    """Return a part of a batch.

    Raises:
        UsageError: the batch has no such key or attribute; names the nearest.
    """
    if not isinstance(what, str):
        return what(batch)
    if isinstance(batch, Mapping):
        if what not in batch:
            raise UsageError(f"The batch has no {what!r}.", did_you_mean(what, map(str, batch)))
        return batch[what]
    if not hasattr(batch, what):
        raise UsageError(f"The batch, a {type(batch).__name__}, has no {what!r}.")
    return getattr(batch, what)
