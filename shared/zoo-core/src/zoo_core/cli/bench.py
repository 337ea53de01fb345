"""`zoo bench`: a thin layer over the package's bench function."""

from __future__ import annotations

from pathlib import Path

import click

from zoo_core import catalog
from zoo_core.cli import output, record

SCHEMA = "zoo.bench/1"
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("bench")
@click.argument("model", metavar="ID")
@click.option("--against", multiple=True, metavar="PEER", help="Also time this peer, if it is installed; repeatable.")
@click.option("--size", metavar="WxH", help="Size of the input, such as 320x180; default the package's.")
@click.option("--rounds", type=click.IntRange(min=1), help="How often each way runs in turn; default the package's.")
@click.option("--weights", type=FILE, help="Weights of yours (safetensors) instead of the model's.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to compute.")
@click.option("--offline", is_flag=True, help="Ask no network for weights.")
@click.option("-o", "--output", "target", type=FILE, help="Also write the report as JSON to this file.")
@click.option("--overwrite", is_flag=True, help="Replace the file of -o.")
@output.format_option
@click.pass_context
def command(
    context: click.Context,
    /,
    model: str,
    *,
    against: tuple[str, ...],
    size: str | None,
    rounds: int | None,
    weights: Path | None,
    device: str,
    offline: bool,
    target: Path | None,
    overwrite: bool,
    out: output.Output,
) -> None:
    """Time the model ID against other ways to compute it, in turns in one process.

    Outputs are compared before any time is printed; exit code 1 if they differ.
    """
    entry = catalog.find(model)
    record.check_free(target, overwrite=overwrite)
    bench = entry.code("bench")
    with output.log_on_stderr("zoo_core", entry.package), output.progress("timing") as tell:
        report = bench(
            entry,
            against=against,
            size=size,
            rounds=rounds,
            weights=weights,
            device=device,
            offline=offline,
            progress=tell,
        )
    figures = report.as_dict()
    record.write(target, SCHEMA, figures, overwrite=overwrite)
    out.result(SCHEMA, figures, report.text())
    if not report.agrees:
        context.exit(1)
