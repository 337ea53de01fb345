"""Tables of series from files, CSV and parquet, and how their time stamps are written."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.compute as compute
from numpy.typing import NDArray
from pyarrow import csv, parquet

from zoo_core.errors import InputError

MAX_CELLS = 500_000_000  # of a table: parquet packs equal cells to nearly nothing
EXAMPLE = "A table has a header, then one row a time stamp: item_id,timestamp,target."
OFFSET = re.compile(r"(?:Z|[+-]\d\d(?::?\d\d)?)$")


@dataclass(frozen=True)
class Zone:
    """The time zone of a column.

    Args:
        name: such as Europe/Paris or +01:00.
        wall: whether its stamps are days and longer, counted on the wall there; else they are counted in UTC.
    """

    name: str
    wall: bool


def read_table(data: bytes, name: str) -> arrow.Table:
    """Read a table; its content says whether it is parquet, everything else is CSV.

    Args:
        data: of the file.
        name: of the file, for messages.

    Raises:
        InputError: it cannot be read as such, or is too large.
    """
    try:
        if data[:4] == b"PAR1":
            held = parquet.ParquetFile(io.BytesIO(data))
            if held.metadata.num_rows * held.metadata.num_columns > MAX_CELLS:
                raise InputError(f"{name} has over {MAX_CELLS} cells.", "Cut it into parts.")
            return held.read()
        return _csv(data)
    except (arrow.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} is no table that can be read ({reason}).", EXAMPLE) from error


def _csv(data: bytes) -> arrow.Table:
    def read(**more: Any) -> arrow.Table:
        return csv.read_csv(io.BytesIO(data), convert_options=csv.ConvertOptions(strings_can_be_null=True, **more))

    table = read()
    # of stamps with offsets arrow keeps the UTC time alone: the offsets are looked up once more
    for place, field in enumerate(table.schema):
        if arrow.types.is_timestamp(field.type) and field.type.tz:
            written = read(include_columns=[field.name], column_types={field.name: arrow.string()}).column(0)
            ends = {match[0] for cell in written.to_pylist() if cell and (match := OFFSET.search(cell))}
            if len(ends) == 1:
                zone = _named(ends.pop())
                table = table.set_column(place, field.name, table.column(place).cast(arrow.timestamp("us", zone)))
            else:  # said where the column is wanted
                table = table.set_column(place, field.name, written)
    return table


def _named(offset: str) -> str:
    if offset == "Z":
        return "UTC"
    digits = offset[1:].replace(":", "").ljust(4, "0")
    return f"{offset[0]}{digits[:2]}:{digits[2:]}"


def column(table: arrow.Table, name: str) -> NDArray[Any]:
    """Return a column of values or texts as numpy has it, missing ones as None or NaN.

    Args:
        table: the table.
        name: of the column.

    Raises:
        InputError: it is of a kind that numpy does not have.
    """
    try:
        return np.asarray(table.column(name).to_numpy(zero_copy_only=False))
    except (arrow.ArrowException, ValueError) as error:
        raise InputError(f"the column {name!r} cannot be read ({error}).") from error


def stamps(table: arrow.Table, name: str, *, wall: bool | None = None) -> tuple[NDArray[np.datetime64], Zone | None]:
    """Return a column of time stamps without their zone, and the zone.

    Args:
        table: the table.
        name: of the column.
        wall: see `Zone`; by default, stamps of one time of day are counted on the wall.

    Raises:
        InputError: it holds something else, or stamps of several time zones.
    """
    held = table.column(name)
    if not (arrow.types.is_timestamp(held.type) or arrow.types.is_date(held.type)):
        ends = set()
        if arrow.types.is_string(held.type):
            ends = {match[0] if (match := OFFSET.search(cell or "")) else "" for cell in held.to_pylist()[:10_000]}
        if len(ends) > 1:
            raise InputError(
                f"the column {name!r} holds no time stamps of one time zone ({', '.join(sorted(ends)[:3])}).",
                "Write all of them in UTC, such as 2024-01-31T12:00:00Z.",
            )
        raise InputError(
            f"the column {name!r} holds {held.type}, no time stamps.",
            "Write them as 2024-01-31 or 2024-01-31T12:00:00.",
        )
    held = held.cast(arrow.timestamp("us", getattr(held.type, "tz", None)))
    zone = None
    if held.type.tz:
        local = compute.local_timestamp(held)
        if wall is None:
            clock = local.to_numpy() - local.to_numpy().astype("datetime64[D]")
            wall = len(np.unique(clock[~np.isnat(clock)])) <= 1
        zone, held = Zone(held.type.tz, wall), local if wall else held
    return np.asarray(held.to_numpy().astype("datetime64[us]")), zone


def zoned(coming: NDArray[np.datetime64], zone: Zone | None) -> arrow.Array:
    """Return time stamps as a column, in the zone that `stamps` took off."""
    coming = coming.astype("datetime64[us]")
    seconds = coming.astype("datetime64[s]")
    if (seconds == coming).all():  # a file of text shows all digits that there are
        coming = seconds
    held = arrow.array(coming)
    if zone is None:
        return held
    if zone.wall:
        return compute.assume_timezone(held, zone.name, ambiguous="earliest", nonexistent="latest")
    return compute.assume_timezone(held, "UTC").cast(arrow.timestamp(held.type.unit, zone.name))
