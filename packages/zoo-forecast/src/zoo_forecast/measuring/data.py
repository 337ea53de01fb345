"""Packs of series as they are measured: long tables cut into series, each with its test part and its texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray
from pyarrow import csv, parquet

from zoo_core.errors import InputError, UsageError, did_you_mean
from zoo_forecast.calendar import Stamps, Step
from zoo_forecast.series import Values

Rows: TypeAlias = Literal["time", "file"]
ITEM, STAMP, TARGET, TEXT, FREQ, IS_TEST = "item_id", "timestamp", "target", "text", "freq", "is_test"
TEST_SHARE = 0.2  # of a series, where no column says what is tested
FILLED = 4  # times as long as its rows a series may become by missing stamps


@dataclass(frozen=True, eq=False)
class Tested:
    """A series that is measured.

    Args:
        name: its id.
        values: (L,) float64, oldest first; NaN where nothing was observed.
        test: (L,) which points are of the test part.
        season: points of a season; 1 for none.
        texts: (L,) the text that came with each point, or None; it is known once the point's own value is. Empty
            if there is none at all.
        covariates: (C, L) columns that were named.
        notes: what was found: doubled, missing or unsorted stamps -> how many.
    """

    name: str
    values: Values
    test: NDArray[np.bool_]
    season: int
    texts: tuple[str | None, ...] = ()
    covariates: Values = field(default_factory=lambda: np.zeros((0, 0)))
    notes: Counter[str] = field(default_factory=Counter)

    def text(self, origin: int) -> str | None:
        """Return the newest text that was known before the point `origin`: that of an earlier point, never its own."""
        places = range(min(origin, len(self.texts)) - 1, -1, -1)
        return next((self.texts[place] for place in places if self.texts[place] is not None), None)


def read_pack(
    path: Path,
    *,
    rows: Rows = "time",
    freq: str | None = None,
    season: int | None = None,
    covariates: Sequence[str] = (),
    item: str | None = None,
) -> list[Tested]:
    """Read a pack: item_id, timestamp, target; text, freq and is_test where they are there.

    Args:
        path: parquet or CSV.
        rows: time: rows are sorted by their stamps, of doubled stamps the last row is kept, and missing stamps become
            missing values. file: rows are taken as they are, in the order of the file.
        freq: of the stamps; default the column freq, else what the stamps show.
        season: points of a season; default by the frequency.
        covariates: numeric columns to keep; others are not read.
        item: only this series.

    Raises:
        UsageError: a column or frequency that is none.
        InputError: the file cannot be read, or has no series.
    """
    if not path.is_file():
        raise UsageError(f"{path} is no file.", "Series are measured on a table: a parquet file, or CSV.")
    names = _names(path)
    for name in (ITEM, STAMP, TARGET, *covariates):
        if name not in names:
            raise UsageError(f"{path.name} has no column {name!r}.", did_you_mean(name, names))
    known = {ITEM, STAMP, TARGET, TEXT, FREQ, IS_TEST, *covariates}
    table = _read(path, [name for name in names if name in known])
    coded = table.column(ITEM).cast(arrow.string()).combine_chunks().dictionary_encode()
    items, codes = coded.dictionary.to_pylist(), np.asarray(coded.indices)
    whole = _Columns(
        _stamps(table, path),
        _numbers(table, TARGET, path),
        _cells(table, IS_TEST).astype(bool) if IS_TEST in names else None,
        _cells(table, TEXT) if TEXT in names else None,
        _cells(table, FREQ) if FREQ in names else None,
        np.stack([_numbers(table, name, path) for name in covariates]) if covariates else None,
    )
    ordered = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[ordered], np.arange(len(items) + 1))
    found = [
        (str(name), whole.of(ordered[bounds[n] : bounds[n + 1]]))
        for n, name in enumerate(items)
        if item is None or str(name) == item
    ]
    if not found:
        raise InputError(f"{path.name} has no series" + (f" {item!r}." if item else "."))
    steps = [_step(cells, freq) for _, cells in found]
    usual = Counter(step for step in steps if step is not None).most_common(1)
    return [
        _series(name, cells, step or (usual[0][0] if usual else None), rows, season)
        for (name, cells), step in zip(found, steps, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Columns:
    """Rows of one series, or of all."""

    stamps: Stamps
    values: Values
    test: NDArray[np.bool_] | None
    texts: NDArray[Any] | None
    freq: NDArray[Any] | None
    covariates: Values | None

    def of(self, rows: NDArray[Any]) -> _Columns:
        kept = [None if c is None else c[..., rows] for c in (self.test, self.texts, self.freq, self.covariates)]
        return _Columns(self.stamps[rows], self.values[rows], *kept)  # type: ignore[arg-type]


def _names(path: Path) -> list[str]:
    """Return the names of a table's columns."""
    try:
        if path.suffix == ".csv":
            return list(csv.open_csv(path).schema.names)
        return list(parquet.read_schema(path).names)
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _read(path: Path, columns: Sequence[str]) -> arrow.Table:
    try:
        if path.suffix == ".csv":
            wanted = csv.ConvertOptions(include_columns=list(columns), strings_can_be_null=True)
            return csv.read_csv(path, convert_options=wanted)
        return parquet.read_table(path, columns=list(columns))
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path} is no table that can be read ({reason}).", "Name a parquet or CSV file.")


def _cells(table: arrow.Table, name: str) -> NDArray[Any]:
    return np.asarray(table.column(name).to_numpy())


def _stamps(table: arrow.Table, path: Path) -> Stamps:
    """Return the time stamps; those with a time zone in UTC."""
    held = table.column(STAMP)
    if held.null_count or not (arrow.types.is_timestamp(held.type) or arrow.types.is_date(held.type)):
        what = "empty cells" if held.null_count else f"{held.type}, no time stamps"
        raise InputError(f"{path.name}: the column {STAMP!r} holds {what}.", "Write them as 2024-01-31T12:00:00.")
    return np.asarray(held.cast(arrow.timestamp("us")).to_numpy().astype("datetime64[us]"))


def _numbers(table: arrow.Table, name: str, path: Path) -> Values:
    try:
        values = _cells(table, name).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path.name}: the column {name!r} holds something that is no number.") from error
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise InputError(
            f"{path.name}: the column {name!r} is infinite in row {row}.", "Correct it, or leave it empty."
        )
    return values


def _step(cells: _Columns, freq: str | None) -> Step | None:
    """Return the step of a series: as it is named, else as its stamps show; None if they are irregular."""
    named = freq
    if named is None and cells.freq is not None:
        named = next((str(name) for name in cells.freq if isinstance(name, str) and name.strip()), None)
    return Step.named(named) if named else Step.between(np.unique(cells.stamps))


def _series(name: str, cells: _Columns, step: Step | None, rows: Rows, season: int | None) -> Tested:
    notes: Counter[str] = Counter()
    if rows == "time":
        order = np.argsort(cells.stamps, kind="stable")
        notes["rows out of order"] = int((np.diff(cells.stamps) < np.timedelta64(0)).sum())
        sorted_stamps = cells.stamps[order]
        last = np.append(sorted_stamps[1:] != sorted_stamps[:-1], True)
        notes["doubled stamps, the last kept"] = int((~last).sum())
        cells = cells.of(order[last])
        cells, missing = _filled(cells, step)
        notes["missing stamps, filled as missing values"] = missing
    test = cells.test
    if test is None:
        test = np.arange(len(cells.values)) >= len(cells.values) - int(TEST_SHARE * len(cells.values))
    texts = [t if isinstance(t, str) and t.strip() else None for t in cells.texts] if cells.texts is not None else []
    covariates = cells.covariates if cells.covariates is not None else np.zeros((0, len(cells.values)))
    return Tested(
        name,
        cells.values,
        test,
        season or (step.period if step is not None else 1),
        tuple(texts) if any(texts) else (),
        covariates,
        +notes,
    )


def _filled(cells: _Columns, step: Step | None) -> tuple[_Columns, int]:
    """Return rows one step apart, and how many were added; irregular ones as they are."""
    places = step.places(cells.stamps) if step is not None and len(cells.stamps) > 1 else None
    if places is None or len(np.unique(places)) < len(places) or places[-1] >= FILLED * len(places):
        return cells, 0
    length = int(places[-1]) + 1
    if length == len(places):
        return cells, 0
    before = np.searchsorted(places, np.arange(length), side="right") - 1
    there = places[before] == np.arange(length)
    kept = cells.of(before)
    values = np.where(there, kept.values, np.nan)
    texts = np.where(there, kept.texts, np.array(None)) if kept.texts is not None else None
    covariates = np.where(there, kept.covariates, np.nan) if kept.covariates is not None else None
    return _Columns(kept.stamps, values, kept.test, texts, kept.freq, covariates), length - len(places)
