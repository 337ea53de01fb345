"""The forecasts of one input, and the files that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from PIL import Image as pil
from pyarrow import csv, parquet

from zoo_core.io.atomic import whole
from zoo_forecast.drawing import Mark, draw, stack
from zoo_forecast.forecaster import Forecast
from zoo_forecast.items import Columns, Item
from zoo_forecast.options import ForecastOptions
from zoo_forecast.tables import Zone, zoned

MAX_DRAWN = 20  # series on one picture


@dataclass(frozen=True, eq=False)
class ForecastResult:
    """What is to be expected of each series of one input.

    Args:
        name: of the input.
        items: the series.
        texts: what was read beside each.
        forecast: of all of them.
        columns: names of the input's columns, which those of the result have too.
        model: id.
        seconds: of the computation.
        options: what was asked for.
        zone: of the stamps, or None.
    """

    name: str
    items: tuple[Item, ...]
    texts: tuple[str | None, ...]
    forecast: Forecast
    columns: Columns
    model: str
    seconds: float
    options: ForecastOptions
    zone: Zone | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the numbers."""
        return {
            "series": len(self.items),
            "horizon": self.options.horizon,
            "quantiles": list(self.options.levels),
            "samples": self.options.samples,
            "seconds": round(self.seconds, 3),
            "with_text": sum(text is not None for text in self.texts),
            "point": self.options.point,
            "notes": [
                f"{item.name}: {note}"
                for item, notes in zip(self.items, self.forecast.notes, strict=True)
                for note in (*item.notes, *notes)
            ],
        }

    def table(self) -> arrow.Table:
        """Return a row a point: item, stamp, the name of the target, predictions, one column a level."""
        horizon, gap = self.options.horizon, self.options.gap
        quantiles = self.forecast.quantiles(self.options.levels).transpose(0, 1).flatten(1).numpy()
        coming = np.concatenate([item.future(gap + horizon)[gap:] for item in self.items])
        columns: dict[str, Any] = {
            self.columns.item: arrow.array([item.name for item in self.items for _ in range(horizon)]),
            self.columns.stamp: zoned(coming, self.zone),
            "target_name": arrow.array([self.columns.target] * len(coming)),
            "predictions": arrow.array(self.forecast.points(self.options.point).flatten().numpy()),
        }
        columns |= {str(level): arrow.array(row) for level, row in zip(self.options.levels, quantiles, strict=True)}
        return arrow.table(columns)

    def save(self, path: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        """Write the table, and beside it the picture.

        Raises:
            InputError: a file exists.
            ZooError: the folder cannot be written to.
        """
        picture = path.with_suffix(".png")
        # first the extra, then the result: what --skip-existing finds is complete
        with whole(picture, overwrite=overwrite) as aside:
            self.draw().save(aside, "PNG")
        with whole(path, overwrite=overwrite) as aside:
            if self.options.format == "parquet":
                parquet.write_table(self.table(), aside)
            else:
                csv.write_csv(self.table(), aside)
        return path, picture

    def draw(self) -> pil.Image:
        """Return the first series below each other."""
        quantiles = self.forecast.quantiles(self.options.levels).numpy()
        pictures = []
        for n, (item, text) in enumerate(zip(self.items[:MAX_DRAWN], self.texts, strict=False)):
            gap, horizon = self.options.gap, self.options.horizon
            last = item.future(gap + horizon)[-1]
            first = item.stamps[-min(len(item.stamps), max(24, 3 * horizon))]
            paths = self.forecast.samples[n].numpy()
            begin, end = (str(stamp.astype("datetime64[s]")) for stamp in (first, last))
            title = f"{item.name} ({self.model})"
            mark = None
            if text is not None:
                # a text of a file was known at the end, one of the table has a date
                place = item.texts[-1][0] if text == item.text else item.origin
                mark = Mark(text, place - len(item.values), str(item.stamp(place).astype("datetime64[s]")))
            pictures.append(draw(title, item.values, quantiles[n], paths, first=begin, last=end, gap=gap, text=mark))
        return stack(pictures)
