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

MOST_POINTS = 2_000_000  # of a series with gaps
NIXTLA = {"item_id": "unique_id", "timestamp": "ds", "target": "y"}


@dataclass(frozen=True)
class Columns:
    """Names of columns.

    Args:
        item: of the item's id.
        stamp: of the time stamp.
        target: of the number that is forecast.
        text: of the text, or None.
        covariates: of numbers that are known in the future too.
    """

    item: str = "item_id"
    stamp: str = "timestamp"
    target: str = "target"
    text: str | None = None
    covariates: tuple[str, ...] = ()

    @property
    def named(self) -> tuple[str, ...]:
        """All columns that are read."""
        return (self.item, self.stamp, self.target, *((self.text,) if self.text else ()), *self.covariates)

    def found_in(self, names: list[str]) -> Columns:
        """Return the columns as a table has them: if none of the default names is there, Nixtla's are taken.

        Raises:
            UsageError: one is missing; names the nearest.
        """
        mine = self
        default = Columns(text=self.text, covariates=self.covariates)
        if mine == default and not {*NIXTLA} & {*names} and {*NIXTLA.values()} <= {*names}:
            mine = replace(self, item="unique_id", stamp="ds", target="y")
        for name in mine.named:
            if name not in names:
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
        covariates: (C, L) float64 over the same stamps; NaN is missing.
    """

    name: Any
    stamps: Stamps
    values: Values
    texts: tuple[tuple[int, str], ...]
    step: Step
    notes: tuple[str, ...] = ()
    covariates: Values | None = None

    @classmethod
    def beginning(cls, name: Any, first: np.datetime64, values: Values, step: Step, **more: Any) -> Item:
        """Return an item whose stamps follow each other from a first one; more as of the class."""
        # a month's last day means month ends, which 31 January and 30 September show alike
        ends = step.kind == "months" and are_month_ends(np.array([first]))
        stamps = np.concatenate([[first], step.after(first, len(values) - 1, month_ends=ends)])[: len(values)]
        return cls(name, stamps.astype("datetime64[us]"), values, more.pop("texts", ()), step, **more)

    @property
    def origin(self) -> int:
        """The place of the last observed value, that of the last stamp if there is none."""
        seen = np.flatnonzero(~np.isnan(self.values))
        return int(seen[-1]) if len(seen) else len(self.values) - 1

    @property
    def text(self) -> str | None:
        """The newest text that is there, or None."""
        return self.texts[-1][1] if self.texts else None

    def until(self, count: int) -> Item:
        """Return the first `count` points, with the texts that were known then: a forecaster's view in the past."""
        known = tuple((place, text) for place, text in self.texts if place < count)
        shown = None if self.covariates is None else self.covariates[:, :count]
        return replace(self, stamps=self.stamps[:count], values=self.values[:count], texts=known, covariates=shown)

    def stamp(self, place: int) -> np.datetime64:
        """Return the stamp at a place, which may lie in the future."""
        beyond = place + 1 - len(self.stamps)
        stamp: np.datetime64 = self.stamps[place] if beyond <= 0 else self.future(beyond)[-1]
        return stamp

    def future(self, count: int) -> Stamps:
        """Return the next stamps."""
        return self.step.after(self.stamps[-1], count, month_ends=are_month_ends(self.stamps))


def items(
    table: Mapping[str, NDArray[Any]], columns: Columns, *, freq: str | None = None, allow_future_text: bool = False
) -> list[Item]:
    """Cut a long table into series, in the order in which their items first appear.

    Args:
        table: columns of one length; stamps are datetime64.
        columns: their names, as `Columns.found_in` returns them.
        freq: of the stamps, such as h or MS; by default each item's own, or that of the others where an item is too
            short to show it.
        allow_future_text: read texts too whose stamps lie behind the last observed value.

    Raises:
        InputError: no rows; a stamp that is missing or doubled (item and row are named); stamps that are irregular; a
            text from behind the last observed value, which nobody knew when the forecast was due.
        UsageError: the frequency is not known.
    """
    ids, stamps = table[columns.item], table[columns.stamp]
    if not len(ids):
        raise InputError("The table has no rows.")
    if np.isnat(stamps).any():
        row = int(np.flatnonzero(np.isnat(stamps))[0])
        raise InputError(f"Row {row} (item {ids[row]!r}) has no time stamp.")
    rows_of = by_item(ids)
    named = Step.named(freq) if freq is not None else None
    sorted_rows = {name: in_order(name, rows, stamps) for name, rows in rows_of.items()}
    steps = {name: named or Step.between(stamps[rows]) for name, rows in sorted_rows.items()}
    shown = next((step for step in steps.values() if step is not None), None)
    found = []
    for name, rows in sorted_rows.items():
        step = steps[name] or (shown if len(rows) == 1 else None)
        if step is None:
            why = "has one time stamp" if len(rows) == 1 else "has irregular time stamps"
            raise InputError(f"Item {name!r} {why}: its frequency is not clear.", "Give it, such as freq='D'.")
        notes = () if (np.diff(rows) > 0).all() else ("rows were not in the order of time: they were sorted",)
        item = _item(name, rows, table, columns, step, notes, snap=named is not None)
        if not allow_future_text:
            _refuse_later_texts(item)
        found.append(item)
    return found


def by_item(ids: NDArray[Any]) -> dict[Any, NDArray[np.int64]]:
    """Return the rows of each item, in the order in which items first appear."""
    rows_of: dict[Any, list[int]] = {}
    for row, name in enumerate(ids.tolist()):
        rows_of.setdefault(name, []).append(row)
    return {name: np.array(rows) for name, rows in rows_of.items()}


def column_of_numbers(name: Any, rows: NDArray[np.int64], table: Mapping[str, NDArray[Any]], column: str) -> Values:
    """Return an item's part of a column as float64.

    Raises:
        InputError: something there is no number.
    """
    try:
        return np.asarray(table[column][rows].astype(np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"Item {name!r}: the column {column!r} holds something that is no number.") from error


def _refuse_later_texts(item: Item) -> None:
    for place, _ in item.texts:
        if place > item.origin:
            when, last = (item.stamps[n].astype("datetime64[s]") for n in (place, item.origin))
            raise InputError(
                f"Item {item.name!r} has a text of {when}, but its values end at {last}: "
                "nobody could have read that text there.",
                "Leave these rows out, or allow it with allow_future_text=True (--allow-future-text).",
            )


def in_order(name: Any, rows: NDArray[np.int64], stamps: Stamps) -> NDArray[np.int64]:
    """Return an item's rows sorted by their stamps.

    Raises:
        InputError: a stamp is there twice; item and rows are named.
    """
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


def _bounded(length: int, observed: int, name: Any, step: Step) -> int:
    """Refuse a length that is mostly gaps: a wrong frequency, or one wrong stamp, such as a year of 1024."""
    if length > max(MOST_POINTS, 1000 * observed):
        raise InputError(
            f"Item {name!r} would have {length} points, of which {observed} are there: a time stamp or the frequency "
            f"({step.count:g} {'seconds' if step.kind == 'time' else step.kind}) is wrong.",
            "Correct it.",
        )
    return length


def _item(
    name: Any, rows: NDArray[np.int64], table: Mapping[str, NDArray[Any]], columns: Columns, step: Step,
    notes: tuple[str, ...], *, snap: bool,
) -> Item:  # fmt: skip
    stamps = table[columns.stamp][rows]
    given = column_of_numbers(name, rows, table, columns.target)
    places = step.places(stamps)
    if places is None and snap and (nearest := step.nearest(stamps)) is not None:
        stamps, places = nearest
        notes = (*notes, "time stamps lay between the steps of the frequency: each was moved to the nearest one")
    if places is None:
        raise InputError(
            f"Item {name!r} has time stamps between the steps of its frequency.",
            "Resample it, or give a finer one, such as freq='D'.",
        )
    values = np.full(_bounded(int(places[-1]) + 1, len(given), name, step), np.nan)
    values[places] = given
    missing = len(values) - len(given)
    if missing:
        notes = (*notes, f"{missing} time stamps are missing: they count as missing values")
    shown = None
    if columns.covariates:
        shown = np.full((len(columns.covariates), len(values)), np.nan)
        shown[:, places] = [column_of_numbers(name, rows, table, column) for column in columns.covariates]
    whole = np.concatenate([stamps[:1], step.after(stamps[0], len(values) - 1, month_ends=are_month_ends(stamps))])
    cells = table[columns.text][rows] if columns.text is not None else ()
    texts = tuple(
        (int(place), cell) for place, cell in zip(places, cells, strict=False) if isinstance(cell, str) and cell.strip()
    )
    return Item(name, whole, values, texts, step, notes, shown)
