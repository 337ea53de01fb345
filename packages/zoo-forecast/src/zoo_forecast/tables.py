"""Tables of series from files: CSV and parquet."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray
from pyarrow import csv, parquet

from zoo_core.errors import InputError
from zoo_core.io.inputs import Source

SUFFIXES = frozenset({".csv", ".parquet"})
MAX_BYTES = 2**30
EXAMPLE = "A table has a header, then one row a time stamp: item_id,timestamp,target."


def read_table(source: Source) -> arrow.Table:
    """Read a table; its content says whether it is parquet, everything else is CSV.

    Raises:
        InputError: it cannot be read as such.
    """
    data = source.read_bytes(MAX_BYTES)
    try:
        if data[:4] == b"PAR1":
            return parquet.read_table(io.BytesIO(data))
        return csv.read_csv(io.BytesIO(data), convert_options=csv.ConvertOptions(strings_can_be_null=True))
    except (arrow.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{source.name} is no table that can be read ({reason}).", EXAMPLE) from error


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


def stamps(table: arrow.Table, name: str) -> NDArray[np.datetime64]:
    """Return a column of time stamps; those with a time zone in UTC.

    Raises:
        InputError: it holds something else.
    """
    held = table.column(name)
    if not (arrow.types.is_timestamp(held.type) or arrow.types.is_date(held.type)):
        raise InputError(
            f"the column {name!r} holds {held.type}, no time stamps.",
            "Write them as 2024-01-31 or 2024-01-31T12:00:00.",
        )
    return np.asarray(held.cast(arrow.timestamp("us")).to_numpy().astype("datetime64[us]"))
