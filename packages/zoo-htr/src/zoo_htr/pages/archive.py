"""Zip archives, as eScriptorium and Transkribus export documents: unpacked into a folder, safely.

Nothing is written outside of that folder, no link is followed, sizes are counted while they are written (what an
archive says of itself is not believed), and only pictures, PDFs, XML and texts leave it.
"""

from __future__ import annotations

import errno
import glob
import io
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from zoo_core.errors import InputError, ZooError
from zoo_core.io.images import SUFFIXES
from zoo_core.io.inputs import MAX_BYTES, Source, expand

MAX_FILES = 50_000
MAX_TOTAL_BYTES = 16 * 2**30
INPUTS = SUFFIXES | {".xml", ".pdf"}
_STEP = 1 << 20
_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # the second is of an empty archive
_KIND_SHIFT, _FILE = 28, 0o10  # where Unix keeps what a member is; a plain file
_ITSELF = "Unpack it yourself and name the folder."


def is_zip(source: Source) -> bool:
    """Whether a file is a zip archive, by its content."""
    return source.head(4) in _MAGIC


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Path, list[ZooError]]]:
    """Give the folder with the files of an archive, as long as the context lasts, and what is wrong with some of them.

    Of anything else it gives the path itself.

    Raises:
        InputError: see `unpack`.
    """
    source = Source(str(path), path)
    if not path.is_file() or not is_zip(source):
        yield path, []
        return
    with TemporaryDirectory(prefix="zoo-") as place:
        folder = Path(place) / source.stem
        found = unpack(source, folder, suffixes=INPUTS | {".txt"})
        yield folder, [given.problem for given in found if given.problem is not None]


def unpack(source: Source, folder: Path, *, suffixes: Collection[str] = INPUTS) -> list[Source]:
    """Unpack the files of an archive that have these extensions; the others, hidden ones and links stay in it.

    Args:
        source: the archive.
        folder: a new one, which it is unpacked into.
        suffixes: lower-case extensions with their dot.

    Returns:
        the files in natural order of their names, which begin with the archive's; a damaged, encrypted or too large one
        has a problem, so that the others go on.

    Raises:
        InputError: no zip archive, a member that leads out of the folder, too many or too large files, or none of use.
        ZooError: the disk is full.
    """
    folder.mkdir(parents=True)
    problems: list[Source] = []
    budget = MAX_TOTAL_BYTES
    with _opened(source) as archive:
        # not is_dir(), which fails on a name of no characters
        members = [member for member in archive.infolist() if not member.filename.endswith("/")]
        if len(members) > MAX_FILES:
            raise InputError(f"{source.name} holds {len(members)} files; the limit is {MAX_FILES}.", _ITSELF)
        for member, inside in [(member, _inside(source, member)) for member in members]:
            if inside.suffix.lower() not in suffixes or _is_aside(member, inside):
                continue
            try:
                budget -= _write(archive, member, folder / inside, budget)
            except InputError as error:
                problems.append(Source(f"{source.name}/{inside}", problem=error, named=False))
            if budget < 0:
                raise InputError(
                    f"{source.name} holds more than {MAX_TOTAL_BYTES >> 30} GiB of pictures and XML.", _ITSELF
                )
    found = [
        Source(f"{source.name}/{given.path.relative_to(folder).as_posix()}", given.path, named=False)
        for given in expand([f"{glob.escape(str(folder))}/**/*"], suffixes=suffixes)
        if given.path is not None
    ]
    if not found and not problems:
        raise InputError(f"{source.name} holds no picture, PDF or XML.", "Give an export with pictures and their XML.")
    return found + problems


@contextmanager
def _opened(source: Source) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(source.path if source.path is not None else io.BytesIO(source.read_bytes()))
    except ZooError:
        raise
    except Exception as error:  # zipfile raises many kinds on what is damaged
        raise InputError(
            f"{source.name} cannot be opened as a zip archive ({error}).", "It is truncated or damaged: copy it again."
        ) from error
    with archive:
        yield archive


def _inside(source: Source, member: zipfile.ZipInfo) -> PurePosixPath:
    """Return where a member lies in its archive; Windows writes backslashes."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if not path.name or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise InputError(
            f"{source.name} holds a file that leads out of the folder: {member.filename!r}.",
            "It is no export; trust nothing in it.",
        )
    return path


def _is_aside(member: zipfile.ZipInfo, inside: PurePosixPath) -> bool:
    """Whether a member is hidden (as what macOS adds is), a link or a device."""
    kind = member.external_attr >> _KIND_SHIFT & 0o17
    return any(part.startswith((".", "__MACOSX")) for part in inside.parts) or kind not in {0, _FILE}


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, budget: int) -> int:
    """Write one member and return its bytes, at most a step more than `budget`.

    Raises:
        InputError: it cannot be unpacked.
        ZooError: the disk is full.
    """
    name = f"{member.filename} in {Path(archive.filename or 'the archive').name}"
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as packed, path.open("xb") as file:
            while (step := packed.read(_STEP)) and written <= budget:
                written += file.write(step)
                if written > MAX_BYTES:
                    raise InputError(f"{name} has more than {MAX_BYTES} bytes.", "Cut it into parts.")
        return written
    except Exception as error:  # as above; what was written of it goes
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ZooError(
                f"{name} cannot be unpacked: the disk is full.", "Set TMPDIR to a folder with more room."
            ) from error
        if not isinstance(error, FileExistsError):
            with suppress(OSError):
                path.unlink()
        if isinstance(error, InputError):
            raise
        reason = "there are two of that name" if isinstance(error, FileExistsError) else str(error)
        raise InputError(f"{name} cannot be unpacked ({reason}).", "Pack it again, without a password.") from error
