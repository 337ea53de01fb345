"""Publishing: one commit on the hub with the weights, what they are, and proof of what they should give."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import UsageError, WeightsError
from zoo_core.manifest import WeightSet
from zoo_core.weights.build import build
from zoo_core.weights.card import card_text
from zoo_core.weights.files import read_tensors, sha256_of
from zoo_core.weights.find import FoundWeights
from zoo_core.weights.golden import GOLDEN_TOLERANCE, golden_difference, golden_path, make_golden
from zoo_core.weights.hub import AGENT

FILE = "model.safetensors"
# The client waits for ever; a hub that takes a commit of many gigabytes may be silent for a while.
SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Bundle:
    """What goes to the hub: files by name, as bytes or as the path of a large one."""

    files: Mapping[str, bytes | Path]
    weight_set: WeightSet


@dataclass(frozen=True)
class Published:
    """Where it went; `weight_set` is what the manifest should say from now on."""

    url: str
    weight_set: WeightSet


def assemble(
    entry: CatalogEntry,
    weights: Path,
    *,
    licence: str,
    trained_on: str,
    golden: Path | None = None,
    record: Mapping[str, Any] | None = None,
) -> Bundle:
    """Make the files of a repository, and check that the weights load and give the golden output.

    Args:
        entry: the model.
        weights: a safetensors file that fits it.
        licence: of these weights, as an SPDX id.
        trained_on: the data, for the card.
        golden: a safetensors file with `input` and `output`; by default that of the package if these are the weights of
            a set that has one, else one is made, which works for models of images.
        record: the run record of their training, for the card.

    Raises:
        WeightsError: the weights do not fit, or do not give the golden output.
        UsageError: no golden file is given and none can be made.
    """
    import torch
    from safetensors.torch import save

    found = FoundWeights(weights, "path", None, "to be published")
    module = build(entry, found, device=torch.device("cpu"), dtype=torch.float32)
    digest = sha256_of(weights)
    kept = [golden_path(entry, known) for known in entry.manifest.weights if known.sha256 == digest]
    golden = golden or next((path for path in kept if path.is_file()), None)
    example = make_golden(entry, module) if golden is None else read_tensors(golden)[0]
    difference = golden_difference(module, example, what=str(golden))
    if difference > GOLDEN_TOLERANCE:
        raise WeightsError(
            f"{weights} does not give the golden output of {golden}: it is {difference:.1e} of the largest value off.",
            f"Publish the right weights; for new ones make a new golden file (zoo weights golden {entry.manifest.id}).",
        )
    manifest = entry.manifest
    weight_set = WeightSet(
        source="embedded",  # until the commit says where it lies
        file=FILE,
        size_bytes=weights.stat().st_size,
        sha256=digest,
        licence=licence,
        trained_on=trained_on,
    )
    described = manifest.model_dump(mode="json", include={"format", "id", "task", "config", "inputs", "outputs"})
    config = {**described, "sha256": {FILE: weight_set.sha256}}
    return Bundle(
        {
            "config.json": (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
            FILE: weights,
            "golden.safetensors": save(example, metadata={"format": "pt", "model": manifest.id}),
            "README.md": card_text(manifest, weight_set, record=record).encode(),
        },
        weight_set,
    )


def push(bundle: Bundle, repo: str, *, message: str, private: bool, say: Callable[[str], None]) -> Published:
    """Upload a bundle as one commit; the repository is made if it is missing.

    Args:
        bundle: from `assemble`.
        repo: `owner/name`.
        message: first line of the commit.
        private: whether a repository that has to be made is private.
        say: told before anything that may take long.

    Raises:
        WeightsError: the hub refuses or cannot be reached; a commit is whole or not at all.
        UsageError: `repo` is not a name that the hub takes.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, errors

    say(f"Uploading {', '.join(bundle.files)} to {repo} at {constants.ENDPOINT} ...")
    api = HfApi(**AGENT)
    adds = [CommitOperationAdd(name, str(f) if isinstance(f, Path) else f) for name, f in bundle.files.items()]
    try:
        with _impatient():
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.create_commit(repo, adds, commit_message=message)
    except errors.HFValidationError as error:
        raise UsageError(f"{repo!r} is no repository name ({error}).", "Write it as owner/name.") from error
    # its HTTP errors have other classes in 1.x and 2.x: whatever ends the upload, there is no commit
    except Exception as error:
        raise _refused(error, repo) from error
    place = {"source": "hub", "repo": repo, "revision": commit.oid}
    return Published(str(commit.commit_url), WeightSet.model_validate({**bundle.weight_set.model_dump(), **place}))


@contextmanager
def _impatient() -> Iterator[None]:
    """Let the client wait for an answer no longer than `SILENCE_SECONDS`, and draw bars on terminals alone."""
    from huggingface_hub import get_session
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    session = get_session()
    before = session.timeout
    session.timeout = SILENCE_SECONDS
    hide_bars = not are_progress_bars_disabled() and not sys.stderr.isatty()
    if hide_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        session.timeout = before
        if hide_bars:
            enable_progress_bars()


def _refused(error: Exception, repo: str) -> WeightsError:
    from huggingface_hub import constants

    cause = error.__cause__ or error  # the client wraps what ends an upload in a RuntimeError
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status in (401, 403):
        return WeightsError(
            f"{constants.ENDPOINT} does not let you write to {repo} ({status}).",
            "Log in with `hf auth login`, or set HF_TOKEN to a token that may write there.",
        )
    detail = f"it answered {status}" if status else f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
    return WeightsError(
        f"{repo} was not published on {constants.ENDPOINT} ({detail}).", "Check the connection and try again."
    )
