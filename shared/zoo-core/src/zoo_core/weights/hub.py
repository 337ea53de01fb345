"""The hub: what is in its cache, and fetching one pinned file. The client does not check content, so `find` does.

Two habits of the client are kept in check here. It retries a hub that is down for 23 s without a word, so we ask once
ourselves before it starts. And it asks again for ever while each answer is cut short, so we count the questions.
Written against the public names that huggingface_hub 1.x and 2.x share; their HTTP libraries differ (httpx, httpx2).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo_core import __version__
from zoo_core.errors import WeightsError
from zoo_core.manifest import WeightSet

TRIES = 3  # when the hub says that it is overloaded or broken
PAUSE_SECONDS = 1.0
BUSY = (408, 429, 500, 502, 503, 504)
# sent in the user agent; HF_HUB_DISABLE_TELEMETRY turns it off
AGENT: dict[str, Any] = {"library_name": "zoo", "library_version": __version__}


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set (the client reads it once, when it is imported)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached(weight_set: WeightSet) -> Path | None:
    """Return the cached file of this pinned revision, None if there is none; asks no network and checks no content."""
    from huggingface_hub import try_to_load_from_cache

    hit = try_to_load_from_cache(_repo(weight_set), weight_set.file, revision=weight_set.revision)
    return Path(hit) if isinstance(hit, str) else None


def forget(path: Path) -> None:
    """Remove a file from the cache, with the blob that it links to, so that the next try fetches it afresh.

    Raises:
        WeightsError: it cannot be removed.
    """
    from huggingface_hub import constants

    # the last link may lead out of the cache to a file of the user's, which is not ours to remove
    while path.is_relative_to(constants.HF_HUB_CACHE):
        target = Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else None
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise WeightsError(
                f"{path} holds wrong bytes and cannot be removed ({error.strerror}).", "Remove it by hand."
            ) from error
        if target is None:
            return
        path = target


def download(weight_set: WeightSet, *, say: Callable[[str], None]) -> Path:
    """Fetch the file of a pinned weight set into the client's cache. Its content is not verified here.

    Args:
        weight_set: with repo and revision.
        say: told at once what is asked for, and why something is tried again.

    Raises:
        WeightsError: whatever goes wrong, with what to do about it.
    """
    from huggingface_hub import constants

    place = f"{weight_set.file} of {weight_set.repo} at {_pin(weight_set)[:8]}"
    say(f"Fetching {place} ({weight_set.size_bytes / 1e6:.1f} MB) from {constants.ENDPOINT} ...")
    for attempt in range(1, TRIES + 1):
        try:
            _ask(weight_set)
            return _fetch(weight_set)
        except WeightsError:
            raise
        # Its HTTP errors have other classes in 1.x and 2.x: whatever ends the transfer, no weights came.
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status not in BUSY or attempt == TRIES:
                raise _explained(error, place, status) from error
            say(f"The hub answered {status}; trying again ({attempt + 1} of {TRIES}).")
            time.sleep(PAUSE_SECONDS * attempt)
    raise AssertionError("the last attempt returns or raises")


def _ask(weight_set: WeightSet) -> None:
    """Ask the hub what it has, once and with the client's short timeout, and compare that with the manifest."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(_repo(weight_set), weight_set.file, revision=weight_set.revision)
    offer = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT, **AGENT)
    if offer.commit_hash != weight_set.revision:
        what = (
            f"names revision {offer.commit_hash}" if offer.commit_hash else "does not name a revision (X-Repo-Commit)"
        )
        raise WeightsError(
            f"{constants.ENDPOINT} was asked for {weight_set.repo} at {weight_set.revision} and {what}.",
            "A proxy or mirror may be in the way: check HF_ENDPOINT and the proxy settings.",
        )
    if offer.size is not None and offer.size != weight_set.size_bytes:
        raise WeightsError(
            f"{weight_set.file} of {weight_set.repo} has {offer.size} bytes on the hub, not the "
            f"{weight_set.size_bytes} of the manifest; it was not fetched.",
            "Update the package, or check HF_ENDPOINT.",
        )


def _fetch(weight_set: WeightSet) -> Path:
    from huggingface_hub import hf_hub_download

    with _no_endless_retries():
        return Path(hf_hub_download(_repo(weight_set), weight_set.file, revision=weight_set.revision, **AGENT))


class _NoProgressError(Exception):
    """The same bytes were asked for more than twice."""


@contextmanager
def _no_endless_retries() -> Iterator[None]:
    """End a transfer that asks for the same bytes a third time.

    A transfer that got further asks from another byte on (the Range header), so a slow or shaky line is never cut off.
    """
    from huggingface_hub import get_session

    asked: list[tuple[str, str]] = []

    def count(request: Any) -> None:
        question = (str(request.url), request.headers.get("Range", ""))
        asked.append(question)
        if request.method == "GET" and asked.count(question) > 2:
            raise _NoProgressError

    hooks = get_session().event_hooks["request"]
    hooks.append(count)
    try:
        yield
    finally:
        hooks.remove(count)


def _explained(error: Exception, place: str, status: int | None) -> WeightsError:
    """Say what an error of the client means and what to do."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(f"{hub} does not have {place}: no such revision.", "Update the package.")
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return WeightsError(f"{hub} does not have {place}: no such file.", "Update the package.")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return WeightsError(
            f"{hub} does not give {place}: no such repository, or a private or gated one.",
            "If you may read it, log in with `hf auth login` or set HF_TOKEN.",
        )
    if status is not None:
        return WeightsError(f"{hub} answered {status} for {place}, {TRIES} times.", "Try again later.")
    if isinstance(error, _NoProgressError):
        return WeightsError(f"{hub} stopped sending {place}.", "Try again later; nothing was kept.")
    # the client says so when a transfer ends with another size than announced
    if match := re.search(r"should be of size (\d+) but has size (\d+)", str(error)):
        want, have = match.groups()
        return WeightsError(f"{hub} sent {have} of the {want} bytes of {place}.", "Try again; nothing was kept.")
    if isinstance(error, OSError) and error.errno and error.filename:
        return WeightsError(f"{error.filename} cannot be written ({error.strerror}).", "Set HF_HOME to another folder.")
    detail = " ".join(str(error).split())[:200] or "no answer in time"
    return WeightsError(
        f"{place} could not be fetched from {hub} ({type(error).__name__}: {detail}).",
        "Check the connection and proxy settings, or give a file with --weights FILE.",
    )


def _repo(weight_set: WeightSet) -> str:
    assert weight_set.repo is not None, "the manifest gives every hub set a repository"  # noqa: S101
    return weight_set.repo


def _pin(weight_set: WeightSet) -> str:
    assert weight_set.revision is not None, "the manifest pins every hub set"  # noqa: S101
    return weight_set.revision
