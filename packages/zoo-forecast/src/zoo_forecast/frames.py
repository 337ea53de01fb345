"""Data frames in, data frames out, in the shape of Chronos-2; columns named as Nixtla's libraries do come back so."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo_core.errors import InputError, MissingDependencyError
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.items import Columns, items

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
    pandas = _pandas()
    columns = Columns(id_column, timestamp_column, target, text_column).found_in([str(name) for name in df.columns])
    stamps, zone, wall = _stamps(pandas, df[columns.stamp])
    names = (columns.item, columns.target, *([columns.text] if columns.text else []))
    table = {name: df[name].to_numpy() for name in names} | {columns.stamp: stamps}
    found = items(table, columns, freq=freq)
    forecast = forecaster.predict(
        [item.values for item in found],
        prediction_length,
        texts=[item.text for item in found] if columns.text else None,
        items=[str(item.name) for item in found],
        **options,
    )
    for item, notes in zip(found, forecast.notes, strict=True):
        if said := (*item.notes, *notes):
            warnings.warn(f"item {item.name!r}: {'; '.join(said)}", stacklevel=2)
    coming = pandas.Series(np.concatenate([item.future(prediction_length) for item in found]))
    if zone is not None:
        coming = _in_zone(coming, zone, wall)
    quantiles = forecast.quantiles(quantile_levels).transpose(0, 1).flatten(1)
    frame = {
        columns.item: np.repeat(np.array([item.name for item in found], dtype=object), prediction_length),
        columns.stamp: coming,
        "target_name": columns.target,
        "predictions": forecast.median.flatten().numpy(),
        **{str(level): row.numpy() for level, row in zip(quantile_levels, quantiles, strict=True)},
    }
    return pandas.DataFrame(frame).astype({columns.item: df[columns.item].dtype})


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError("Data frames need pandas.", 'pip install "zoo-forecast[pandas]"') from error
    return pandas


def _stamps(pandas: Any, column: Any) -> tuple[Any, Any, bool]:
    """Return stamps without zone, their zone, and whether they are times on the wall there rather than UTC.

    Stamps of one time of day are days, which a change of clocks makes 23 or 25 hours long: they are counted on the
    wall. Others are hours and the like, which a change of clocks makes no longer: they are counted in UTC.
    """
    try:
        column = pandas.to_datetime(column)
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


def _in_zone(coming: Any, zone: Any, wall: bool) -> Any:
    if wall:
        return coming.dt.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
    return coming.dt.tz_localize("UTC").dt.tz_convert(zone)
