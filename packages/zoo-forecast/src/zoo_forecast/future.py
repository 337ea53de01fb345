"""Covariates of the horizon, from a table of the future, put beside those of the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_core.errors import InputError, UsageError, did_you_mean
from zoo_forecast.calendar import Stamps
from zoo_forecast.items import Columns, Item, by_item, column_of_numbers, in_order
from zoo_forecast.series import Values


def future_columns(columns: Columns, names: Sequence[str]) -> None:
    """Refuse a table of the future that lacks a column, or whose columns nobody asked for.

    Args:
        columns: those of the past.
        names: of the columns that the table of the future has.

    Raises:
        UsageError: so it is; the nearest name is said.
    """
    if not columns.covariates:
        others = [name for name in names if name not in columns.named]
        raise UsageError(
            "A table of the future was given, but no covariates were named.",
            f"Name them, such as covariates={others[:3]} (--covariates {','.join(others[:3])})." if others else "",
        )
    for name in (columns.item, columns.stamp, *columns.covariates):
        if name not in names:
            raise UsageError(f"The table of the future has no column {name!r}.", did_you_mean(name, names))


def tracks(
    items: Sequence[Item], future: Mapping[str, NDArray[Any]], columns: Columns, count: int, *,
    allow_future_text: bool = False,
) -> list[tuple[Item, Values]]:  # fmt: skip
    """Return each item, with texts of its future if that is allowed, and its covariates (C, L + count).

    The stamps of the future are those that follow the item's own, whatever few rows there are of it; further rows and
    further items are of no use here and are left.

    Args:
        items: with covariates.
        future: columns of one length; stamps are datetime64.
        columns: their names; `future_columns` holds.
        count: points of the future.
        allow_future_text: take texts of the future, instead of refusing them.

    Raises:
        InputError: an item or a stamp is missing or there twice; a cell that is no number or infinite; a text.
    """
    ids, stamps = future[columns.item], future[columns.stamp]
    if np.isnat(stamps).any():
        row = int(np.flatnonzero(np.isnat(stamps))[0])
        raise InputError(f"Row {row} of the table of the future (item {ids[row]!r}) has no time stamp.")
    rows_of = by_item(ids)
    found: list[tuple[Item, Values]] = []
    for item in items:
        if item.name not in rows_of:
            known = did_you_mean(str(item.name), [str(name) for name in list(rows_of)[:50]])
            raise InputError(f"The table of the future has no item {item.name!r}.", known)
        rows = in_order(item.name, rows_of[item.name], stamps)
        coming = item.future(count)
        places = np.searchsorted(stamps[rows], coming).clip(max=len(rows) - 1)
        missing = stamps[rows][places] != coming
        if missing.any():
            raise InputError(
                f"The table of the future has no row of item {item.name!r} at {coming[missing][0].astype('M8[s]')}.",
                f"It needs {count} rows of each item, from {coming[0].astype('M8[s]')} on; a covariate that is not "
                "known may be empty.",
            )
        ahead = np.stack([column_of_numbers(item.name, rows[places], future, column) for column in columns.covariates])
        past = item.covariates
        assert past is not None  # noqa: S101 - columns.covariates are named
        if columns.text in future:
            item = _with_texts(item, future[columns.text or ""][rows[places]], coming, allowed=allow_future_text)
        found.append((item, np.concatenate([past, ahead], 1)))
    return found


def _with_texts(item: Item, cells: NDArray[Any], coming: Stamps, *, allowed: bool) -> Item:
    """Return an item with the texts of its future; without leave such a text is an error."""
    told = [(len(item.values) + n, cell) for n, cell in enumerate(cells) if isinstance(cell, str) and cell.strip()]
    if told and not allowed:
        when = coming[told[0][0] - len(item.values)].astype("M8[s]")
        raise InputError(
            f"The table of the future has a text of item {item.name!r} at {when}, after its values end.",
            "Leave the column out, or allow it with allow_future_text=True (--allow-future-text).",
        )
    return replace(item, texts=(*item.texts, *told))
