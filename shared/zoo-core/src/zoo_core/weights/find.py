"""Find the weights of a model and prove that they are the right ones.

Order: the file that the user names; the one embedded in the package; the client's cache, by pinned revision; the hub.
Every file of a manifest is hashed each time it is found: 3 MB take milliseconds, 1 GB about a second, and a record of
what was hashed before would be one more thing that can be wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from zoo_core.catalog import CatalogEntry
from zoo_core.errors import WeightsError
from zoo_core.manifest import WeightSet
from zoo_core.weights import hub
from zoo_core.weights.files import sha256_of

Origin: TypeAlias = Literal["path", "embedded", "cache", "hub"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundWeights:
    """A weight file that may be loaded.

    Args:
        path: where it lies.
        origin: which place it comes from.
        weight_set: the set of the manifest whose sha256 it has; None for a file of the user's that is no such set.
        reason: one sentence on why this one was taken.
        passed: the places before it, each with the reason why it was passed over.
    """

    path: Path
    origin: Origin
    weight_set: WeightSet | None
    reason: str
    passed: tuple[str, ...] = ()


def find(
    entry: CatalogEntry,
    *,
    weights: Path | None = None,
    set_name: str | None = None,
    offline: bool = False,
    say: Callable[[str], None] = _log.info,
) -> FoundWeights:
    """Find the weights of a model, fetching them if they are nowhere here.

    Args:
        entry: the model.
        weights: a file of the user's, taken as it is.
        set_name: which weight set of the manifest; the first by default.
        offline: ask no network; HF_HUB_OFFLINE does the same.
        say: told before anything that may take long, such as a download.

    Raises:
        WeightsError: published without any, nowhere to be had, or not the bytes that the manifest names.
        UsageError: no such weight set.
    """
    if weights is not None:
        return _given(entry, weights)
    weight_set = entry.manifest.weight_set(set_name)
    name = f"{entry.manifest.id}:{weight_set.name}"
    passed = []
    if weight_set.source == "embedded":
        path = entry.folder / "weights" / weight_set.file
        if path.is_file():
            verify(path, weight_set, name=name, remedy=f"Install {entry.package} again.")
            return FoundWeights(path, "embedded", weight_set, f"{entry.package} brings it, and its sha256 is right")
        passed.append(f"embedded: {path} is not there")
        if weight_set.repo is None:
            raise WeightsError(f"{name} is missing: {path} is not there.", f"Install {entry.package} again.")
    else:
        passed.append(f"embedded: {entry.package} does not bring it, it is a hub set")
    return _from_hub(weight_set, name=name, offline=offline or hub.is_offline(), say=say, passed=passed)


def verify(path: Path, weight_set: WeightSet, *, name: str, remedy: str) -> None:
    """Compare a file with what the manifest says about it.

    Raises:
        WeightsError: the size or the sha256 differs, or the file cannot be read; carries `remedy`.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes != weight_set.size_bytes:
            raise WeightsError(f"{path} has {size_bytes} bytes; {name} has {weight_set.size_bytes}.", remedy)
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}).", remedy) from error
    if digest != weight_set.sha256:
        raise WeightsError(f"{path} is not {name}: its sha256 is {digest}, not {weight_set.sha256}.", remedy)


def _given(entry: CatalogEntry, path: Path) -> FoundWeights:
    """Take the user's file; if it is one of the manifest's sets, say which."""
    try:
        size_bytes = path.stat().st_size
        same_size = [s for s in entry.manifest.weights if s.size_bytes == size_bytes]
        digest = sha256_of(path) if same_size else ""
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}).", "Check the path.") from error
    for weight_set in same_size:
        if weight_set.sha256 == digest:
            return FoundWeights(path, "path", weight_set, f"you named it, and its sha256 is {weight_set.name}'s")
    return FoundWeights(
        path, "path", None, "you named it; it is none of the manifest's sets, so nothing vouches for it"
    )


def _from_hub(
    weight_set: WeightSet, *, name: str, offline: bool, say: Callable[[str], None], passed: list[str]
) -> FoundWeights:
    pin = f"{weight_set.repo} at {weight_set.revision}"
    path = hub.cached(weight_set)
    if path is not None:
        try:
            verify(path, weight_set, name=name, remedy="")
        except WeightsError as error:
            # it may have rotted on the disk or come from a hub that lied: once it is gone the client fetches it again
            hub.forget(path)
            passed.append(f"cache: {error.message} It was removed.")
            say(passed[-1])
        else:
            return FoundWeights(path, "cache", weight_set, f"cached from {pin}, and its sha256 is right", tuple(passed))
    else:
        passed.append(f"cache: does not hold {weight_set.file} of {pin}")
    if offline:
        raise WeightsError(
            f"{name} is not on this machine, and the network is off ({'; '.join(passed)}).",
            f"Online: zoo weights get {name.replace(':', ' --set ')}; or give a file with --weights FILE.",
        )
    path = hub.download(weight_set, say=say)
    try:
        verify(path, weight_set, name=name, remedy="")
    except WeightsError as error:
        hub.forget(path)
        raise WeightsError(
            f"The hub sent other bytes than the manifest names; they were thrown away. {error.message}",
            "Try again; if it happens again, check HF_ENDPOINT and report it: do not use such a file.",
        ) from error
    return FoundWeights(path, "hub", weight_set, f"fetched from {pin}, and its sha256 is right", tuple(passed))
