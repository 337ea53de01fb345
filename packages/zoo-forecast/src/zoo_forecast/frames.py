"""Data frames in, data frames out, in the shape of Chronos-2; columns named as Nixtla's libraries do come back so."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo_core.errors import InputError, MissingDependencyError, UsageError
from zoo_forecast.calendar import Stamps
from zoo_forecast.forecaster import Forecast, Forecaster, check_levels
from zoo_forecast.future import future_columns, tracks
from zoo_forecast.items import Columns, Item, items
from zoo_forecast.series import Values

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def predict_df(
    forecaster: Forecaster,
    df: Any,
    future_df: Any = None,
    *,
    prediction_length: int,
    quantile_levels: Sequence[float] = LEVELS,
    id_column: str = "item_id",
    timestamp_column: str = "timestamp",
    target: str = "target",
    text_column: str | None = None,
    text: str | None = None,
    covariates: Sequence[str] = (),
    freq: str | None = None,
    point: str = "median",
    gap: int = 0,
    allow_future_text: bool = False,
    **options: Any,
) -> Any:
    """Forecast every item of a long data frame.

    Args:
        forecaster: any model of this package.
        df: pandas, one row a time stamp of an item.
        future_df: pandas, of each item the gap + prediction_length rows that follow, with the covariates.
        prediction_length: points to forecast.
        quantile_levels: columns of the result.
        id_column: of the item; if none of the default names is there, unique_id, ds and y are looked for.
        timestamp_column: of the time stamp, with a time zone or without.
        target: of what is forecast.
        text_column: of texts; of each item the newest is read. None: no text.
        text: one text for all items, instead of a column.
        covariates: columns of numbers that are known in the future too; `future_df` has them over the horizon.
        freq: of the stamps, as pandas names it; default each item's own. Stamps that are missing are missing values.
        point: what `predictions` holds: "median", best for absolute errors, or "mean", best for squared ones.
        gap: points between the end of an item and the first that is forecast.
        allow_future_text: read texts too whose stamps lie behind the item's last observed value.
        options: those of `Forecaster.predict` that do not come from the frame, such as num_samples and seed.

    Returns:
        pandas, prediction_length rows an item: the item, the stamp, target_name, predictions, and one column
        a level, named as it is written ("0.1").

    Raises:
        UsageError: no such column, a level that is none; covariates without `future_df`, or it without them.
        InputError: see `items.items`; stamps that are none, or of several time zones.
    """
    _check_levels(quantile_levels)
    columns = Columns(id_column, timestamp_column, target, text_column, _names(covariates))
    table = _read(df, columns, text, freq, allow_future_text=allow_future_text)
    options |= {"gap": gap}
    if future_df is not None or columns.covariates:
        told = _future(table, future_df, gap + prediction_length, allow_future_text=allow_future_text)
        table = replace(table, items=[item for item, _ in told])
        options |= {"covariates": [shown for _, shown in told]}
    forecast = _forecast(forecaster, table, table.items, prediction_length, options)
    coming = [item.future(gap + prediction_length)[gap:] for item in table.items]
    return _frame(table, table.items, coming, forecast, quantile_levels, point, {})


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
    covariates: Sequence[str] = (),
    freq: str | None = None,
    point: str = "median",
    gap: int = 0,
    **options: Any,
) -> Any:
    """Forecast every item from origins in its own past: of the values and texts, those up to the origin are read.

    Args:
        forecaster: any model of this package.
        df: pandas, one row a time stamp of an item.
        prediction_length: points to forecast from each origin.
        n_windows: origins of each item; the last one is gap + prediction_length points before its end.
        step_size: points between origins, default prediction_length.
        quantile_levels: columns of the result.
        id_column: see `predict_df`.
        timestamp_column: see `predict_df`.
        target: see `predict_df`.
        text_column: see `predict_df`.
        covariates: see `predict_df`; those of the horizon are the frame's own.
        freq: see `predict_df`.
        point: see `predict_df`.
        gap: see `predict_df`.
        options: see `predict_df`.

    Returns:
        as of `predict_df`, with `cutoff` (the last stamp that was read) and the column of the target, what came.

    Raises:
        UsageError: see `predict_df`; no window, or an item that is too short for them.
        InputError: see `predict_df`.
    """
    _check_levels(quantile_levels)
    step = prediction_length if step_size is None else step_size
    for name, number in (("n_windows", n_windows), ("step_size", step), ("prediction_length", prediction_length)):
        if number < 1:
            raise UsageError(f"{name} is {number}, but must be at least 1.")
    columns = Columns(id_column, timestamp_column, target, text_column, _names(covariates))
    table = _read(df, columns, None, freq, allow_future_text=True)  # of each window only those before it are read
    past, came, coming, shown = [], [], [], []
    for item in table.items:
        for window in reversed(range(n_windows)):
            origin = len(item.values) - gap - prediction_length - window * step
            if origin < 1:
                raise UsageError(
                    f"Item {item.name!r} has {len(item.values)} points: too few for {n_windows} windows.",
                    "Ask for fewer, or leave it out.",
                )
            past.append(item.until(origin))
            first, end = origin + gap, origin + gap + prediction_length
            came.append(item.values[first:end])
            coming.append(item.stamps[first:end])
            shown.append(item.covariates[:, :end] if item.covariates is not None else None)
    options |= {"gap": gap, "covariates": shown if columns.covariates else None}
    forecast = _forecast(forecaster, table, past, prediction_length, options)
    cutoffs = np.repeat(np.array([item.stamps[-1] for item in past]), prediction_length)
    more = {"cutoff": _zoned(table, cutoffs), table.columns.target: np.concatenate(came)}
    return _frame(table, past, coming, forecast, quantile_levels, point, more)


@dataclass(frozen=True)
class _Table:
    """A frame's series, the names of its columns, and how its stamps and ids are written."""

    columns: Columns
    items: list[Item]
    zone: Any
    wall: bool
    id_type: Any
    text: str | None


def _read(df: Any, columns: Columns, text: str | None, freq: str | None, *, allow_future_text: bool) -> _Table:
    if text is not None and (columns.text is not None or not isinstance(text, str)):
        raise UsageError("`text` is one text for all items, instead of text_column.", "Give one of them.")
    columns = columns.found_in([str(name) for name in df.columns])
    stamps, zone, wall = _stamps(df[columns.stamp])
    cells = {name: df[name].to_numpy() for name in columns.named} | {columns.stamp: stamps}
    found = items(cells, columns, freq=freq, allow_future_text=allow_future_text)
    return _Table(columns, found, zone, wall, df[columns.item].dtype, text)


def _future(table: _Table, df: Any, count: int, *, allow_future_text: bool) -> list[tuple[Item, Values]]:
    if df is None:
        raise UsageError(
            f"The covariates {', '.join(table.columns.covariates)} are not known over the horizon.",
            f"Give future_df with the {count} rows of each item that follow.",
        )
    columns, names = table.columns, [str(name) for name in df.columns]
    future_columns(columns, names)
    stamps, zone, _ = _stamps(df[columns.stamp], wall=table.wall)
    if str(zone) != str(table.zone):
        raise InputError(
            f"future_df has time stamps of the time zone {zone}, the frame of {table.zone}.",
            "Convert one of them, such as with df[...].dt.tz_convert.",
        )
    read = (columns.item, *columns.covariates, *([columns.text] if columns.text in names else []))
    cells = {name: df[name].to_numpy() for name in read} | {columns.stamp: stamps}
    return tracks(table.items, cells, columns, count, allow_future_text=allow_future_text)


def _names(covariates: Sequence[str]) -> tuple[str, ...]:
    if isinstance(covariates, str):
        raise UsageError(f"covariates is {covariates!r}, but must be a list of columns.", f"Give [{covariates!r}].")
    return tuple(covariates)


def _check_levels(levels: Sequence[float]) -> None:
    if not levels:
        raise UsageError("quantile_levels is empty.", "Give levels between 0 and 1, such as [0.1, 0.5, 0.9].")
    check_levels(levels)


def _forecast(
    forecaster: Forecaster, table: _Table, series: Sequence[Item], horizon: int, options: dict[str, Any]
) -> Forecast:
    forecast = forecaster.predict(
        [item.values for item in series],
        horizon,
        texts=_texts(table, series),
        items=[str(item.name) for item in series],
        **{"periods": [item.step.period for item in series], **options},
    )
    for item, notes in zip(series, forecast.notes, strict=True):
        if said := (*item.notes, *notes):
            warnings.warn(f"item {item.name!r}: {'; '.join(said)}", stacklevel=4)
    return forecast


def _texts(table: _Table, series: Sequence[Item]) -> list[str | None] | None:
    if table.text is not None:
        return [table.text] * len(series)
    return [item.text for item in series] if table.columns.text else None


def _frame(
    table: _Table, series: Sequence[Item], coming: Sequence[Stamps], forecast: Forecast, levels: Sequence[float],
    point: str, more: dict[str, Any],
) -> Any:  # fmt: skip
    columns, horizon = table.columns, forecast.samples.shape[2]
    quantiles = forecast.quantiles(levels).transpose(0, 1).flatten(1)
    frame = {
        columns.item: np.repeat(np.array([item.name for item in series], dtype=object), horizon),
        columns.stamp: _zoned(table, np.concatenate(coming)),
        **more,
        "target_name": columns.target,
        "predictions": forecast.points(point).flatten().numpy(),
        **{str(level): row.numpy() for level, row in zip(levels, quantiles, strict=True)},
    }
    return _pandas().DataFrame(frame).astype({columns.item: table.id_type})


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError("Data frames need pandas.", 'pip install "zoo-forecast[pandas]"') from error
    return pandas


def _stamps(column: Any, *, wall: bool | None = None) -> tuple[Any, Any, bool]:
    """Return stamps without zone, their zone, and whether they are times on the wall there rather than UTC.

    Which of the two is the column's own, unless `wall` says it: a few rows of a future do not show it.

    Stamps of one time of day are days, which a change of clocks makes 23 or 25 hours long: they are counted on the
    wall. Others are hours and the like, which a change of clocks makes no longer: they are counted in UTC.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # how pandas 2 says that zones are mixed
            column = _pandas().to_datetime(column)
    except (ValueError, TypeError, FutureWarning) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The column {column.name!r} holds no time stamps of one time zone ({reason}).") from error
    zone = getattr(column.dt, "tz", None)
    if zone is None:
        return column.to_numpy().astype("datetime64[us]"), None, True
    local = column.dt.tz_localize(None)
    wall = bool((local.dt.normalize() - local).nunique() <= 1) if wall is None else wall
    plain = local if wall else column.dt.tz_convert("UTC").dt.tz_localize(None)
    return plain.to_numpy().astype("datetime64[us]"), zone, wall


def _zoned(table: _Table, stamps: Stamps) -> Any:
    coming = _pandas().Series(stamps)
    if table.zone is None:
        return coming
    if table.wall:
        return coming.dt.tz_localize(table.zone, ambiguous=True, nonexistent="shift_forward")
    return coming.dt.tz_localize("UTC").dt.tz_convert(table.zone)
