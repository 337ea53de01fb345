"""`zoo predict`: run a model on files, folders, globs or stdin.

The command has its own options and, once the model is known, those of the model's options class; neither needs torch
until something is predicted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_core import catalog
from zoo_core.cli import output
from zoo_core.cli.memory import keep_freed_memory
from zoo_core.cli.model_options import ModelCommand, chosen
from zoo_core.errors import InputError, UsageError
from zoo_core.options import parse_options

if TYPE_CHECKING:
    from zoo_core.io.inputs import Source
    from zoo_core.predict import Outcome, Predictor

SCHEMA = "zoo.predict/1"
FILE = click.Path(path_type=Path, dir_okay=False)
# pictures are of no use on a terminal: where the user names no folder they go here
PICTURES = Path("out")


@click.command("predict", cls=ModelCommand, room="options")
@click.argument("model", metavar="ID")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the results; default out/ for pictures, other results are only printed.",
)
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("--skip-existing", is_flag=True, help="Leave out inputs whose result exists: go on with a folder.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N inputs.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first input that fails.")
@click.option("--dry-run", is_flag=True, help="Only say which result each input would get.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]", help="Where to compute.")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]), default="auto", show_default=True
)
@click.option("--weights", type=FILE, help="Weights of yours (safetensors) instead of the model's.")
@click.option("--set", "set_name", metavar="NAME", help="Which weight set of the model; default its first.")
@click.option("--offline", is_flag=True, help="Ask no network for weights.")
@output.format_option
@click.pass_context
def command(
    context: click.Context,
    /,
    model: str,
    inputs: tuple[str, ...],
    *,
    folder: Path | None,
    overwrite: bool,
    skip_existing: bool,
    limit: int | None,
    fail_fast: bool,
    dry_run: bool,
    device: str,
    precision: str,
    weights: Path | None,
    set_name: str | None,
    offline: bool,
    out: output.Output,
    **_: Any,
) -> None:
    """Run the model ID on each INPUT: files, folders, globs, or - for stdin.

    Prints one line a result, in the order of the inputs. An input that fails does not stop the others; the exit code
    is 3 then.
    """
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other.", "Give one of them.")
    entry = catalog.find(model)
    if entry.manifest.entry.predictor is None:
        raise UsageError(f"{model} does not predict.", f"zoo info {model} says what it does.")
    options = chosen(context)
    if entry.manifest.entry.options is not None:
        # a wrong option is said before torch is loaded
        parse_options(entry.code("options"), options, model=model)

    keep_freed_memory()
    from zoo_core.io.inputs import expand
    from zoo_core.predict import load, run

    if folder is None and entry.manifest.outputs.kind == "image":
        folder = PICTURES
    report = partial(_report, model=model, out=out, fail_fast=fail_fast, debug=context.obj["debug"])
    with output.log_on_stderr("zoo_core", entry.package):
        predictor = load(
            model,
            device=device,
            precision=precision,
            weights=weights,
            set_name=set_name,
            offline=offline,
            **options,
        )
        sources = predictor.select(expand(inputs, suffixes=predictor.suffixes))[:limit]
        if dry_run:
            outcomes: Iterable[Outcome] = _planned(predictor, sources, folder, overwrite=overwrite, skip=skip_existing)
            failed = report(outcomes)
        else:
            places = {id(source): place for place, source in enumerate(sources)}
            with output.progress(model) as tell:
                outcomes = run(
                    predictor,
                    sources,
                    out=folder,
                    overwrite=overwrite,
                    skip_existing=skip_existing,
                    progress=lambda source, share: tell(places[id(source)] + share, len(sources)),
                )
                failed = report(outcomes)
    if failed:
        context.exit(InputError.exit_code)


def _report(outcomes: Iterable[Outcome], *, model: str, out: output.Output, fail_fast: bool, debug: bool) -> int:
    """Print the outcomes as they come and return how many failed."""
    done = failed = 0
    for outcome in outcomes:
        done += 1
        name, error = outcome.source.name, outcome.error
        record = {"model": model, "input": name, "status": _status(outcome), "files": outcome.written}
        if error is not None:
            failed += 1
            out.result(SCHEMA, {**record, "error": error.message, "try": error.remedy}, "")
            output.problem(error, trace=debug)
            if fail_fast:
                output.note("Stopped at the first input that failed (--fail-fast).")
                break
            continue
        data = outcome.result.as_dict() if outcome.result else {}
        for remark in data.get("notes", ()):
            output.warn(f"{name}: {remark}")
        out.result(SCHEMA, {**record, "result": data or None}, _line(outcome, data))
    if failed and done > 1:
        output.note(f"{failed} of {done} inputs failed.")
    return failed


def _status(outcome: Outcome) -> str:
    if outcome.error is not None:
        return "failed"
    if outcome.skipped:
        return "skipped"
    return "done" if outcome.result is not None else "planned"


def _line(outcome: Outcome, data: dict[str, Any]) -> str:
    from zoo_core.predict import TextResult

    name = outcome.source.name
    if outcome.skipped:
        return f"{name}: skipped, its result exists"
    if outcome.written:
        return f"{name} -> {', '.join(str(path) for path in outcome.written)}"
    if isinstance(outcome.result, TextResult):
        return outcome.result.as_text().rstrip("\n")
    return f"{name}: {json.dumps(data, ensure_ascii=False)}"


def _planned(
    predictor: Predictor[Any, Any, Any], sources: list[Source], folder: Path | None, *, overwrite: bool, skip: bool
) -> Iterator[Outcome]:
    """Yield what would become of each input, as far as that can be said without reading it."""
    from zoo_core.io.results import plan
    from zoo_core.predict import Outcome

    if folder is None:
        yield from (Outcome(source, error=source.problem) for source in sources)
        return
    for planned in plan(sources, folder, predictor.file_names):
        source, path = planned.source, planned.path
        exists = path.exists() and not overwrite
        error = source.problem or planned.problem
        if error is None and exists and not skip:
            error = InputError(f"{path} exists already.", "Give --overwrite or --skip-existing.")
        yield Outcome(source, error=error, skipped=exists and not error, written=() if error or exists else (path,))
