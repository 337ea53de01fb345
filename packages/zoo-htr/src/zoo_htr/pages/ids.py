"""Identifiers that XML accepts: they begin with a letter and are there once."""

from __future__ import annotations

import re


class Ids:
    """Gives out identifiers, each once.

    Args:
        taken: those that the file has already.
    """

    def __init__(self, taken: set[str] | None = None) -> None:
        self._taken = set(taken or ())

    def new(self, wanted: str) -> str:
        """Return `wanted` as far as XML and those given out before let it be."""
        name = re.sub(r"[^\w.-]", "_", wanted) or "id"
        if not re.match(r"[^\W\d]", name):
            name = f"id_{name}"
        unique, count = name, 1
        while unique in self._taken:
            count += 1
            unique = f"{name}_{count}"
        self._taken.add(unique)
        return unique
