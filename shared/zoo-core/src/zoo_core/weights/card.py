"""The model card: text made from the manifest and the run record, so that no figure is ever typed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from zoo_core.manifest import Manifest, Port, WeightSet

# our task -> the hub's name for it, under which people search
PIPELINE_TAGS = {
    "super-resolution": "image-to-image",
    "handwriting-recognition": "image-to-text",
    "forecasting": "time-series-forecasting",
    "detection": "object-detection",
    "classification": "image-classification",
}


def card_text(manifest: Manifest, weight_set: WeightSet, *, record: Mapping[str, Any] | None = None) -> str:
    """Return a card as Markdown with the front matter that the hub reads.

    Args:
        manifest: of the model.
        weight_set: the weights that lie beside the card.
        record: the run record of the training that made them, as JSON data (`zoo_core.train.record`).
    """
    front = yaml.safe_dump(_front_matter(manifest, weight_set), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n".join(_body(manifest, weight_set, record)) + "\n"


def _front_matter(manifest: Manifest, weight_set: WeightSet) -> dict[str, Any]:
    tag = PIPELINE_TAGS.get(manifest.task)
    ours = [metric for metric in manifest.metrics if metric.by == "ours"]
    results = [
        {
            "task": {"type": tag or manifest.task, "name": manifest.task},
            "dataset": {"type": metric.dataset, "name": metric.dataset},
            "metrics": [{"type": metric.name, "value": metric.value, "name": f"{metric.name} ({metric.protocol})"}],
        }
        for metric in ours
    ]
    return {
        **_licence(weight_set.licence),
        "library_name": "zoo",
        **({"pipeline_tag": tag} if tag else {}),
        "tags": ["zoo", manifest.task, manifest.id, *_paper_tag(manifest.paper.id)],
        **({"metrics": sorted({metric.name for metric in ours})} if ours else {}),
        **({"model-index": [{"name": manifest.id, "results": results}]} if results else {}),
    }


def _licence(licence: str) -> dict[str, str]:
    """The hub knows licences by their SPDX ids in lower case; anything else is `other` with a name."""
    if re.fullmatch(r"[A-Za-z0-9.+-]+", licence):
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence}


def _paper_tag(paper_id: str) -> list[str]:
    found = re.fullmatch(r"arxiv:(\S+)", paper_id, flags=re.IGNORECASE)
    return [f"arxiv:{found[1]}"] if found else []


def _body(manifest: Manifest, weight_set: WeightSet, record: Mapping[str, Any] | None) -> Iterator[str]:
    yield f"# {manifest.id}"
    yield f"\n{manifest.summary.rstrip('.')}. {manifest.parameters:,} parameters.\n"
    yield f"```sh\nzoo info {manifest.id}"
    if manifest.entry.predictor is not None:
        yield f"zoo predict {manifest.id} INPUT -o out/"
    yield "```\n"
    yield f"- Takes: {_port(manifest.inputs)}"
    yield f"- Gives: {_port(manifest.outputs)}"
    if manifest.flops:
        yield f"- Cost: {manifest.flops.count / 1e9:.2f} GFLOP at input {'x'.join(map(str, manifest.flops.at))}"
    yield f"- Paper: {manifest.paper.title} ({manifest.paper.year}), {manifest.paper.id}"
    yield f"- Licence of these weights: {weight_set.licence}"
    yield f"- Trained on: {weight_set.trained_on}"
    yield from (
        f"- With it comes the {part.name}: {part.licence}, trained on {part.trained_on}" for part in manifest.parts
    )
    yield from _figures(manifest)
    for heading, lines in (("Limits", manifest.limits), ("Notes", manifest.notes)):
        if lines:
            yield f"\n## {heading}\n"
            yield from (f"- {line}" for line in lines)
    if record:
        yield from _training(record)
    yield "\n## Files\n"
    yield f"- `model.safetensors`: {weight_set.size_bytes:,} bytes, sha256 `{weight_set.sha256}`"
    yield "- `golden.safetensors`: an input and the output that the model gives for it, fp32 on a CPU"
    yield "- `config.json`: what the model is constructed with"


def _figures(manifest: Manifest) -> Iterator[str]:
    if not manifest.metrics:
        return
    yield "\n## Figures\n"
    yield "| dataset | metric | value | by | protocol | command |\n|---|---|---|---|---|---|"
    for metric in manifest.metrics:
        command = f"`{metric.command}`" if metric.command else ""
        cells = (metric.dataset, metric.name, f"{metric.value:g}", metric.by, metric.protocol, command)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _training(record: Mapping[str, Any]) -> Iterator[str]:
    """The run record as it is: one line a fact, and the recipe as the file that would repeat the run."""
    yield "\n## Training run\n"
    for key, value in record.items():
        if key == "recipe" or value is None:
            continue
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        yield f"- {key.replace('_', ' ')}: {text}"
    if "recipe" in record:
        recipe = yaml.safe_dump(record["recipe"], sort_keys=False, allow_unicode=True)
        yield f"\n```yaml\n{recipe}```"


def _port(port: Port) -> str:
    facts: list[str] = [port.kind]
    if port.channels is not None:
        facts.append(f"{port.channels} channels")
    if port.colour is not None:
        facts.append(port.colour)
    if port.range is not None:
        facts.append(f"values {port.range[0]:g} to {port.range[1]:g}")
    if port.multiple_of > 1:
        facts.append(f"sides a multiple of {port.multiple_of}")
    if port.scale is not None:
        facts.append(f"{port.scale:g} times the size of the input")
    return ", ".join(facts)
