"""`zoo weights`: list, fetch, verify, convert and publish weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zoo_core import catalog
from zoo_core.cli import output
from zoo_core.errors import InputError, UsageError, WeightsError
from zoo_core.manifest import WeightSet

LIST_SCHEMA = "zoo.weights.ls/1"
FILE_SCHEMA = "zoo.weights.file/1"
VERIFY_SCHEMA = "zoo.weights.verify/1"
CONVERT_SCHEMA = "zoo.weights.convert/1"
GOLDEN_SCHEMA = "zoo.weights.golden/1"
PUSH_SCHEMA = "zoo.weights.push/1"
MAX_RECORD_BYTES = 1_000_000

FILE = click.Path(path_type=Path, dir_okay=False)
set_option = click.option(
    "--set", "set_name", metavar="NAME", help="Which weight set of the manifest; default the first."
)


@click.group("weights", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List, fetch, verify, convert and publish weights."""


@command.command("ls")
@click.argument("glob", required=False)
@output.format_option
def list_sets(glob: str | None, out: output.Output) -> None:
    """Show weight sets and where each lies.

    All of the installed models, or of those that match GLOB.
    """
    rows = [_row(entry, weight_set) for entry, weight_set in _sets(glob)]
    out.table(
        LIST_SCHEMA,
        rows,
        {
            "weights": lambda row: row["name"],
            "size": lambda row: output.short_bytes(row["size_bytes"]),
            "licence": lambda row: row["licence"],
            "from": lambda row: row["source"] if row["source"] == "embedded" else f"hub {row['repo']}",
            "here": lambda row: str(row["path"] or "no"),
        },
        right=["size"],
    )
    if not rows:
        output.note("No installed model publishes weights." if glob is None else f"No weights match {glob!r}.")


@command.command("get")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@set_option
@output.format_option
def get(ids: tuple[str, ...], set_name: str | None, out: output.Output) -> None:
    """Fetch weights, verify them, print where they lie."""
    from zoo_core.weights.find import find

    for entry in [catalog.find(name) for name in ids]:
        found = find(entry, set_name=set_name, say=output.note)
        data = {"id": entry.manifest.id, "path": found.path, "origin": found.origin, "reason": found.reason}
        out.result(FILE_SCHEMA, data, str(found.path))


@command.command("path")
@click.argument("model", metavar="ID")
@set_option
@click.option("--weights", type=FILE, help="As in `zoo predict`: a file of yours.")
@click.option("--explain", is_flag=True, help="Say why this file, and why the places before it were passed over.")
@output.format_option
def path(model: str, set_name: str | None, weights: Path | None, explain: bool, out: output.Output) -> None:
    """Print the file that ID would be run with; asks no network."""
    from zoo_core.weights.find import find

    found = find(catalog.find(model), weights=weights, set_name=set_name, offline=True, say=output.note)
    data = {"id": model, "path": found.path, "origin": found.origin, "reason": found.reason, "passed": found.passed}
    why = [f"  passed over: {reason}" for reason in found.passed] + [f"  {found.origin}: {found.reason}"]
    out.result(FILE_SCHEMA, data, "\n".join([str(found.path), *(why if explain else [])]))


@command.command("verify")
@click.argument("glob", required=False)
@output.format_option
def verify_all(glob: str | None, out: output.Output) -> None:
    """Compare every weight file with its manifest.

    Hashes what is here, of all installed models or of those that match GLOB; fetches and changes nothing.
    """
    from zoo_core.weights.find import verify

    rows: list[dict[str, Any]] = []
    for entry, weight_set in _sets(glob):
        row = {**_row(entry, weight_set), "state": "not here", "problem": None}
        if row["path"] is not None:
            try:
                verify(row["path"], weight_set, name=row["name"], remedy="")
                row["state"] = "right"
            except WeightsError as error:
                row.update(state="wrong", problem=error.message)
        elif weight_set.source == "embedded" and weight_set.repo is None:
            row.update(state="missing", problem=f"{entry.package} should bring {weight_set.file}")
        rows.append(row)
    shown = {"weights": lambda r: r["name"], "state": lambda r: r["state"], "file": lambda r: str(r["path"] or "")}
    out.table(VERIFY_SCHEMA, rows, shown)
    if not rows:
        output.note("There is nothing to verify.")
    bad = [row for row in rows if row["problem"]]
    for row in bad:
        output.warn(row["problem"])
    if bad:
        remedy = "Install the package again for an embedded file; `zoo weights get ID` fetches a cached one afresh."
        raise WeightsError(f"{len(bad)} of {len(rows)} weight sets are wrong or missing.", remedy)


@command.command("convert")
@click.argument("file", type=FILE)
@click.option("-o", "--output", "target", type=FILE, help="Write the tensors with our keys as safetensors.")
@click.option("--from-pickle", is_flag=True, help="Read a pickle of torch.save: tensors only, no code in it is run.")
@click.option("--overwrite", is_flag=True, help="Replace the file of -o.")
@output.format_option
def convert(file: Path, target: Path | None, from_pickle: bool, overwrite: bool, out: output.Output) -> None:
    """Say what a checkpoint is; -o writes it with our keys.

    The result is a safetensors file that `--weights` takes.
    """
    from zoo_core.weights.convert import recognise_file
    from zoo_core.weights.files import sha256_of, write_tensors

    if target is not None and target.exists() and not overwrite:
        raise InputError(f"{target} exists already.", "Give --overwrite to replace it.")
    found = recognise_file(file, from_pickle=from_pickle)
    text = f"{file}: {found.what} (model {found.model_id}, {len(found.tensors)} tensors; {found.read_as})"
    data = {"file": file, "model": found.model_id, "what": found.what, "read_as": found.read_as, "written": target}
    if target is not None:
        origin = {"zoo.model": found.model_id, "zoo.what": found.what, "zoo.source_sha256": sha256_of(file)}
        write_tensors(target, found.tensors, origin, overwrite=overwrite)
        text += f"\n{target}: written"
    out.result(CONVERT_SCHEMA, data, text)
    if target is None:
        flag = " --from-pickle" if from_pickle else ""
        output.hint(f"zoo weights convert {file}{flag} -o {found.model_id}.safetensors")
    else:
        output.hint(f"zoo predict {found.model_id} INPUT -o out/ --weights {target}")


@command.command("golden")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@set_option
@click.option("--overwrite", is_flag=True, help="Replace a golden example that is there.")
@output.format_option
def golden(ids: tuple[str, ...], set_name: str | None, *, overwrite: bool, out: output.Output) -> None:
    """Keep an input and its output in the package, for authors.

    The conformance suite compares with it from then on, and `push` uploads it. Works for models of images.
    """
    import torch

    from zoo_core.weights.build import build
    from zoo_core.weights.files import write_tensors
    from zoo_core.weights.find import find
    from zoo_core.weights.golden import golden_path, make_golden

    for entry in [catalog.find(name) for name in ids]:
        weight_set = entry.manifest.weight_set(set_name)
        found = find(entry, set_name=weight_set.name, say=output.note)
        path = golden_path(entry, weight_set)
        module = build(entry, found, device=torch.device("cpu"), dtype=torch.float32)
        write_tensors(path, make_golden(entry, module), {"zoo.model": entry.manifest.id}, overwrite=overwrite)
        data = {"id": entry.manifest.id, "path": path, "weights_sha256": weight_set.sha256}
        out.result(GOLDEN_SCHEMA, data, str(path))


@command.command("push")
@click.argument("model", metavar="ID")
@click.argument("repo", metavar="OWNER/NAME")
@set_option
@click.option("--weights", type=FILE, help="The file to publish; default the one that the model is run with.")
@click.option("--golden", type=FILE, help="An input and its output; default the package's, else one is made.")
@click.option("--record", type=FILE, help="The run record (record.json) of the training, for the card.")
@click.option("--licence", help="SPDX id; default the manifest's.")
@click.option("--trained-on", help="The data, for the card; default the manifest's.")
@click.option("--message", help="First line of the commit.")
@click.option("--private", is_flag=True, help="If the repository has to be made, make it private.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the card; upload nothing.")
@output.format_option
def push(
    model: str,
    repo: str,
    *,
    set_name: str | None,
    weights: Path | None,
    golden: Path | None,
    record: Path | None,
    licence: str | None,
    trained_on: str | None,
    message: str | None,
    private: bool,
    dry_run: bool,
    out: output.Output,
) -> None:
    """Publish weights on the hub, in one commit.

    Uploads config.json, model.safetensors, golden.safetensors (an input and its output) and a card. Before that, the
    weights are loaded strictly and must give the golden output.
    """
    from zoo_core.weights import publish
    from zoo_core.weights.find import find

    entry = catalog.find(model)
    found = find(entry, weights=weights, set_name=set_name, say=output.note)
    # what the manifest says of a set holds for that set alone: another file may come from other data
    known = found.weight_set
    licence = licence or (known.licence if known else None)
    trained_on = trained_on or (known.trained_on if known else None)
    if not licence or not trained_on:
        raise UsageError(
            f"{found.path} is no weight set of the manifest, so its licence and data are not known.",
            'Give --licence SPDX-ID and --trained-on "THE DATA".',
        )
    bundle = publish.assemble(
        entry, found.path, licence=licence, trained_on=trained_on, golden=golden, record=_read_record(record)
    )
    if dry_run:
        card = bundle.files["README.md"]
        assert isinstance(card, bytes)  # noqa: S101 (cards are made in memory)
        data = {"id": model, "repo": repo, "files": list(bundle.files), "card": card.decode(), "published": False}
        out.result(PUSH_SCHEMA, data, card.decode())
        output.note(f"Nothing was uploaded; {repo} would get {', '.join(bundle.files)}.")
        return
    done = publish.push(
        bundle, repo, message=message or f"Publish {entry.manifest.id}", private=private, say=output.note
    )
    described = done.weight_set.model_dump(mode="json")
    data = {"id": model, "url": done.url, "weight_set": described, "published": True}
    out.result(PUSH_SCHEMA, data, json.dumps(described, indent=2, ensure_ascii=False))
    output.note(f"Published at {done.url}; the manifest pins it by the lines above.")


def _sets(glob: str | None) -> list[tuple[catalog.CatalogEntry, WeightSet]]:
    return [(entry, weight_set) for entry in catalog.models(glob) for weight_set in entry.manifest.weights]


def _row(entry: catalog.CatalogEntry, weight_set: WeightSet) -> dict[str, Any]:
    embedded = entry.folder / "weights" / weight_set.file
    path: Path | None = embedded if weight_set.source == "embedded" and embedded.is_file() else None
    if path is None and weight_set.repo is not None:
        from zoo_core.weights import hub

        path = hub.cached(weight_set)
    return {**weight_set.model_dump(mode="json"), "name": f"{entry.manifest.id}:{weight_set.name}", "path": path}


def _read_record(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise InputError(f"{path} is too long for a run record (over {MAX_RECORD_BYTES:,} bytes).")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).", "Name the record.json of a run.") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} is no run record: it holds no object.", "Name the record.json of a run.")
    return record
