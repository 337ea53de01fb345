"""`zoo list`: which models are installed."""

from __future__ import annotations

import click

from zoo_core import catalog
from zoo_core.cli import output
from zoo_core.errors import did_you_mean

SCHEMA = "zoo.list/1"


@click.command("list")
@click.argument("glob", required=False)
@click.option("--task", help="Only models of this task, such as super-resolution.")
@output.format_option
def command(glob: str | None, task: str | None, out: output.Output) -> None:
    """Show the installed models whose name matches GLOB (all by default), for instance 'imdn-*'."""
    rows = [_row(entry) for entry in catalog.models(glob, task=task)]
    out.table(
        SCHEMA,
        rows,
        {
            "id": lambda row: row["id"],
            "task": lambda row: row["task"],
            "params": lambda row: output.short_count(row["parameters"]),
            "size": lambda row: output.short_bytes(row["size_bytes"]) if row["weights"] != "none" else "-",
            "licence": lambda row: row["licence"] or "-",
            "weights": lambda row: row["weights"],
        },
        right=("params", "size"),
    )
    for package in catalog.packages():
        if package.error:
            output.warn(f"{package.name} is broken: {' '.join(package.error.split())}")
    if not rows:
        _say_why_empty(glob, task)


def _row(entry: catalog.CatalogEntry) -> output.Row:
    manifest = entry.manifest
    default = manifest.weights[0] if manifest.weights else None
    return {
        "id": manifest.id,
        "aliases": manifest.aliases,
        "task": manifest.task,
        "summary": manifest.summary,
        "parameters": manifest.parameters,
        "size_bytes": default.size_bytes if default else None,
        "licence": default.licence if default else None,
        "weights": default.source if default else "none",
        "package": entry.package,
    }


def _say_why_empty(glob: str | None, task: str | None) -> None:
    entries = catalog.models()
    if not entries:
        output.note("No model is installed.")
        output.hint("pip install zoo-sr")
        return
    filters = " and ".join(text for text in (glob and f"the name {glob!r}", task and f"the task {task!r}") if text)
    names = [entry.manifest.id for entry in entries]
    # the filter that matches nothing by itself is the one that is mistyped
    if task and not catalog.models(task=task):
        nearest = did_you_mean(task, {entry.manifest.task for entry in entries})
    else:
        nearest = did_you_mean(glob or "", names)
    output.note(f"None of the {len(names)} installed models has {filters}. {nearest}".rstrip())
