"""Forecast tables of series: the Predictor of the forecasting models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import InputError, UsageError
from zoo_core.io.inputs import Source
from zoo_core.options import Options
from zoo_core.predict import DTYPES, Predictor, Progress, silent
from zoo_forecast.calendar import Step
from zoo_forecast.forecaster import Forecast, Forecaster
from zoo_forecast.items import Columns, Item, items
from zoo_forecast.mode import CORRECTED, OFFICIAL
from zoo_forecast.options import ForecastOptions
from zoo_forecast.result import ForecastResult
from zoo_forecast.tables import SUFFIXES, column, read_table, stamps

MAX_TEXT_BYTES = 10_000_000


@dataclass(frozen=True, eq=False)
class Table:
    """The series of one input.

    Args:
        name: of the input.
        columns: their names.
        items: the series.
    """

    name: str
    columns: Columns
    items: tuple[Item, ...]


@dataclass(frozen=True, eq=False)
class Told:
    """Series and what is read beside each."""

    items: tuple[Item, ...]
    texts: tuple[str | None, ...]


@dataclass(frozen=True, eq=False)
class Output:
    """What was computed, and how long it took."""

    forecast: Forecast
    texts: tuple[str | None, ...]
    seconds: float


class ForecastPredictor(Predictor[Table, Told, Output]):
    """Forecasts every series of a table."""

    suffixes = SUFFIXES
    options: ForecastOptions

    def __init__(
        self, entry: CatalogEntry, module: nn.Module, *, device: torch.device, precision: str, options: ForecastOptions
    ) -> None:
        super().__init__(entry, module, device=device, precision=precision, options=options)
        self.forecaster = Forecaster(module.to(DTYPES[precision]), mode=OFFICIAL if options.official else CORRECTED)
        self.text = _text(options)

    @classmethod
    def check(cls, entry: CatalogEntry, options: Options) -> None:
        """Refuse an unknown frequency and a text that cannot be read."""
        assert isinstance(options, ForecastOptions)  # noqa: S101 - the manifest names this class
        if options.freq is not None:
            Step.named(options.freq)
        _text(options)

    def read(self, source: Source) -> Iterator[Table]:
        """Read a table and cut it into series."""
        table, options = read_table(source), self.options
        given = ForecastOptions.model_fields
        asked = Columns(options.id_column, options.timestamp_column, options.target, options.text_column)
        if not table.num_rows:
            raise InputError(f"{source.name}: the table has no rows.")
        names = list(table.column_names)
        alone = options.id_column == given["id_column"].default and not {"item_id", "unique_id"} & {*names}
        try:
            columns = asked.found_in([*names, options.id_column] if alone else names)
            kept = [name for name in (columns.item, columns.target, columns.text) if name is not None and name in names]
            cells = {name: column(table, name) for name in kept}
            cells[columns.stamp] = stamps(table, columns.stamp)
            if alone:
                cells[columns.item] = column(table, columns.target).astype(object)
                cells[columns.item][:] = source.stem
            found = items(cells, columns, freq=options.freq)
        except (InputError, UsageError) as error:
            raise InputError(f"{source.name}: {error.message}", error.remedy) from error
        yield Table(source.name, columns, tuple(found))

    def prepare(self, item: Table) -> Told:
        """Put the texts beside the series."""
        return Told(item.items, tuple(self.text or series.text for series in item.items))

    def forward(self, prepared: Told, *, progress: Progress = silent) -> Output:
        """Forecast all series of a table together."""
        begin, options = time.perf_counter(), self.options
        forecast = self.forecaster.predict(
            [item.values for item in prepared.items],
            options.horizon,
            num_samples=options.samples,
            texts=prepared.texts,
            items=[str(item.name) for item in prepared.items],
            seed=options.seed,
            periods=[item.step.period for item in prepared.items],
            token_length=options.token_length,
        )
        progress(1.0)
        return Output(forecast, prepared.texts, time.perf_counter() - begin)

    def finish(self, item: Table, output: Output) -> ForecastResult:
        """Put together what is written."""
        return ForecastResult(
            item.name, item.items, output.texts, output.forecast, item.columns, self.manifest.id, output.seconds,
            self.options,
        )  # fmt: skip

    def file_names(self, source: Source) -> tuple[str, ...]:
        """Return the table's name and the picture's."""
        stem = source.stem + self.options.suffix
        return f"{stem}.{self.options.format}", f"{stem}.png"


def _text(options: ForecastOptions) -> str | None:
    if options.text_file is None:
        return None
    try:
        with options.text_file.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text-file {options.text_file} cannot be read as UTF-8 text ({error}).") from error
    if len(data) > MAX_TEXT_BYTES:
        raise UsageError(f"--text-file {options.text_file} has over {MAX_TEXT_BYTES} bytes.", "Cut it.")
    return text if text.strip() else None
