"""Long tables, one row a time stamp of an item -> series, sorted and complete, each with its newest text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import InputError, UsageError, did_you_mean
from zoo_forecast.calendar import Stamps, Step, are_month_ends
from zoo_forecast.series import Values

NIXTLA = {"item_id": "unique_id", "timestamp": "ds", "target": "y"}


@dataclass(frozen=True)
class Columns:
    """Names of columns.

    Args:
        item: of the item's id.
        stamp: of the time stamp.
        target: of the number that is forecast.
        text: of the text, or None.
    """

    item: str = "item_id"
    stamp: str = "timestamp"
    target: str = "target"
    text: str | None = None

    def found_in(self, names: list[str]) -> Columns:
        """Return the columns as a table has them: if none of the default names is there, Nixtla's are taken.

        Raises:
            UsageError: one is missing; names the nearest.
        """
        mine = self
        default = Columns(text=self.text)
        if mine == default and not {*NIXTLA} & {*names} and {*NIXTLA.values()} <= {*names}:
            mine = Columns("unique_id", "ds", "y", self.text)
        for name in (mine.item, mine.stamp, mine.target, mine.text):
            if name is not None and name not in names:
                raise UsageError(f"The table has no column {name!r}.", did_you_mean(name, names))
        return mine


@dataclass(frozen=True)
class Item:
    """One series of a table.

    Args:
        name: its id, as the table has it.
        stamps: (L,) one step apart.
        values: (L,) float64; NaN where the table has none.
        texts: each with its place among the stamps, oldest first.
        step: between stamps.
        notes: what was done, a sentence each.
    """

    name: Any
    stamps: Stamps
    values: Values
    texts: tuple[tuple[int, str], ...]
    step: Step
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str | None:
        """The newest text that is there, or None."""
        return self.texts[-1][1] if self.texts else None

    def until(self, count: int) -> Item:
        """Return the first `count` points, with the texts that were known then: a forecaster's view in the past."""
        known = tuple((place, text) for place, text in self.texts if place < count)
        return replace(self, stamps=self.stamps[:count], values=self.values[:count], texts=known)

    def future(self, count: int) -> Stamps:
        """Return the next stamps."""
        return self.step.after(self.stamps[-1], count, month_ends=are_month_ends(self.stamps))


def items(table: Mapping[str, NDArray[Any]], columns: Columns, *, freq: str | None = None) -> list[Item]:
    """Cut a long table into series, in the order in which their items first appear.

    Args:
        table: columns of one length; stamps are datetime64.
        columns: their names, as `Columns.found_in` returns them.
        freq: of the stamps, such as h or MS; by default each item's own, or that of the others where an item is too
            short to show it.

    Raises:
        InputError: no rows; a stamp that is missing or doubled (item and row are named); stamps that are irregular.
        UsageError: the frequency is not known.
    """
    ids, stamps = table[columns.item], table[columns.stamp]
    if not len(ids):
        raise InputError("The table has no rows.")
    if np.isnat(stamps).any():
        row = int(np.flatnonzero(np.isnat(stamps))[0])
        raise InputError(f"Row {row} (item {ids[row]!r}) has no time stamp.")
    rows_of: dict[Any, list[int]] = {}
    for row, name in enumerate(ids.tolist()):
        rows_of.setdefault(name, []).append(row)
    named = Step.named(freq) if freq is not None else None
    sorted_rows = {name: _sorted(name, np.array(rows), stamps) for name, rows in rows_of.items()}
    steps = {name: named or Step.between(stamps[rows]) for name, rows in sorted_rows.items()}
    shown = next((step for step in steps.values() if step is not None), None)
    found = []
    for name, rows in sorted_rows.items():
        step = steps[name] or (shown if len(rows) == 1 else None)
        if step is None:
            why = "has one time stamp" if len(rows) == 1 else "has irregular time stamps"
            raise InputError(f"Item {name!r} {why}: its frequency is not clear.", "Give it, such as freq='D'.")
        notes = () if (np.diff(rows) > 0).all() else ("rows were not in the order of time: they were sorted",)
        found.append(_item(name, rows, table, columns, step, notes))
    return found


def _sorted(name: Any, rows: NDArray[np.int64], stamps: Stamps) -> NDArray[np.int64]:
    rows = rows[np.argsort(stamps[rows], kind="stable")]
    doubled = np.flatnonzero(stamps[rows][1:] == stamps[rows][:-1])
    if len(doubled):
        first, second = rows[doubled[0]], rows[doubled[0] + 1]
        stamp = stamps[first].astype("datetime64[s]")
        raise InputError(
            f"Item {name!r} has the time stamp {stamp} twice, in rows {first} and {second}.",
            "Keep one of them.",
        )
    return rows


def _item(
    name: Any, rows: NDArray[np.int64], table: Mapping[str, NDArray[Any]], columns: Columns, step: Step,
    notes: tuple[str, ...],
) -> Item:  # fmt: skip
    stamps = table[columns.stamp][rows]
    try:
        given = table[columns.target][rows].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Item {name!r}: the column {columns.target!r} holds something that is no number.") from error
    places = step.places(stamps)
    if places is None:
        raise InputError(f"Item {name!r} has time stamps between the steps of its frequency.", "Resample it before.")
    values = np.full(int(places[-1]) + 1, np.nan)
    values[places] = given
    missing = len(values) - len(given)
    if missing:
        notes = (*notes, f"{missing} time stamps are missing: they count as missing values")
    whole = np.concatenate([stamps[:1], step.after(stamps[0], len(values) - 1, month_ends=are_month_ends(stamps))])
    cells = table[columns.text][rows] if columns.text is not None else ()
    texts = tuple(
        (int(place), cell) for place, cell in zip(places, cells, strict=False) if isinstance(cell, str) and cell.strip()
    )
    return Item(name, whole, values, texts, step, notes)
