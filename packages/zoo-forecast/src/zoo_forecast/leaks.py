"""What must never be trained on: series that are measured, and the same quantities from other sources.

`leaks.json` lists names, as regular expressions that ignore case. A name is all that tells apart the same quantity from
another source; a copy under another name is found by its values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as arrow
from numpy.typing import ArrayLike, NDArray
from pyarrow import parquet

from zoo_core.errors import InputError

WINDOW = 16  # values in a row that must be equal
DISTINCT = 7  # of them at least, so that runs of zeros and the like are no copies
PROBES = 60  # windows that are looked for, of each series
_PRIME = np.uint64(0x9E3779B97F4A7C15)


class Leak(NamedTuple):
    """Something that must not be trained on.

    Args:
        name: of the pack, source or series.
        what: it is.
    """

    name: str
    what: str


def leaks(series: Iterable[str], *, sources: Iterable[str] = (), pack: str | None = None) -> list[Leak]:
    """Return what must not be trained on, by names.

    Args:
        series: item ids.
        sources: repositories that series come from.
        pack: file name without its extension.
    """
    found = []
    for kind, names in (("packs", [pack] if pack else []), ("sources", sources), ("series", series)):
        for name in names:
            what = next((what for what, pattern in _patterns()[kind] if pattern.search(name)), None)
            if what is not None:
                found.append(Leak(name, what))
    return found


def pack_leaks(path: Path) -> list[Leak]:
    """Return what a pack holds that must not be trained on, by the names of the pack, its sources and its series.

    Raises:
        InputError: it is no parquet file with the column item_id.
    """
    try:
        names = parquet.read_schema(path).names
        table = parquet.read_table(path, columns=[name for name in ("item_id", "source") if name in names])
        items = table.column("item_id").unique().to_pylist()
    except (arrow.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path} is no pack of series ({error}).") from error
    sources = table.column("source").unique().to_pylist() if "source" in names else []
    return leaks(map(str, items), sources=filter(None, sources), pack=path.stem)


def check_training_packs(paths: Iterable[Path]) -> None:
    """Refuse packs that hold what must not be trained on; for the beginning of a training.

    Raises:
        InputError: one does; names the pack and the first series.
    """
    for path in paths:
        if found := pack_leaks(path):
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise InputError(
                f"{path.name} holds {found[0].name!r} ({found[0].what}){more}: models are measured on that.",
                "Leave these series out of the training.",
            )


class Probes:
    """Short stretches of series that are measured, to be looked for in others by their values.

    Args:
        series: each (L,); up to 60 stretches of 16 values are taken of each, evenly, as float32.
    """

    def __init__(self, series: Iterable[ArrayLike]) -> None:
        stretches = [stretch for one in series for stretch in _stretches(np.asarray(one, np.float32))]
        self._known = {stretch.tobytes() for stretch in stretches}
        self._hashes = np.array(sorted({int(_hashes(stretch)[0]) for stretch in stretches}), dtype=np.uint64)

    def copied(self, values: ArrayLike) -> bool:
        """Return whether a series holds one of the stretches, value for value."""
        own = np.asarray(values, np.float32)
        if len(own) < WINDOW or not len(self._hashes):
            return False
        hashes = _hashes(own)
        nearest = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        places = np.flatnonzero(self._hashes[nearest] == hashes)
        return any(np.ascontiguousarray(own[place : place + WINDOW]).tobytes() in self._known for place in places)


def _stretches(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    if len(values) < WINDOW:
        return []
    starts = np.unique(np.linspace(0, len(values) - WINDOW, PROBES).astype(int))
    stretches = [np.ascontiguousarray(values[start : start + WINDOW]) for start in starts]
    return [s for s in stretches if not np.isnan(s).any() and len(np.unique(s)) >= DISTINCT]


def _hashes(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a hash of every window of 16 values."""
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    result = np.zeros(len(bits) - WINDOW + 1, dtype=np.uint64)
    for place in range(WINDOW):
        result = result * _PRIME + bits[place : place + len(result)]
    return result


@cache
def _patterns() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    data: dict[str, dict[str, Sequence[str]]] = json.loads(
        files("zoo_forecast").joinpath("leaks.json").read_text(encoding="utf-8")
    )
    whole = {"packs": r"^(?:{})$", "sources": r"^(?:{})$", "series": r"(?:{})"}
    return {
        kind: [(what, re.compile(whole[kind].format("|".join(p)), re.IGNORECASE)) for what, p in groups.items()]
        for kind, groups in data.items()
    }
