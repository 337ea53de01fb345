"""`zoo info`: everything about one model, or what a weights file is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from zoo_core import catalog
from zoo_core.cli import output
from zoo_core.errors import UsageError
from zoo_core.manifest import Manifest, Port

MODEL_SCHEMA = "zoo.info/1"
FILE_SCHEMA = "zoo.info-file/1"
POINTS_SCHEMA = "zoo.info-points/1"

# what a user would call an input of each kind, for the example line
_SAMPLE_NAMES = {
    "image": "photo.png",
    "line": "line.png",
    "page": "page.png",
    "series": "series.csv",
    "dataset": "data",
}


@click.command("info")
@click.argument("model", metavar="ID|FILE")
@click.option("--from-pickle", is_flag=True, help="FILE may be a pickle of torch.save: tensors only, no code is run.")
@click.option("--points", is_flag=True, help="List where a probe can look into ID, with shapes.")
@output.format_option
def command(model: str, *, from_pickle: bool, points: bool, out: output.Output) -> None:
    """Show everything about the model ID, or say which model the weights in FILE belong to."""
    if points:
        _show_points(catalog.find(model), out)
    elif _is_file_name(model):
        _show_file(Path(model), out, from_pickle=from_pickle)
    else:
        _show_model(catalog.find(model), out)


def _is_file_name(text: str) -> bool:
    # ids are lower-case words with hyphens (manifest.ModelId): no id contains a dot or a slash
    return any(mark in text for mark in "./\\") or (Path(text).is_file() and not catalog.models(text))


def _show_model(entry: catalog.CatalogEntry, out: output.Output) -> None:
    manifest = entry.manifest
    examples = list(_examples(manifest))
    data = {**manifest.model_dump(mode="json"), "package": entry.package, "examples": examples}
    out.result(MODEL_SCHEMA, data, "\n".join(_describe(entry, examples)))


def _show_points(entry: catalog.CatalogEntry, out: output.Output) -> None:
    # imported by name: it needs torch, and `zoo info ID` must not
    places = catalog.load_object("zoo_core.probe.listing:places_of")(entry)
    rows = [
        [place.path or '""', place.kind, "x".join(map(str, place.shape)), " ".join(place.shows)] for place in places
    ]
    text = "\n".join(output.aligned([["point", "module", "shape", "also"], *rows]))
    listed = [{"path": p.path, "module": p.kind, "shape": list(p.shape), "also": list(p.shows)} for p in places]
    out.result(POINTS_SCHEMA, {"id": entry.manifest.id, "points": listed}, text)


def _describe(entry: catalog.CatalogEntry, examples: list[str]) -> Iterator[str]:
    manifest = entry.manifest
    yield f"{manifest.id}: {manifest.summary}"
    yield ""
    size = f"{manifest.parameters:,} parameters"
    if manifest.flops:
        size += f", {output.short_count(manifest.flops.count)}FLOP at {'x'.join(map(str, manifest.flops.at))}"
    facts = {
        "task": manifest.task,
        "also called": ", ".join(manifest.aliases),
        "package": entry.package,
        "paper": f"{manifest.paper.title} ({manifest.paper.id}, {manifest.paper.year})",
        "size": size,
        "input": _port(manifest.inputs),
        "output": _port(manifest.outputs),
        "precisions": ", ".join(manifest.precisions),
        "recipe": manifest.recipe or "none",
        "config": ", ".join(f"{key}={value}" for key, value in manifest.config.items()),
        "code": manifest.entry.model,
    }
    yield from output.aligned([[f"  {name}", value] for name, value in facts.items() if value])
    yield from _section("weights", _weights(manifest))
    yield from _section("metrics", _metrics(manifest))
    yield from _section("limits", [f"- {text}" for text in manifest.limits])
    yield from _section("notes", [f"- {text}" for text in manifest.notes])
    yield from _section("try", examples)


def _section(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield ""
        yield title
        yield from (f"  {line}" for line in lines)


def _weights(manifest: Manifest) -> list[str]:
    if not manifest.weights:
        return ["none published; give your own with --weights FILE"]
    lines = []
    for weights in (*manifest.weights, *manifest.parts):
        place = "embedded" if weights.source == "embedded" else f"hub {weights.repo}@{(weights.revision or '')[:12]}"
        size = output.short_bytes(weights.size_bytes)
        lines.append(f"{weights.name}: {place}, {size}, {weights.licence}, trained on {weights.trained_on}")
        lines.append(f"  sha256 {weights.sha256}")
    return lines


def _metrics(manifest: Manifest) -> list[str]:
    if not manifest.metrics:
        return []
    rows = [[m.name, f"{m.value:g}", m.dataset, m.by, m.protocol, m.command or ""] for m in manifest.metrics]
    return output.aligned([["metric", "value", "dataset", "by", "protocol", "command"], *rows], right=[False, True])


def _port(port: Port) -> str:
    parts: list[str] = [port.kind]
    if port.colour:
        parts.append(port.colour)
    elif port.channels:
        parts.append(f"{port.channels} channels")
    if port.range:
        parts.append(f"values {port.range[0]:g} to {port.range[1]:g}")
    if port.multiple_of > 1:
        parts.append(f"sides a multiple of {port.multiple_of}")
    if port.scale:
        parts.append(f"{port.scale:g} times the size of the input")
    return ", ".join(parts)


def _examples(manifest: Manifest) -> Iterator[str]:
    if manifest.entry.predictor:
        sample = _SAMPLE_NAMES.get(manifest.inputs.kind, "input.txt")
        own = "" if manifest.weights else " --weights FILE.safetensors"
        yield f"zoo predict {manifest.id} {sample} -o out/{own}"
        if manifest.entry.options:
            yield f"zoo predict {manifest.id} --help"
        if manifest.weights:
            result = f'zoo_core.load("{manifest.id}").predict("{sample}")'
            use = (
                f'{result}.save(Path("out.png"))' if manifest.outputs.kind == "image" else f"print({result}.as_dict())"
            )
            imports = "from pathlib import Path; import zoo_core" if "Path" in use else "import zoo_core"
            yield f"python -c '{imports}; {use}'"
    if manifest.entry.train and manifest.recipe:
        yield f"zoo train {manifest.id} --dry-run"


def _show_file(path: Path, out: output.Output, *, from_pickle: bool) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file.", "zoo list shows the models that are installed.")
    # imported by name: reading tensors needs torch, and `zoo info ID` must not
    found = catalog.load_object("zoo_core.weights.convert:recognise_file")(path, from_pickle=from_pickle)
    data = {"file": path, "model": found.model_id, "what": found.what, "read_as": found.read_as}
    out.result(FILE_SCHEMA, data, f"{path}: {found.what} (model {found.model_id}; {found.read_as})")
    flag = " --from-pickle" if from_pickle else ""
    output.hint(f"zoo weights convert {path}{flag} -o {found.model_id}.safetensors")
