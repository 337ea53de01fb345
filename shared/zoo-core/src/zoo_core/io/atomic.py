"""Whole-or-nothing files: a reader sees all of a file or none of it, also when the writer is killed with -9."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo_core.errors import InputError, ZooError

_LEFTOVER = ".zoo-*.part"
_LEFTOVER_AGE_SECONDS = 24 * 3600


@contextmanager
def whole(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a file aside, in the same folder, and give it its name when it is complete and on the disk.

    Args:
        path: the name that the file gets at the end; its folder is made if it is missing.
        overwrite: whether an existing file is replaced; without it that is an error, also if it appears meanwhile.

    Yields:
        the path to write to; it exists and is empty. If the block raises, it is removed and `path` stays as it was.

    Raises:
        InputError: `path` exists and `overwrite` is off, or it is a folder.
        ZooError: the folder cannot be written to, or the disk is full.
    """
    make_folder(path.parent)
    if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises for a name that is too long)
        raise InputError(f"{path} is a folder; a file cannot be written there.", "Choose another output name.")
    if not overwrite and os.path.lexists(path):
        raise _exists(path)
    # a short name of its own: it fits where the final name fits, and no pattern of results matches it
    aside = path.parent / f".zoo-{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        # by os.open, because the umask then decides who may read the result (mkstemp makes files private)
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield aside
        _sync(aside)
        if overwrite:
            aside.replace(path)
        else:
            _rename_unless_exists(aside, path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """The same for a folder of files: fill it aside, and give it its name when it is complete.

    Args:
        path: the name that the folder gets.
        overwrite: whether an existing folder is replaced.

    Yields:
        an empty folder to write to.

    Raises:
        InputError: `path` exists and `overwrite` is off, or it is a file.
        ZooError: the folder above cannot be written to, or the disk is full.
    """
    make_folder(path.parent)
    if os.path.lexists(path) and not (overwrite and path.is_dir()):
        raise _exists(path)
    aside = path.parent / f".zoo-{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        aside.mkdir()
        yield aside
        for file in aside.iterdir():
            _sync(file)
        if path.is_dir():
            shutil.rmtree(path)
        aside.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder for results, with its parents.

    Raises:
        ZooError: a file is in the way, or it may not be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZooError(
            f"The folder {folder} cannot be made ({_reason(error)}).", "Choose another folder with -o."
        ) from error


def check_writable(folder: Path) -> None:
    """Make a folder for results and try it out, so that a long run does not end with nothing.

    Raises:
        ZooError: it cannot be made or written to.
    """
    make_folder(folder)
    probe = folder / f".zoo-{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ZooError(
            f"The folder {folder} cannot be written to ({_reason(error)}).", "Choose another folder with -o."
        ) from error


def remove_leftovers(folder: Path) -> int:
    """Remove what killed processes left half-written in a folder, and return how many files that were.

    Only what has this module's own naming and is a day old: a younger one may belong to a running process.
    """
    removed = 0
    for path in folder.glob(_LEFTOVER):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_AGE_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += 1
    return removed


def _rename_unless_exists(aside: Path, path: Path) -> None:
    """Rename without replacing: a hard link is refused by the system if the name is taken, a rename is not."""
    try:
        os.link(aside, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        # file systems without hard links (FAT, some network drives): a small window remains
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EMLINK}:
            raise
        if os.path.lexists(path):
            raise _exists(path) from error
        aside.rename(path)


def _sync(path: Path) -> None:
    """Wait until a file, or the list of names of a folder, is on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():  # Windows does not open folders
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:  # not every file system can
            raise
    finally:
        os.close(handle)


def _exists(path: Path) -> InputError:
    return InputError(f"{path} exists already.", "Give --overwrite to replace it or --skip-existing to keep it.")


def _cannot_write(path: Path, error: OSError) -> ZooError:
    if error.errno == errno.ENOSPC:
        return ZooError(f"{path} cannot be written: the disk is full.", "Free some space or choose another folder.")
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"The output name {path.name[:40]}... is too long for the file system.", "Shorten the name.")
    return ZooError(f"{path} cannot be written ({_reason(error)}).", "Choose another folder with -o.")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
