"""Write what must not be typed into the docs: `uv run tools/pages.py` rewrites it, `--check` only says what is stale.

docs/manifest.md is made whole; elsewhere a part lies between `<!-- made: NAME -->` and `<!-- end: NAME -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from zoo_core.cli.output import short_bytes, short_count
from zoo_core.manifest import Manifest, Metric, parse_manifest
from zoo_core.train import TrainRecipe
from zoo_forecast.measuring.options import ForecastEvaluateOptions
from zoo_forecast.options import ForecastOptions
from zoo_forecast.small_task import Recipe as ForecastRecipe
from zoo_htr.task import Recipe as HTRRecipe
from zoo_sr.options import SROptions
from zoo_sr.train import Recipe

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# The manifest

Made by `uv run tools/pages.py` from `zoo_core.manifest`; a test fails when this page is stale.

A model is one JSON file, `manifests/ID.json` in its package: being there registers it. It is read without importing the
package, may have at most 20 kB, and may name only code of the package that ships it. An unknown key is an error that
names the nearest known one. `zoo info ID --format json` prints a manifest.
"""


def manifests() -> list[Manifest]:
    """Return the manifests of this checkout by id, whatever is installed."""
    paths = ROOT.glob("packages/*/src/*/manifests/*.json")
    read = [parse_manifest(path.read_text(encoding="utf-8"), origin=path.name) for path in paths]
    return sorted(read, key=lambda manifest: manifest.id)


def manifest_page() -> str:
    """Return docs/manifest.md: a section for every kind of object, one row a key."""
    schema = Manifest.model_json_schema()
    parts = [HEAD, *table(schema)]
    for name, definition in schema["$defs"].items():
        parts += [f"\n## {name}\n", definition["description"].split("\n\n")[0] + "\n", *table(definition)]
    return "\n".join(parts) + "\n"


def keys(model: type[BaseModel]) -> str:
    """Return one row a field of a class of data."""
    return "\n".join(table(model.model_json_schema()))


def own_keys(model: type[TrainRecipe]) -> str:
    """Return one row a key that every recipe does not have."""
    schema = model.model_json_schema()
    own = {name: field for name, field in schema["properties"].items() if name not in TrainRecipe.model_fields}
    return "\n".join(table({**schema, "properties": own}))


def options(model: type[BaseModel]) -> str:
    """Return one row an option of a model, of `zoo predict ID` or `zoo eval ID`."""
    return keys(model).replace("| key |", "| option |")


def table(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rows of a JSON schema's properties."""
    yield "| key | value | default | what it says |\n|---|---|---|---|"
    for name, field in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else shown(field.get("default"))
        text = field.get("description") or field.get("title", "")
        yield f"| `{name}` | {kind(field)} | {default} | {cell(text)} |"


def kind(field: Mapping[str, Any]) -> str:
    """Return what a value must be, in words."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        kinds = [kind(part) for part in field["anyOf"] if part.get("type") != "null"]
        return " or ".join(kinds)
    if "const" in field or "enum" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        items = field.get("items") or {}
        parts = field.get("prefixItems")
        return f"{len(parts)} numbers" if parts else f"list of {kind(items)}"
    bounds = [
        f"{sign} {field[name]}"
        for name, sign in (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
        if name in field
    ]
    bounds += [f"below {field['exclusiveMaximum']}"] if "exclusiveMaximum" in field else []
    words = {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "mapping"}
    pattern = f", pattern `{cell(field['pattern'])}`" if "pattern" in field else ""
    return " ".join([words.get(field.get("type", ""), str(field.get("type", "any"))), *bounds]) + pattern


def shown(default: Any) -> str:
    """Return a default as the table has it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default is None or default in ([], {}) else f"`{default}`"


def cell(text: str) -> str:
    """Return text that does not end a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def models() -> str:
    """Return one row a model."""
    rows = ["| model | what it does | parameters | weights | licence | headline figure |\n|---|---|---|---|---|---|"]
    for manifest in manifests():
        first = manifest.weights[0] if manifest.weights else None
        weights = f"{first.source}, {short_bytes(first.size_bytes)}" if first else "your own, by `--weights`"
        licence = first.licence if first else "-"
        count = short_count(manifest.parameters)
        rows.append(
            f"| `{manifest.id}` | {manifest.summary} | {count} | {weights} | {licence} | {headline(manifest)} |"
        )
    return "\n".join(rows)


def headline(manifest: Manifest) -> str:
    """Return the first metric of a manifest by everyone who has it."""
    if not manifest.metrics:
        return "-"
    place = place_of(manifest.metrics[0])
    values = {metric.by: metric.value for metric in manifest.metrics if place_of(metric) == place}
    return f"{place[1]} on {place[0]}: " + ", ".join(f"{by} {values[by]:g}" for by in ("ours", "paper") if by in values)


def place_of(metric: Metric) -> tuple[str, str, str]:
    """Return what was measured: two figures of one place may be compared."""
    return metric.dataset, metric.name, metric.protocol


def figures() -> str:
    """Return every figure of every manifest, ours beside the paper's."""
    rows = ["| model | dataset | metric | protocol | ours | paper | authors' weights |\n|---|---|---|---|---|---|---|"]
    for manifest in manifests():
        for place in dict.fromkeys(map(place_of, manifest.metrics)):
            by = {metric.by: f"{metric.value:g}" for metric in manifest.metrics if place_of(metric) == place}
            cells = [f"`{manifest.id}`", *place, *(by.get(who, "-") for who in ("ours", "paper", "official"))]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


PARTS = {
    "models": models,
    "figures": figures,
    "options of zoo-forecast": lambda: options(ForecastOptions),
    "options of measuring forecasts": lambda: options(ForecastEvaluateOptions),
    "options of zoo-sr": lambda: options(SROptions),
    "recipe of zoo-forecast": lambda: own_keys(ForecastRecipe),
    "recipe of zoo-htr": lambda: own_keys(HTRRecipe),
    "recipe of zoo-sr": lambda: keys(Recipe),
}


def filled(text: str) -> str:
    """Return a page with its made parts as they should be."""

    def made(match: re.Match[str]) -> str:
        name = match[1]
        if name not in PARTS:  # another tool's
            return match[0]
        return f"<!-- made: {name} -->\n\n{PARTS[name]()}\n\n<!-- end: {name} -->"

    return re.sub(r"<!-- made: ([\w -]+) -->\n.*?<!-- end: \1 -->", made, text, flags=re.DOTALL)


def stale() -> dict[Path, str]:
    """Return the pages that are not as they should be, each with what it should be."""
    wanted = {ROOT / "docs" / "manifest.md": manifest_page()}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if page not in wanted:
            wanted[page] = filled(page.read_text(encoding="utf-8"))
    return {p: text for p, text in wanted.items() if not p.exists() or p.read_text(encoding="utf-8") != text}


def main() -> int:
    """Rewrite what is stale; with --check only name it and return 1."""
    check = "--check" in sys.argv[1:]
    found = stale()
    for page, text in found.items():
        if not check:
            page.write_text(text, encoding="utf-8")
        print(f"{page.relative_to(ROOT)}: {'stale: run uv run tools/pages.py' if check else 'written'}")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
