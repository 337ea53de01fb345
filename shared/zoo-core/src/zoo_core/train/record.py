"""The run record: what was trained, with what, from what, where, for how long, and what came out."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Status = Literal["finished", "time limit", "dry run", "cached"]


class RunRecord(BaseModel):
    """Written as `record.json` beside the weights; model cards and tables are made from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    status: Status
    recipe: dict[str, Any]
    recipe_hash: str
    seed: int
    data_fingerprint: str
    steps: int
    sessions: int
    seconds: float
    ended: str
    versions: dict[str, str]
    commit: str | None
    hardware: dict[str, Any]
    parameters: int
    metrics: dict[str, float]
    weights: dict[str, Any] | None = None
    identities: dict[str, str] = {}


def versions(*more: str) -> dict[str, str]:
    """Return the versions of python and of the packages that decide a run's result, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in ("torch", "lightning", "numpy", "zoo-core", *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of the checkout that this code runs from, `-dirty` if changed; None for an installed wheel.

    Where the checkout has no git folder (a copy on another machine), the variable ZOO_COMMIT says it.
    """
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("ZOO_COMMIT")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
