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

    `options` and `evaluate_options` must live in modules that import neither torch nor numpy: `--help` reads them.
    """

    model: EntryPoint = Field(description="the network, a torch module; `config` is what it is constructed with")
    predictor: EntryPoint | None = Field(default=None, description="class behind `zoo predict`")
    options: EntryPoint | None = Field(default=None, description="class of the options of `zoo predict ID`")
    train: EntryPoint | None = Field(default=None, description="function behind `zoo train`")
    evaluate: EntryPoint | None = Field(default=None, description="function behind `zoo eval`")
    evaluate_options: EntryPoint | None = Field(default=None, description="class of the options of `zoo eval ID`")
    bench: EntryPoint | None = Field(default=None, description="function behind `zoo bench`")
    convert: EntryPoint | None = Field(default=None, description="function that recognises other people's checkpoints")


class Port(_Data):
    """What goes into a model or comes out of it."""

    kind: Literal["image", "line", "page", "series", "boxes", "labels", "dataset", "text"] = Field(
        description="what it is"
    )
    channels: int | None = Field(default=None, description="how many")
    range: tuple[float, float] | None = Field(default=None, description="lowest and highest value")
    colour: Literal["rgb", "gray"] | None = Field(default=None, description="what the channels are, in order")
    height: int | None = Field(default=None, description="of lines in pixels; every line is scaled to it")
    multiple_of: int = Field(default=1, description="sides must be a multiple of this; the predictor pads and cuts")
    scale: float | None = Field(default=None, description="of an output: its sides over those of the input")


class Flops(_Data):
    """Floating-point operations (2 per multiply-add) of one forward pass at a stated input size."""

    count: int = Field(description="operations")
    at: tuple[int, ...] = Field(description="input shape, NCHW for images")


class WeightSet(_Data):
    """One set of weights: where it is, and what proves that it is the right one."""

    name: str = Field(default="default", description="what `--set` calls it; the first set is the default one")
    source: Literal["embedded", "hub"] = Field(
        description="embedded: in the package's folder `weights`; hub: fetched when it is first needed"
    )
    file: str = Field(description="file name, of safetensors, in that folder or repository")
    size_bytes: int = Field(gt=0, description="compared before the hash")
    sha256: Sha256 = Field(description="of the file; compared whenever it is found")
    licence: str = Field(description="SPDX id of these weights")
    trained_on: str = Field(description="the data, in words")
    repo: str | None = Field(default=None, description="OWNER/NAME on the hub")
    revision: Revision | None = Field(default=None, description="commit on the hub, 40 hex digits; no branch or tag")

    @model_validator(mode="after")
    def _hub_sets_are_pinned(self) -> WeightSet:
        if self.source == "hub" and not (self.repo and self.revision):
            raise ValueError("a hub weight set needs repo and a 40-hex revision")
        if Path(self.file).is_absolute() or ".." in Path(self.file).parts or "\\" in self.file:
            raise ValueError(f"file {self.file!r} leaves its folder")
        return self


class Metric(_Data):
    """One figure with its provenance."""

    name: str = Field(description="such as psnr_y")
    value: float = Field(description="the figure")
    dataset: str = Field(description="name of the pack")
    protocol: str = Field(description="how it is measured, as `zoo eval --protocol` names it")
    by: Literal["ours", "paper", "official"] = Field(
        description="our weights; what the paper prints; the authors' weights as we measured them"
    )
    command: str | None = Field(default=None, description="the command that printed it (for ours)")

    @model_validator(mode="after")
    def _ours_has_a_command(self) -> Metric:
        if self.by == "ours" and not self.command:
            raise ValueError("a metric of ours names the command that prints it")
        return self


class Paper(_Data):
    """The paper that describes the model."""

    title: str = Field(description="as printed")
    id: str = Field(description="such as arXiv:1909.11856")
    year: int = Field(description="of publication")


class Manifest(_Data):
    """One model. Read with `read_manifest`, found with `zoo_core.catalog`."""

    format: Literal[1] = Field(description="of this file")
    id: ModelId = Field(description="lower-case words with hyphens; what every command calls the model")
    aliases: tuple[ModelId, ...] = Field(default=(), description="other names, such as earlier ones")
    task: str = Field(description="what it does, such as super-resolution; `zoo list --task` selects by it")
    summary: str = Field(description="one line for lists and cards")
    entry: Entry = Field(description="where the code is")
    config: dict[str, Any] = Field(default_factory=dict, description="constructor arguments of entry.model")
    inputs: Port = Field(description="what goes in")
    outputs: Port = Field(description="what comes out")
    recipe: str | None = Field(default=None, description="file in the package's recipes folder")
    weights: tuple[WeightSet, ...] = Field(default=(), description="published weights; none: `--weights FILE` only")
    parts: tuple[WeightSet, ...] = Field(
        default=(), description="embedded weights of other networks that the model's code opens, such as a text tower"
    )
    parameters: int = Field(gt=0, description="how many the model has, counted")
    flops: Flops | None = Field(default=None, description="cost of one run")
    precisions: tuple[Literal["fp32", "bf16", "fp16", "int8"], ...] = Field(
        default=("fp32",), description="in which it runs"
    )
    metrics: tuple[Metric, ...] = Field(default=(), description="figures, each with its provenance")
    paper: Paper = Field(description="where it was described")
    limits: tuple[str, ...] = Field(default=(), description="what it cannot do, one sentence each")
    notes: tuple[str, ...] = Field(default=(), description="what else a user should know")

    @field_validator("weights", "parts")
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
