"""One input -> its series: what kind of file it is, and what the options want of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as arrow

from zoo_core.errors import InputError, UsageError
from zoo_core.io.inputs import Source
from zoo_forecast.future import future_columns, tracks
from zoo_forecast.items import Columns, Item, items
from zoo_forecast.options import ForecastOptions
from zoo_forecast.series import Values
from zoo_forecast.series_files import is_json_lines, is_tsf, read_json_lines, read_tsf
from zoo_forecast.tables import Zone, column, read_table, stamps

SUFFIXES = frozenset({".csv", ".parquet", ".jsonl", ".tsf"})
MAX_BYTES = 2**30  # also of what was packed by gzip
HEAD = 100_000


@dataclass(frozen=True, eq=False)
class Table:
    """The series of one input.

    Args:
        name: of the input.
        columns: their names.
        items: the series.
        zone: of their stamps, or None.
        covariates: of each series, over context and horizon (C, L + gap + H), or None.
    """

    name: str
    columns: Columns
    items: tuple[Item, ...]
    zone: Zone | None = None
    covariates: tuple[Values | None, ...] | None = None


def read_input(source: Source, options: ForecastOptions) -> Table:
    """Read a file of any kind that is known: its content says which, packed by gzip or not.

    Raises:
        InputError: it cannot be used; the file is named.
    """
    data = _unpacked(source)
    try:
        if is_json_lines(data[:HEAD]):
            return _json_lines(source, data, options)
        if is_tsf(data[:HEAD]):
            found = read_tsf(data, _asked(options), freq=options.freq)
            return Table(source.name, _asked(options), tuple(found))
        return _table(source, read_table(data, source.name), options)
    except (InputError, UsageError) as error:
        if source.name in error.message:
            raise
        raise InputError(f"{source.name}: {error.message}", error.remedy) from error


def _unpacked(source: Source) -> bytes:
    data = source.read_bytes(MAX_BYTES)
    if data[:2] != b"\x1f\x8b":
        return data
    unpacking = zlib.decompressobj(wbits=31)
    try:
        whole = unpacking.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise InputError(f"{source.name} cannot be unpacked ({error}).", "Copy or download it again.") from error
    if unpacking.unconsumed_tail:
        raise InputError(f"{source.name} unpacks to over {MAX_BYTES} bytes.", "Cut it into parts.")
    if not unpacking.eof or not whole:
        raise InputError(f"{source.name} ends too early or is empty.", "Copy or download it again.")
    return whole


def _asked(options: ForecastOptions) -> Columns:
    return Columns(
        options.id_column, options.timestamp_column, options.target, options.text_column, options.covariate_names
    )


def _json_lines(source: Source, data: bytes, options: ForecastOptions) -> Table:
    columns, ahead = _asked(options), options.gap + options.horizon
    if options.future_file is not None:
        raise InputError("JSON lines have their covariates in fields of their own.", "Leave --future-file out.")
    found, given = read_json_lines(data, columns, freq=options.freq)
    shown: list[Values | None] = []
    for item, own in zip(found, given, strict=True):
        points = len(item.values) + ahead
        if own is not None and own.shape[1] < points:
            raise InputError(
                f"item {item.name!r} has covariates for {own.shape[1]} points, but {points} are needed.",
                "They are known over the horizon, too; or leave --covariates out.",
            )
        shown.append(None if own is None else own[:, :points])
    return Table(source.name, columns, tuple(found), covariates=tuple(shown) if columns.covariates else None)


def _table(source: Source, table: arrow.Table, options: ForecastOptions) -> Table:
    if not table.num_rows:
        raise InputError("the table has no rows.")
    names = list(table.column_names)
    alone = options.id_column == Columns().item and not {"item_id", "unique_id"} & {*names}
    columns = _asked(options).found_in([*names, options.id_column] if alone else names)
    held, zone = stamps(table, columns.stamp)
    found = items(
        _cells(table, columns, held, source.stem),
        columns,
        freq=options.freq,
        allow_future_text=options.allow_future_text,
    )
    ahead = options.gap + options.horizon
    shown: tuple[Values, ...] | None = None
    if options.future_file is not None:
        told = _future(source, found, columns, zone, options, ahead)
        found, shown = [item for item, _ in told], tuple(own for _, own in told)
    elif columns.covariates:
        raise InputError(
            f"the covariates {', '.join(columns.covariates)} are not known over the horizon.",
            f"Give --future-file, a table with the {ahead} rows of each item that follow.",
        )
    return Table(source.name, columns, tuple(found), zone, shown)


def _future(
    source: Source, found: list[Item], columns: Columns, zone: Zone | None, options: ForecastOptions, ahead: int
) -> list[tuple[Item, Values]]:
    path = options.future_file
    assert path is not None  # noqa: S101 - the caller looked
    table = read_table(_unpacked(Source(str(path), path)), str(path))
    names = list(table.column_names)
    alone = columns.item not in names and len(found) == 1
    try:
        future_columns(columns, [*names, columns.item] if alone else names)
        held, other = stamps(table, columns.stamp, wall=zone.wall if zone else None)
        if (zone and zone.name) != (other and other.name):
            raise InputError(
                f"its time zone is {other.name if other else 'none'}, but that of {source.name} "
                f"{zone.name if zone else 'none'}.",
                "Write both in one.",
            )
        cells = _cells(table, columns, held, found[0].name)
        return tracks(found, cells, columns, ahead, allow_future_text=options.allow_future_text)
    except (InputError, UsageError) as error:
        raise InputError(f"{path}: {error.message}", error.remedy) from error


def _cells(table: arrow.Table, columns: Columns, held: Any, alone: Any) -> dict[str, Any]:
    """Return the columns that are read as numpy has them; without names there is one series, called `alone`."""
    names = table.column_names
    cells = {name: column(table, name) for name in columns.named if name in names}
    cells[columns.stamp] = held
    if columns.item not in cells:
        cells[columns.item] = np.full(len(held), alone, dtype=object)
    return cells
