"""`zoo eval`: a thin layer over the package's evaluation; `python -m zoo_sr.eval` is the same command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core import catalog
from zoo_core.cli import output, record
from zoo_core.cli.model_options import ModelCommand, chosen
from zoo_core.errors import UsageError
from zoo_core.manifest import Manifest
from zoo_core.options import EvaluateOptions, parse_options

if TYPE_CHECKING:
    from zoo_core.evaluate import Evaluate, Report

SCHEMA = "zoo.eval/1"
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("eval", cls=ModelCommand, room="evaluate_options")
@click.argument("model", metavar="ID")
@click.option("--data", metavar="PATH|NAME", help="A pack (parquet file or folder), or the name of one.")
@click.option("--weights", type=FILE, help="Measure these weights (safetensors) instead of the published ones.")
@click.option("--official", type=FILE, help="Also measure the authors' weights (safetensors).")
@click.option(
    "--against",
    multiple=True,
    metavar="PEER|ID|FILE",
    help="Also measure this peer, if it is installed, or this model, such as the teacher, or its weights; repeatable.",
)
@click.option("--protocol", help="One of the package's protocols; default its first.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16", "int8"]), default="fp32", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first examples.")
@click.option("--offline", is_flag=True, help="Ask no network for weights.")
@click.option("-o", "--output", "target", type=FILE, help="Also write the report as JSON to this file.")
@click.option("--overwrite", is_flag=True, help="Replace the file of -o.")
@output.format_option
@click.pass_context
def command(
    context: click.Context,
    /,
    model: str,
    data: str | None,
    *,
    weights: Path | None,
    official: Path | None,
    against: tuple[str, ...],
    protocol: str | None,
    device: str,
    precision: str,
    limit: int | None,
    offline: bool,
    target: Path | None,
    overwrite: bool,
    out: output.Output,
    **_: Any,
) -> None:
    """Measure the model ID on a pack by the protocol of its paper; exit code 1 if one of the checks fails."""
    entry = catalog.find(model)
    own = _own_options(entry, context, data)
    record.check_free(target, overwrite=overwrite)
    asked = {name: _teacher(entry, name) for name in against}
    teachers = {name: teacher for name, teacher in asked.items() if teacher is not None}
    peers = tuple(name for name in against if name not in teachers)
    evaluate: Evaluate = entry.code("evaluate")
    common: dict[str, Any] = {
        "protocol": protocol, "device": device, "precision": precision, "limit": limit, "offline": offline,
    }  # fmt: skip
    with output.log_on_stderr("zoo_core", entry.package), output.progress("measuring") as tell:
        report = evaluate(
            entry, data, weights=weights, official=official, against=peers, progress=tell, **common, **own
        )
    for name, (teacher, file) in teachers.items():
        measure: Evaluate = teacher.code("evaluate")
        own = _own_options(teacher, context, data)
        with output.log_on_stderr("zoo_core", teacher.package), output.progress(f"measuring {name}") as tell:
            theirs = measure(teacher, data, weights=file, progress=tell, **common, **own)
        report = catalog.load_object("zoo_core.evaluate:beside")(report, theirs)
    figures = report.as_dict()
    record.write(target, SCHEMA, figures, overwrite=overwrite)
    out.result(SCHEMA, figures, "\n".join(_describe(report)))
    if not report.passed:
        context.exit(1)


def _own_options(entry: catalog.CatalogEntry, context: click.Context, data: str | None) -> dict[str, Any]:
    """Return what the model's evaluation gets of its own options: nothing, or `options`."""
    options = None
    if entry.manifest.entry.evaluate_options is not None:
        schema: type[EvaluateOptions] = entry.code("evaluate_options")
        options = parse_options(schema, chosen(context), model=entry.manifest.id, verb="eval")
    if data is None and (options is None or options.needs_data):
        raise UsageError("zoo eval needs to know on what: --data is missing.", "Give --data PATH, a pack.")
    return {} if options is None else {"options": options}


def _teacher(entry: catalog.CatalogEntry, name: str) -> tuple[catalog.CatalogEntry, Path | None] | None:
    """Return the model that a name or a file of weights means, and the file; None where it is no model's."""
    file = Path(name) if Path(name).suffix == ".safetensors" else None
    if file is not None:
        teacher = catalog.load_object("zoo_core.weights.build:locate")(file)[0]
    elif any(name in other.names for other in catalog.models()):
        teacher = catalog.find(name)
    else:
        return None
    ours, theirs = entry.manifest, teacher.manifest
    if (ours.task, ours.outputs.scale) != (theirs.task, theirs.outputs.scale):
        raise UsageError(
            f"{theirs.id} ({_does(theirs)}) cannot stand beside {ours.id} ({_does(ours)}).",
            f"zoo list --task {ours.task} shows what can.",
        )
    return teacher, file


def _does(manifest: Manifest) -> str:
    return manifest.task + (f", {manifest.outputs.scale:g} times" if manifest.outputs.scale else "")


def _describe(report: Report) -> Iterator[str]:
    yield f"{report.model} on {report.dataset}: n {report.n}, {report.seconds:.1f} s, protocol {report.protocol}"
    table = report.table()
    yield from output.aligned(table, right=[False, *[True] * (len(table[0]) - 1)])
    for extra in report.tables:
        yield ""
        yield extra.title
        yield from output.aligned(extra.rows, right=[False, *[True] * (len(extra.rows[0]) - 1)])
    yield from (f"note: {way.name}: {way.note}" for way in (*report.others, report.ours) if way.note)
    for check in report.checks:
        verdict = "holds" if check.passed else "FAILS"
        yield f"{verdict}: {check.what}{f' ({check.detail})' if check.detail else ''}"
