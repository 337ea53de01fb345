"""Data frames in, data frames out, in the shape of Chronos-2; columns named as Nixtla's libraries do come back so."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo_core.errors import InputError, MissingDependencyError, UsageError
from zoo_forecast.calendar import Stamps
from zoo_forecast.forecaster import Forecast, Forecaster
from zoo_forecast.items import Columns, Item, items

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def predict_df(
    forecaster: Forecaster,
    df: Any,
    *,
    prediction_length: int,
    quantile_levels: Sequence[float] = LEVELS,
    id_column: str = "item_id",
    timestamp_column: str = "timestamp",
    target: str = "target",
    text_column: str | None = None,
    freq: str | None = None,
    **options: Any,
) -> Any:
    """Forecast every item of a long data frame.

    Args:
        forecaster: any model of this package.
        df: pandas, one row a time stamp of an item.
        prediction_length: points to forecast.
        quantile_levels: columns of the result.
        id_column: of the item; if none of the default names is there, unique_id, ds and y are looked for.
        timestamp_column: of the time stamp, with a time zone or without.
        target: of what is forecast.
        text_column: of texts; of each item the newest is read. None: no text.
        freq: of the stamps, as pandas names it; default each item's own.
        options: those of `Forecaster.predict` that do not come from the frame, such as num_samples and seed.

    Returns:
        pandas, prediction_length rows an item: the item, the stamp, target_name, predictions (the median), and one
        column a level, named as it is written ("0.1").

    Raises:
        UsageError: no such column, a level that is none.
        InputError: see `items.items`; stamps that are none, or of several time zones.
    """
    table = _read(df, id_column, timestamp_column, target, text_column, freq)
    forecast = _forecast(forecaster, table, table.items, prediction_length, options)
    coming = [item.future(prediction_length) for item in table.items]
    return _frame(table, table.items, coming, forecast, quantile_levels, {})


def cross_validation_df(
    forecaster: Forecaster,
    df: Any,
    *,
    prediction_length: int,
    n_windows: int = 1,
    step_size: int | None = None,
    quantile_levels: Sequence[float] = LEVELS,
    id_column: str = "item_id",
    timestamp_column: str = "timestamp",
    target: str = "target",
    text_column: str | None = None,
    freq: str | None = None,
    **options: Any,
) -> Any:
    """Forecast every item from origins in its own past: of the values and texts, those up to the origin are read.

    Args:
        forecaster: any model of this package.
        df: pandas, one row a time stamp of an item.
        prediction_length: points to forecast from each origin.
        n_windows: origins of each item; the last one is prediction_length points before its end.
        step_size: points between origins, default prediction_length.
        quantile_levels: columns of the result.
        id_column: see `predict_df`.
        timestamp_column: see `predict_df`.
        target: see `predict_df`.
        text_column: see `predict_df`.
        freq: see `predict_df`.
        options: see `predict_df`.

    Returns:
        as of `predict_df`, with `cutoff` (the last stamp that was read) and the column of the target, what came.

    Raises:
        UsageError: see `predict_df`; no window, or an item that is too short for them.
        InputError: see `predict_df`.
    """
    step = prediction_length if step_size is None else step_size
    if n_windows < 1 or step < 1:
        raise UsageError(f"n_windows is {n_windows} and step_size {step}; both must be at least 1.")
    table = _read(df, id_column, timestamp_column, target, text_column, freq)
    past, came, coming = [], [], []
    for item in table.items:
        for window in reversed(range(n_windows)):
            origin = len(item.values) - prediction_length - window * step
            if origin < 1:
                raise UsageError(
                    f"Item {item.name!r} has {len(item.values)} points: too few for {n_windows} windows.",
                    "Ask for fewer, or leave it out.",
                )
            past.append(item.until(origin))
            came.append(item.values[origin : origin + prediction_length])
            coming.append(item.stamps[origin : origin + prediction_length])
    forecast = _forecast(forecaster, table, past, prediction_length, options)
    cutoffs = np.repeat(np.array([item.stamps[-1] for item in past]), prediction_length)
    more = {"cutoff": _zoned(table, cutoffs), table.columns.target: np.concatenate(came)}
    return _frame(table, past, coming, forecast, quantile_levels, more)


@dataclass(frozen=True)
class _Table:
    """A frame's series, the names of its columns, and how its stamps and ids are written."""

    columns: Columns
    items: list[Item]
    zone: Any
    wall: bool
    id_type: Any


def _read(df: Any, item: str, stamp: str, target: str, text: str | None, freq: str | None) -> _Table:
    columns = Columns(item, stamp, target, text).found_in([str(name) for name in df.columns])
    stamps, zone, wall = _stamps(df[columns.stamp])
    names = (columns.item, columns.target, *([columns.text] if columns.text else []))
    cells = {name: df[name].to_numpy() for name in names} | {columns.stamp: stamps}
    return _Table(columns, items(cells, columns, freq=freq), zone, wall, df[columns.item].dtype)


def _forecast(
    forecaster: Forecaster, table: _Table, series: Sequence[Item], horizon: int, options: dict[str, Any]
) -> Forecast:
    forecast = forecaster.predict(
        [item.values for item in series],
        horizon,
        texts=[item.text for item in series] if table.columns.text else None,
        items=[str(item.name) for item in series],
        **{"periods": [item.step.period for item in series], **options},
    )
    for item, notes in zip(series, forecast.notes, strict=True):
        if said := (*item.notes, *notes):
            warnings.warn(f"item {item.name!r}: {'; '.join(said)}", stacklevel=4)
    return forecast


def _frame(
    table: _Table, series: Sequence[Item], coming: Sequence[Stamps], forecast: Forecast, levels: Sequence[float],
    more: dict[str, Any],
) -> Any:  # fmt: skip
    columns, horizon = table.columns, forecast.samples.shape[2]
    quantiles = forecast.quantiles(levels).transpose(0, 1).flatten(1)
    frame = {
        columns.item: np.repeat(np.array([item.name for item in series], dtype=object), horizon),
        columns.stamp: _zoned(table, np.concatenate(coming)),
        **more,
        "target_name": columns.target,
        "predictions": forecast.median.flatten().numpy(),
        **{str(level): row.numpy() for level, row in zip(levels, quantiles, strict=True)},
    }
    return _pandas().DataFrame(frame).astype({columns.item: table.id_type})


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError("Data frames need pandas.", 'pip install "zoo-forecast[pandas]"') from error
    return pandas


def _stamps(column: Any) -> tuple[Any, Any, bool]:
    """Return stamps without zone, their zone, and whether they are times on the wall there rather than UTC.

    Stamps of one time of day are days, which a change of clocks makes 23 or 25 hours long: they are counted on the
    wall. Others are hours and the like, which a change of clocks makes no longer: they are counted in UTC.
    """
    try:
        column = _pandas().to_datetime(column)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The column {column.name!r} holds no time stamps of one time zone ({reason}).") from error
    zone = getattr(column.dt, "tz", None)
    if zone is None:
        return column.to_numpy().astype("datetime64[us]"), None, True
    local = column.dt.tz_localize(None)
    wall = bool((local.dt.normalize() - local).nunique() <= 1)
    plain = local if wall else column.dt.tz_convert("UTC").dt.tz_localize(None)
    return plain.to_numpy().astype("datetime64[us]"), zone, wall


def _zoned(table: _Table, stamps: Stamps) -> Any:
    coming = _pandas().Series(stamps)
    if table.zone is None:
        return coming
    if table.wall:
        return coming.dt.tz_localize(table.zone, ambiguous=True, nonexistent="shift_forward")
    return coming.dt.tz_localize("UTC").dt.tz_convert(table.zone)
