"""What a model is, as data: one JSON file a model, which is also its registration. No torch here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from zoo_core.errors import UsageError, WeightsError, did_you_mean

FORMAT = 1
MAX_BYTES = 20_000

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
ModelId = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
# "module:attribute" inside the package that ships the manifest
EntryPoint = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Data):
    """Where the package keeps the code of this model; every value is `module:attribute`.

    `options` must live in a module that imports neither torch nor numpy: `zoo predict ID --help` reads it.
    """

    model: EntryPoint
    predictor: EntryPoint | None = None
    options: EntryPoint | None = None
    train: EntryPoint | None = None
    evaluate: EntryPoint | None = None
    bench: EntryPoint | None = None
    convert: EntryPoint | None = None


class Port(_Data):
    """What goes into a model or comes out of it."""

    kind: Literal["image", "line", "page", "series", "boxes", "labels", "dataset", "text"]
    channels: int | None = None
    range: tuple[float, float] | None = None
    colour: Literal["rgb", "gray"] | None = None
    multiple_of: int = 1
    scale: float | None = None


class Flops(_Data):
    """Floating-point operations (2 per multiply-add) of one forward pass at a stated input size."""

    count: int
    at: tuple[int, ...] = Field(description="input shape, NCHW for images")


class WeightSet(_Data):
    """One set of weights: where it is, and what proves that it is the right one."""

    name: str = "default"
    source: Literal["embedded", "hub"]
    file: str
    size_bytes: int = Field(gt=0)
    sha256: Sha256
    licence: str
    trained_on: str
    repo: str | None = None
    revision: Revision | None = None

    @model_validator(mode="after")
    def _hub_sets_are_pinned(self) -> WeightSet:
        if self.source == "hub" and not (self.repo and self.revision):
            raise ValueError("a hub weight set needs repo and a 40-hex revision")
        if Path(self.file).is_absolute() or ".." in Path(self.file).parts or "\\" in self.file:
            raise ValueError(f"file {self.file!r} leaves its folder")
        return self


class Metric(_Data):
    """One figure with its provenance."""

    name: str
    value: float
    dataset: str
    protocol: str
    by: Literal["ours", "paper", "official"]
    command: str | None = Field(default=None, description="the command that printed it (for ours)")

    @model_validator(mode="after")
    def _ours_has_a_command(self) -> Metric:
        if self.by == "ours" and not self.command:
            raise ValueError("a metric of ours names the command that prints it")
        return self


class Paper(_Data):
    """The paper that describes the model."""

    title: str
    id: str
    year: int


class Manifest(_Data):
    """One model. Read with `read_manifest`, found with `zoo_core.catalog`."""

    format: Literal[1]
    id: ModelId
    aliases: tuple[ModelId, ...] = ()
    task: str
    summary: str
    entry: Entry
    config: dict[str, Any] = Field(default_factory=dict, description="constructor arguments of entry.model")
    inputs: Port
    outputs: Port
    recipe: str | None = Field(default=None, description="file in the package's recipes folder")
    weights: tuple[WeightSet, ...] = ()
    parameters: int = Field(gt=0)
    flops: Flops | None = None
    precisions: tuple[Literal["fp32", "bf16", "fp16"], ...] = ("fp32",)
    metrics: tuple[Metric, ...] = ()
    paper: Paper
    limits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @field_validator("weights")
    @classmethod
    def _weight_names_differ(cls, sets: tuple[WeightSet, ...]) -> tuple[WeightSet, ...]:
        if len({s.name for s in sets}) != len(sets):
            raise ValueError("two weight sets have the same name")
        return sets

    def weight_set(self, name: str | None = None) -> WeightSet:
        """Return the named weight set, by default the first one.

        Raises:
            WeightsError: the model is published without weights.
            UsageError: there is no such set.
        """
        if name is None and self.weights:
            return self.weights[0]
        for weight_set in self.weights:
            if weight_set.name == name:
                return weight_set
        if not self.weights:
            raise WeightsError(f"{self.id} is published without weights.", "Give your own with --weights FILE.")
        raise UsageError(
            f"{self.id} has no weight set {name!r}.", did_you_mean(name or "", [s.name for s in self.weights])
        )


def parse_manifest(text: str, *, origin: str) -> Manifest:
    """Turn JSON text into a Manifest.

    Args:
        text: the JSON, at most 20 kB.
        origin: file name for messages.

    Raises:
        UsageError: not JSON, an unknown key (with the nearest known one), or a value out of place.
    """
    if len(text.encode()) > MAX_BYTES:
        raise UsageError(f"{origin}: a manifest has at most {MAX_BYTES} bytes.", "Move prose to the model card.")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        remedy = ""
        if first["type"] == "extra_forbidden":
            remedy = did_you_mean(str(first["loc"][-1]), Manifest.model_fields)
        raise UsageError(f"{origin}: {place}: {first['msg']}.", remedy) from error


def read_manifest(path: Path, *, package: str) -> Manifest:
    """Read the manifest that `package` ships, and refuse one that names code of another package.

    Raises:
        UsageError: unreadable, malformed, or an entry point outside `package`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    manifest = parse_manifest(text, origin=str(path))
    for room, target in manifest.entry:
        if target is not None and not re.match(rf"{re.escape(package)}[.:]", target):
            raise UsageError(
                f"{path}: entry.{room} names {target!r}, outside {package}.",
                "A manifest may only name code of the package that ships it.",
            )
    return manifest
