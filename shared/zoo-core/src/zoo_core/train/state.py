"""Checkpoints: folders `step-00001234` that are whole or not there.

Tensors are safetensors files, the rest is `state.json`; nothing is ever pickled. A folder is written under another
name, every file is synced, `checksums.json` comes last, and a rename makes it a checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo_core.errors import InputError, ZooError

PREFIX = "step-"
PARTIAL = ".partial-"
CHECKSUMS = "checksums.json"
STATE = "state.json"

Groups = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps.

    Attributes:
        step: steps done.
        groups: tensors by file (`model`, `ema`, `optimizer`) and name, on the CPU.
        data: everything else, JSON-able.
    """

    step: int
    groups: Groups
    data: dict[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint into `folder`, whole or not at all, then drop all but the `keep` newest.

    Raises:
        ZooError: it cannot be written (disk full, say); earlier checkpoints are untouched.
    """
    target = folder / f"{PREFIX}{checkpoint.step:08d}"
    partial = folder / f"{PARTIAL}{checkpoint.step:08d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in checkpoint.groups.items():
            # copies: safetensors refuses tensors that share memory
            save_file(
                {k: t.detach().to("cpu", copy=True).contiguous() for k, t in tensors.items()},
                partial / f"{name}.safetensors",
            )
        _write(partial / STATE, json.dumps({"step": checkpoint.step, **checkpoint.data}))
        sums = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
        for name in sums:
            _sync(partial / name)
        _write(partial / CHECKSUMS, json.dumps(sums, indent=1))
        _sync(partial / CHECKSUMS)
        _sync(partial)
        if target.exists():  # left damaged by an earlier session, else the run would have resumed from it
            shutil.rmtree(target)
        partial.rename(target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        kept = existing(folder)
        raise ZooError(
            f"{target}: the checkpoint cannot be written ({_reason(error)}).",
            ("Free some space and resume" if _is_space(error) else "Resume when the folder is writable")
            + (f": {kept[0].name} is intact." if kept else "; there is no earlier checkpoint."),
        ) from error
    for old in existing(folder)[keep:]:
        # renamed first: a half-deleted folder must not look like a damaged checkpoint
        doomed = old.with_name(f"{PARTIAL}old-{old.name}")
        old.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return target


def existing(folder: Path) -> list[Path]:
    """Return the checkpoint folders in `folder`, newest first, damaged ones included."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.startswith(PREFIX)), reverse=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder and verify every byte.

    Raises:
        InputError: a file is missing, incomplete or changed; says which.
    """
    try:
        sums: dict[str, str] = json.loads((path / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no whole checkpoint: {CHECKSUMS} is missing or unreadable.") from error
    for name, expected in sums.items():
        file = path / name
        if Path(name).name != name or not file.is_file() or _sha256(file) != expected:
            raise InputError(f"{path} is damaged: {name} is missing or changed.")
    try:
        data = json.loads((path / STATE).read_text(encoding="utf-8"))
        groups = {Path(name).stem: load_file(path / name) for name in sums if name.endswith(".safetensors")}
        return Checkpoint(data.pop("step"), groups, data)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{path} is no checkpoint of ours ({error}).") from error


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written or half-deleted."""
    for path in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def whole_checkpoints(folder: Path) -> Iterator[Checkpoint | str]:
    """Yield, newest first, each checkpoint of `folder`, or what is wrong with it."""
    for path in existing(folder):
        try:
            yield read_checkpoint(path)
        except InputError as error:
            yield str(error)


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_space(error: BaseException) -> bool:
    number = getattr(error, "errno", None)
    # safetensors reports the operating system's number in its text alone
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        f"os error {n}" in str(error) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    )


def _reason(error: BaseException) -> str:
    if _is_space(error):
        return "no space left"
    return getattr(error, "strerror", None) or str(error)
