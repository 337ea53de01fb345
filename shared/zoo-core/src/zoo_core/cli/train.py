"""`zoo train`: a thin layer over the package's training function; `python -m zoo_sr.train` is the same command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zoo_core import catalog
from zoo_core.cli import output
from zoo_core.errors import UsageError

SCHEMA = "zoo.train/1"


@click.command("train")
@click.argument("model", metavar="ID")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another recipe than the model's: a YAML file, or the name of one that its package brings.",
)
@click.option(
    "-o",
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run; default runs/ID.",
)
@click.option(
    "--resume",
    default="auto",
    show_default=True,
    metavar="auto|never|PATH",
    help="Go on from the newest checkpoint in the folder, begin anew, or go on from this checkpoint.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="The same as device=... .")
@click.option("--dry-run", is_flag=True, help="Run a few steps, write nothing, and say what the whole run would take.")
@click.option("--smoke", is_flag=True, help="A run of seconds on tiny data, to see that everything works.")
@output.format_option
def command(
    model: str,
    overrides: tuple[str, ...],
    *,
    recipe: Path | None,
    folder: Path | None,
    resume: str,
    device: str | None,
    dry_run: bool,
    smoke: bool,
    out: output.Output,
) -> None:
    """Train the model ID by its recipe; KEY=VALUE changes a key of the recipe, such as steps=1000.

    Ctrl-C saves and stops; the same command goes on from there.
    """
    entry = catalog.find(model)
    folder = folder or Path("runs") / (f"{entry.manifest.id}-smoke" if smoke else entry.manifest.id)
    train = entry.code("train")
    with output.log_on_stderr("zoo_core", entry.package):
        record = train(
            entry,
            [*overrides, *([f"device={device}"] if device else [])],
            recipe=None if recipe is None else entry.recipe_path(recipe),
            out=folder,
            resume=_resume(resume),
            dry_run=dry_run,
            smoke=smoke,
        )
    data = record.model_dump(mode="json")
    out.result(SCHEMA, {"model": entry.manifest.id, "out": folder, **data}, _text(entry.manifest.id, data))
    if record.weights is not None:
        output.hint(f"zoo predict {entry.manifest.id} INPUT -o out/ --weights {folder / record.weights['file']}")
    elif record.status == "time limit":
        output.note("The run is not at its end; the same command goes on.")


def _resume(value: str) -> str | Path:
    if value in ("auto", "never"):
        return value
    if not Path(value).exists():
        raise UsageError(f"--resume {value}: there is no such file or folder.", "Give auto, never or a checkpoint.")
    return Path(value)


def _text(model: str, record: dict[str, Any]) -> str:
    facts = {
        "model": model,
        "status": record["status"],
        "steps": str(record["steps"]),
        "seconds": f"{record['seconds']:g}",
        **{name: f"{value:.6g}" for name, value in record["metrics"].items()},
        **({"weights": record["weights"]["file"], "sha256": record["weights"]["sha256"]} if record["weights"] else {}),
    }
    return "\n".join(output.aligned([[name, value] for name, value in facts.items()]))
