"""Prediction: open a model once, give it any number of inputs, get one result an input, in input order.

A package supplies a Predictor (read -> prepare -> forward -> finish) and a Result; everything around them (devices,
files, order, errors of single inputs, overlap of reading, computing and writing) is here.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

import torch
from PIL import Image as pil
from torch import nn

from zoo_core.catalog import CatalogEntry, find
from zoo_core.errors import InputError, MissingDependencyError, UsageError, ZooError, did_you_mean
from zoo_core.io.atomic import check_writable, remove_leftovers
from zoo_core.io.inputs import Source, expand
from zoo_core.io.results import Planned, plan
from zoo_core.nn.number_format import number_format
from zoo_core.options import Options, parse_options

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Output = TypeVar("Output")
# told the share of one input's work that is done, from 0 to 1
Progress: TypeAlias = Callable[[float], None]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def silent(share: float) -> None:
    """Progress that nobody watches."""


@runtime_checkable
class Result(Protocol):
    """What a model found out about one input."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything but bulk data, ready for JSON."""

    def save(self, path: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        """Write whole files, `path` first, and return which; existing ones are refused without `overwrite`."""

    def draw(self) -> pil.Image | None:
        """Return a picture for people, None if there is nothing to see."""


@runtime_checkable
class TextResult(Result, Protocol):
    """A result that is text, and is printed as such where no folder for results is named."""

    def as_text(self) -> str:
        """Return the content of the file that `save` would write."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input: a result, an error, or nothing because its output exists (`skipped`)."""

    source: Source
    result: Result | None = None
    error: ZooError | None = None
    written: tuple[Path, ...] = ()
    skipped: bool = False


class Predictor(ABC, Generic[Item, Prepared, Output]):
    """A model that is ready to run.

    Attributes:
        suffixes: extensions (lower case, with dot) that are taken from folders.
    """

    suffixes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, entry: CatalogEntry, module: nn.Module, *, device: torch.device, precision: str, options: Options
    ) -> None:
        self.entry = entry
        self.manifest = entry.manifest
        self.module = module
        self.device = device
        self.precision = precision
        self.options = options

    @classmethod
    def open(
        cls, entry: CatalogEntry, module: nn.Module, *, device: torch.device, precision: str, options: Options
    ) -> Self:
        """Make a predictor of a loaded module (fp32, in evaluation mode, on `device`).

        Raises:
            UsageError: the model does not run in this precision, or the options do not fit it.
        """
        known = entry.manifest.precisions
        if precision not in known:
            raise UsageError(f"{entry.manifest.id} does not run in {precision}.", did_you_mean(precision, known))
        cls.check(entry, options)
        return cls(entry, module, device=device, precision=precision, options=options)

    @classmethod
    def check(cls, entry: CatalogEntry, options: Options) -> None:
        """Refuse options that do not fit the model, without its weights.

        Raises:
            UsageError: they do not.
        """

    @abstractmethod
    def read(self, source: Source) -> Iterator[Item]:
        """Read an input safely; raises InputError for one that cannot be used. Runs beside the computation."""

    @abstractmethod
    def prepare(self, item: Item) -> Prepared:
        """Turn an item into what `forward` takes, still on the CPU. Runs beside the computation."""

    @abstractmethod
    def forward(self, prepared: Prepared, *, progress: Progress = silent) -> Output:
        """Compute, on the device, without gradients."""

    @abstractmethod
    def finish(self, item: Item, output: Output) -> Result:
        """Turn what was computed into the result. Runs beside the computation of the next input."""

    @abstractmethod
    def file_names(self, source: Source) -> tuple[str, ...]:
        """Return the names of the files that an input gives, first that of the result.

        Needs no decoding and never fails: for an input that cannot be used any name will do.
        """

    def select(self, sources: list[Source]) -> list[Source]:
        """Leave out what was found in folders but is no input of its own, such as a part of another one."""
        return sources

    def predict(self, source: Any) -> Result:
        """Run on one input: a path, the bytes of a file, or whatever else the package's `read` understands.

        Raises:
            InputError: it cannot be used.
        """
        return _only(self.results(as_source(source)))

    def results(self, source: Source, *, progress: Progress = silent) -> Iterator[Result]:
        """Yield the results of one input."""
        for item in self.read(source):
            prepared = self.prepare(item)
            with torch.inference_mode(), number_format(self.precision):
                output = self.forward(prepared, progress=progress)
            yield self.finish(item, output)


def load(
    model: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    weights: str | os.PathLike[str] | None = None,
    set_name: str | None = None,
    offline: bool = False,
    **options: Any,
) -> Predictor[Any, Any, Any]:
    """Open a model by its id: `zoo_core.load("imdn-x4").predict("photo.jpg").save(Path("large.png"))`.

    Args:
        model: id or alias.
        device: `auto` (a CUDA device if there is one), `cpu`, `cuda`, `cuda:1`, ...
        precision: `auto` (fp16 on CUDA where the model allows it, else fp32), `fp32`, `bf16`, `fp16` or `int8`.
        weights: a safetensors file instead of the model's own.
        set_name: one of the manifest's weight sets instead of its first.
        offline: ask no network.
        options: the package's options by name.

    Raises:
        UsageError: no such model, device, precision or option, or a model that does not predict.
        WeightsError: no weights, or wrong ones.
    """
    from zoo_core.weights.build import build
    from zoo_core.weights.find import find as find_weights

    entry = find(model)
    kind: type[Predictor[Any, Any, Any]] = entry.code("predictor")
    schema = entry.code("options") if entry.manifest.entry.options else Options
    chosen = parse_options(schema, options, model=entry.manifest.id)
    kind.check(entry, chosen)  # before weights are fetched
    place = choose_device(device)
    found = find_weights(entry, weights=Path(weights) if weights else None, set_name=set_name, offline=offline)
    module = build(entry, found, device=place, dtype=torch.float32)
    return kind.open(entry, module, device=place, precision=choose_precision(entry, precision, place), options=chosen)


def run(
    predictor: Predictor[Any, Any, Any],
    inputs: Sequence[str | os.PathLike[str] | Source],
    *,
    out: Path | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
    progress: Callable[[Source, float], None] | None = None,
) -> Iterator[Outcome]:
    """Predict and save many inputs; an error of one ends that one alone.

    While one input is computed the next is read and the one before is encoded and written, each in its thread.

    Args:
        predictor: the model.
        inputs: what the user named, or Sources.
        out: folder for the results; None keeps them in the outcomes.
        overwrite: replace existing files.
        skip_existing: leave out inputs whose output exists; outputs are whole or absent, so this resumes a killed run.
        progress: told which input is computed and which share of it is done.

    Yields:
        one Outcome an input, in input order; results leave the memory with the outcomes.

    Raises:
        ZooError: the folder cannot be written to.
    """
    sources = predictor.select(_sources(inputs, predictor.suffixes))
    if out is None:
        jobs = [_Job(source, None) for source in sources]
    else:
        check_writable(out)
        remove_leftovers(out)
        jobs = [_Job(planned.source, planned) for planned in plan(sources, out, predictor.file_names)]
    with ThreadPoolExecutor(1, "zoo-read") as reader, ThreadPoolExecutor(1, "zoo-write") as writer:
        ahead: deque[tuple[_Job, Future[list[Any]]]] = deque()
        behind: deque[tuple[_Job, Future[Outcome]]] = deque()
        waiting = deque(jobs)
        try:
            while waiting or ahead or behind:
                while waiting and len(ahead) < 2:
                    job = waiting.popleft()
                    ahead.append((job, reader.submit(_read, predictor, job, skip_existing and not overwrite)))
                if ahead:
                    job, ready = ahead.popleft()
                    computed = _compute(predictor, job, ready, progress)
                    behind.append((job, writer.submit(_finish, predictor, job, computed, overwrite or skip_existing)))
                # one result waits while the next is computed; the rest are handed out
                while behind and (len(behind) > 1 or not (ahead or waiting) or behind[0][1].done()):
                    yield behind.popleft()[1].result()
        finally:
            for _, pending in ahead:
                pending.cancel()


@dataclass(frozen=True)
class _Job:
    source: Source
    planned: Planned | None


_Computed: TypeAlias = "list[tuple[Any, Any]] | ZooError | None"


def _read(predictor: Predictor[Any, Any, Any], job: _Job, skip_existing: bool) -> list[tuple[Any, Any]]:
    """Read and prepare one input; an empty list means that it is skipped."""
    if job.planned is not None:
        if job.planned.problem is not None and job.source.problem is None:
            raise job.planned.problem
        if skip_existing and os.path.lexists(job.planned.path):
            return []
    return [(item, predictor.prepare(item)) for item in predictor.read(job.source)]


def _compute(
    predictor: Predictor[Any, Any, Any],
    job: _Job,
    ready: Future[list[Any]],
    progress: Callable[[Source, float], None] | None,
) -> _Computed:
    """Run the model on what was read: pairs of item and output, the error of this input, or None if it is skipped."""

    def tell(share: float) -> None:
        if progress is not None:
            progress(job.source, share)

    try:
        pairs = ready.result()
        if not pairs:
            return None
        with torch.inference_mode(), number_format(predictor.precision):
            return [(item, predictor.forward(prepared, progress=tell)) for item, prepared in pairs]
    except Exception as error:
        return _as_zoo_error(job.source, error)


def _finish(predictor: Predictor[Any, Any, Any], job: _Job, computed: _Computed, overwrite: bool) -> Outcome:
    """Make and save the result. Never raises: an exception becomes the outcome.

    A run that skips existing results overwrites: the result is not there, and what lies beside it is of a killed run.
    """
    if computed is None:
        return Outcome(job.source, skipped=True)
    if isinstance(computed, ZooError):
        return Outcome(job.source, error=computed)
    try:
        result = _only(iter([predictor.finish(item, output) for item, output in computed]))
        if job.planned is None:
            return Outcome(job.source, result)
        return Outcome(job.source, result, written=result.save(job.planned.path, overwrite=overwrite))
    except Exception as error:
        return Outcome(job.source, error=_as_zoo_error(job.source, error))


def _as_zoo_error(source: Source, error: Exception) -> ZooError:
    """Say any failure of one input as one sentence; its cause stays attached for --debug."""
    if isinstance(error, ZooError):
        return error
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        said: ZooError = InputError(f"{source.name} does not fit into memory.", "Use a smaller --tile, or the CPU.")
    else:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        said = ZooError(
            f"{source.name}: {reason}.", "This is a fault in zoo or in the model's package; --debug shows where."
        )
    said.__cause__ = error
    return said


def _only(results: Iterator[Result]) -> Result:
    """Return the one result that an input has."""
    first = next(results, None)
    if first is None:
        raise InputError("The input holds nothing to predict on.")
    return first


def as_source(given: Any) -> Source:
    """Return a path, bytes or Source as a Source.

    Raises:
        UsageError: something else.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, (bytes, bytearray, memoryview)):
        return Source("input", data=bytes(given))
    if isinstance(given, (str, os.PathLike)):
        return Source(os.fspath(given), Path(given))
    raise UsageError(f"A path or the bytes of a file is needed, not {type(given).__name__}.")


def _sources(inputs: Sequence[str | os.PathLike[str] | Source], suffixes: frozenset[str]) -> list[Source]:
    names = [given for given in inputs if not isinstance(given, Source)]
    return [given for given in inputs if isinstance(given, Source)] + expand(names, suffixes=suffixes)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is CUDA if there is one that works, else the CPU.

    Raises:
        UsageError: no such kind of device.
        MissingDependencyError: it is not in this machine, or this torch cannot use it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"There is no device {name!r}.", "Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingDependencyError(
            f"The device {name} is not usable: torch sees {torch.cuda.device_count()} CUDA devices.",
            "Use --device cpu; zoo doctor says what is wrong.",
        )
    return device


def choose_precision(entry: CatalogEntry, name: str, device: torch.device) -> str:
    """Return the precision of that name; `auto` is fp16 on CUDA where the model allows it, else fp32."""
    if name != "auto":
        return name
    return "fp16" if device.type == "cuda" and "fp16" in entry.manifest.precisions else "fp32"
