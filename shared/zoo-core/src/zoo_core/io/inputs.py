"""What a user names as input: files, folders, globs (also quoted, as Windows shells leave them) and `-` for stdin."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from zoo_core.errors import InputError

STDIN = "-"
MAX_BYTES = 2**31  # of one input: no picture, page or table of ours is larger, and stdin may never end


@dataclass(frozen=True)
class Source:
    """One input: a file, bytes that are already here, or a name for which there is nothing (`problem` says why).

    Args:
        name: what messages call it.
        path: the file, if it is one.
        data: the content, if it is here already (stdin, or a call from Python).
        problem: why it cannot be used; raised by `read_bytes`.
        named: whether the user named this very file (False: it was found in a folder or by a glob).
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    problem: InputError | None = None
    named: bool = True

    @property
    def stem(self) -> str:
        """The name without folder and extension: what results are named after."""
        return Path(self.name).stem or "input"

    def read_bytes(self, limit_bytes: int = MAX_BYTES) -> bytes:
        """Return the content.

        Args:
            limit_bytes: longer content is refused before it is read.

        Raises:
            InputError: there is none, it is empty, a folder, unreadable or too long.
        """
        if self.problem is not None:
            raise self.problem
        data = self.data if self.data is not None else self._from_file(limit_bytes)
        if not data:
            raise InputError(f"{self.name} is empty (0 bytes).", "Copy or download it again.")
        return data

    def head(self, count: int = 64) -> bytes:
        """Return the first bytes, enough to tell the format; nothing if it cannot be read."""
        if self.data is not None:
            return self.data[:count]
        try:
            with open(self.path or os.devnull, "rb") as file:  # noqa: PTH123 (path may be None)
                return file.read(count)
        except OSError:
            return b""

    def _from_file(self, limit_bytes: int) -> bytes:
        if self.path is None:
            raise InputError(f"{self.name} has no content.")
        try:
            if self.path.is_dir():
                raise InputError(f"{self.path} is a folder, not a file.", "Name a file, or the folder as an input.")
            size = self.path.stat().st_size
            if size > limit_bytes:
                raise InputError(f"{self.path} has {size} bytes; the limit is {limit_bytes}.", "Cut it into parts.")
            return self.path.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{self.path} does not exist.", "Check the spelling of the path.") from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{self.path} cannot be read ({reason}).", "Check its permissions.") from error


def expand(arguments: Iterable[str | os.PathLike[str]], *, suffixes: Collection[str]) -> list[Source]:
    """Turn what the user named into inputs, in the given order, each file once.

    A folder gives the files directly in it (one level; `folder/**` reaches deeper) whose extension is in `suffixes`, in
    natural order (`2.png` before `10.png`), hidden ones left out. A glob gives what it matches, by the same rules. A
    file that is named is taken whatever its extension: its content decides. Nothing here raises: what cannot be used
    becomes a Source with a problem, so that the others go on.

    Args:
        arguments: paths, globs, or `-`.
        suffixes: lower-case extensions with their dot, such as `{".png", ".jpg"}`.
    """
    found: list[Source] = []
    for argument in arguments:
        text = os.fspath(argument)
        path = Path(text)
        if text == STDIN:
            found.append(_stdin())
        elif os.path.isdir(text):  # noqa: PTH112 (Path.is_dir raises for a name that is too long)
            found += _in_folder(path, suffixes)
        elif not os.path.lexists(path) and glob.has_magic(text):
            found += _matching(text, suffixes)
        else:
            found.append(Source(text, path))
    return _each_once(found)


def _stdin() -> Source:
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except (OSError, AttributeError, ValueError) as error:
        return Source("stdin", problem=InputError(f"stdin cannot be read ({error}).", "Name a file."))
    if len(data) > MAX_BYTES:
        return Source("stdin", problem=InputError(f"stdin has more than {MAX_BYTES} bytes.", "Name a file."))
    return Source("stdin", data=data)


def _in_folder(folder: Path, suffixes: Collection[str]) -> list[Source]:
    try:
        paths = [p for p in folder.iterdir() if _is_wanted(p, suffixes)]
    except OSError as error:
        problem = InputError(f"The folder {folder} cannot be read ({error.strerror}).", "Check its permissions.")
        return [Source(str(folder), problem=problem)]
    if not paths:
        kinds = ", ".join(sorted(suffixes))
        problem = InputError(f"The folder {folder} holds no file of a known kind ({kinds}).", "Name files or a glob.")
        return [Source(str(folder), problem=problem)]
    return [Source(str(path), path, named=False) for path in sorted(paths, key=_natural)]


def _matching(pattern: str, suffixes: Collection[str]) -> list[Source]:
    paths = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207 (the pattern may be absolute)
    # `*.png` says itself what it wants, `photos/*` means the pictures in there
    any_kind = bool(Path(pattern).suffix)
    hits = [path for path in paths if path.is_file() and (any_kind or _is_wanted(path, suffixes))]
    if not hits:
        return [Source(pattern, problem=InputError(f"No file matches {pattern}.", "Check the pattern."))]
    return [Source(str(path), path, named=False) for path in sorted(hits, key=_natural)]


def _is_wanted(path: Path, suffixes: Collection[str]) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in suffixes and path.is_file()


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that takes digits as numbers."""
    pieces = re.findall(r"\d+|\D+", str(path))
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def _each_once(sources: list[Source]) -> list[Source]:
    seen: set[Path] = set()
    kept = []
    for source in sources:
        if source.path is not None:
            place = Path(os.path.realpath(source.path))
            if place in seen:
                continue
            seen.add(place)
        kept.append(source)
    return kept
