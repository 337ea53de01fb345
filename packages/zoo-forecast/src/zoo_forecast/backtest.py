"""`python -m zoo_forecast.backtest ID TABLE --horizon 24 --windows 5`: forecasts of the table's past, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core.cli import output
from zoo_core.cli.main import main
from zoo_core.errors import InputError, UsageError
from zoo_core.io.atomic import whole
from zoo_core.io.inputs import Source
from zoo_core.options import parse_options
from zoo_forecast.options import ForecastOptions

if TYPE_CHECKING:
    from zoo_forecast.backtesting import Score

SCHEMA = "zoo.forecast.backtest/1"
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("model", metavar="ID")
@click.argument("table", type=FILE)
@click.option("-o", "--out", "page_file", type=FILE, help="The page; default the table's name with _backtest.html.")
@click.option("--overwrite", is_flag=True, help="Replace a page that exists.")
@click.option("--horizon", type=int, default=24, show_default=True, help="Points of a window.")
@click.option("--windows", type=int, default=3, show_default=True, help="Windows of each series.")
@click.option("--step", type=int, help="Points between the beginnings of windows; default the horizon.")
@click.option("--gap", type=int, default=0, show_default=True, help="Points between what is read and the window.")
@click.option("--quantiles", default="0.1,0.25,0.5,0.75,0.9", show_default=True, help="Levels of the fan.")
@click.option("--covariates", default="", help="Columns of numbers that are known over the window, too.")
@click.option("--text-column", help="Column of texts; of each window the newest one before it is read.")
@click.option("--id-column", default="item_id", show_default=True)
@click.option("--timestamp-column", default="timestamp", show_default=True)
@click.option("--target", default="target", show_default=True)
@click.option("--freq", help="Frequency of the stamps; by default it is found.")
@click.option("--samples", type=int, default=100, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--weights", type=FILE, help="Weights of yours (safetensors) instead of the model's.")
@click.option("--device", default="auto", show_default=True)
@output.format_option
def command(
    model: str,
    table: Path,
    *,
    page_file: Path | None,
    overwrite: bool,
    windows: int,
    step: int | None,
    weights: Path | None,
    device: str,
    out: output.Output,
    **options: Any,
) -> None:
    """Forecast the past of TABLE with the model ID from several origins, and write how good that was as a page."""
    chosen = parse_options(ForecastOptions, options, model=model)
    page_file = page_file or Path(f"{table.stem}_backtest.html")
    if page_file.exists() and not overwrite:
        raise InputError(f"{page_file} exists already.", "Give --overwrite to replace it, or another name with -o.")

    from zoo_forecast.backtest_page import page
    from zoo_forecast.backtesting import backtest
    from zoo_forecast.forecaster import Forecaster
    from zoo_forecast.reading import read_input

    held = read_input(Source(str(table), table), chosen, ahead=False)
    forecaster = Forecaster.load(model, weights=weights, device=device)
    try:
        tested = backtest(
            forecaster, held.items, chosen.horizon, count=windows, step=step, gap=chosen.gap, levels=chosen.levels,
            num_samples=chosen.samples, seed=chosen.seed,
        )  # fmt: skip
    except UsageError as error:
        raise UsageError(f"{table}: {error.message}", error.remedy) from error
    with whole(page_file, overwrite=overwrite) as aside:
        aside.write_text(page(tested, title=f"Back-test of {model} on {table.name}"), encoding="utf-8")
    rows = [{"series": str(item.name), **_rounded(tested.score(item))} for item in tested.items]
    fields = [name for name in rows[0] if name != "series"]
    out.table(
        SCHEMA,
        rows,
        {"series": lambda row: str(row["series"]), **{name: _shown(name) for name in fields}},
        right=tuple(fields),
    )
    output.note(f"The page is {page_file}.")


def _rounded(score: Score) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in vars(score).items()}


def _shown(name: str) -> Any:
    return lambda row: f"{row[name]:.4g}"


if __name__ == "__main__":
    main(command=command, name="python -m zoo_forecast.backtest")
