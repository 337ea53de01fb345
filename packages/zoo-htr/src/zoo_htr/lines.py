"""Lines with their text, from everything that people keep them in: ALTO and PAGE with pictures, pairs, PyLaia lists."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo_core.errors import InputError, ZooError
from zoo_core.io.images import MAX_PIXELS, SUFFIXES
from zoo_core.io.inputs import Source
from zoo_htr.cutting import MAX_HEIGHT_PX, MAX_WIDTH_PX, Cut, cut, uncut
from zoo_htr.pages.archive import is_zip, unpacked
from zoo_htr.pages.document import open_document
from zoo_htr.pages.layout import lay_out
from zoo_htr.pages.pairing import XML_FOLDERS, twins
from zoo_htr.pages.pictures import pictures
from zoo_htr.pages.read import kind_of

TRUTH = ".gt.txt"
_SPACE = "<space>"


@dataclass(frozen=True, eq=False)
class CutLine:
    """One line and what is written on it.

    Args:
        cut: its picture and how it was cut.
        text: as the file has it.
        document: name of the folder.
        page: stem of the page's picture, or of the line's own.
        line: its number in the XML, or 0.
        language: as the file names it.
        source: the file.
    """

    cut: Cut
    text: str
    document: str
    page: str
    line: int
    language: str
    source: str


@dataclass
class Tally:
    """What became of everything that was looked at: reasons, with the names of some that were left out."""

    used: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        """Take note that something was not used."""
        self.left_out.setdefault(reason, []).append(name)

    def notes(self) -> list[str]:
        """Return one sentence a reason."""
        return [
            f"{len(names)} left out, {reason}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
            for reason, names in self.left_out.items()
        ]


def read_lines(
    paths: Sequence[Path],
    tally: Tally,
    *,
    image_dir: Path | None = None,
    table: Mapping[str, str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[CutLine]:
    """Yield the lines of files and folders; what cannot be used is noted, and the rest goes on.

    Args:
        paths: ALTO or PAGE files; folders of them (also Transkribus exports, with `page` and a METS file), or of
            pictures with `.gt.txt` files; zip archives of such folders; PyLaia lists (`.txt`: a name and symbols in
            each line).
        tally: is told what was used and what not.
        image_dir: where pictures of XML files and of lists are.
        table: names of XML files and their pictures.
        max_pixels: of one picture.

    Raises:
        InputError: a path does not exist, or a folder holds nothing of these kinds.
    """
    for path in paths:
        if path.is_dir():
            yield from _of_folder(path, tally, image_dir, table, max_pixels)
        elif path.is_file() and is_zip(Source(str(path), path)):
            with unpacked(path) as (place, problems):
                for problem in problems:
                    tally.leave_out("damaged in its archive", problem.message.rstrip("."))
                for folder in _exports(place):
                    yield from _of_folder(folder, tally, image_dir, table, max_pixels)
        elif not path.is_file():
            raise InputError(f"{path} does not exist.", "Check the spelling of the path.")
        elif path.suffix.lower() == ".txt" and not path.name.endswith(TRUTH):
            yield from _of_list(path, tally, image_dir or path.parent, max_pixels)
        else:
            yield from _guarded(path, tally, image_dir, table, max_pixels)


def _exports(folder: Path) -> list[Path]:
    """Return the folders of an archive that hold XML, in their own folders for it or directly, or pairs."""
    found = [path.parent for pattern in ("*.xml", f"*{TRUTH}") for path in folder.rglob(pattern)]
    places = {place.parent if place.name in XML_FOLDERS and place != folder else place for place in found}
    if not places:
        raise InputError(f"{folder.name}.zip holds neither XML nor {TRUTH} files.", "Name an export or pairs.")
    return sorted(places)


def _of_folder(
    folder: Path, tally: Tally, image_dir: Path | None, table: Mapping[str, str] | None, max_pixels: int
) -> Iterator[CutLine]:
    files = sorted(p for name in XML_FOLDERS if (folder / name).is_dir() for p in (folder / name).glob("*.xml"))
    pairs = sorted(p for p in folder.iterdir() if p.name.endswith(TRUTH))
    if not files and not pairs:
        raise InputError(
            f"{folder} holds neither XML nor {TRUTH} files.", "Name the folder of an export, or files themselves."
        )
    again = set(twins(files))
    for path in files:
        if path in again:
            tally.leave_out("pages that are there in another format too", path.name)
        elif kind_of(Source(str(path), path)) is None:
            tally.leave_out("neither ALTO nor PAGE", path.name)
        else:
            yield from _guarded(path, tally, image_dir, table, max_pixels)
    for path in pairs:
        stem = path.name.removesuffix(TRUTH)
        try:
            text = path.read_text(encoding="utf-8-sig").strip("\r\n")
        except (OSError, UnicodeDecodeError):
            tally.leave_out("not text in UTF-8", path.name)
            continue
        yield from _whole_picture(_pictures_of(folder, stem), text, folder.name, stem, path, tally, max_pixels)


def _guarded(
    path: Path, tally: Tally, image_dir: Path | None, table: Mapping[str, str] | None, max_pixels: int
) -> Iterator[CutLine]:
    try:
        yield from _of_pages(path, tally, image_dir, table, max_pixels)
    except ZooError as error:
        tally.leave_out(error.message.rstrip("."), path.name)


def _of_pages(
    path: Path, tally: Tally, image_dir: Path | None, table: Mapping[str, str] | None, max_pixels: int
) -> Iterator[CutLine]:
    document = open_document(Source(str(path), path), folder=image_dir, table=table, max_pixels=max_pixels)
    if document.file is None:
        raise InputError(f"{path.name} has no ALTO or PAGE file with it.", "Give a folder of pairs, or XML.")
    for job in document.pages:
        assert job.page is not None  # noqa: S101 - there is a file
        picture = job.load()
        layout = lay_out(job.page, picture.size_px, picture.dpi)
        for line in layout.page.lines:
            name = f"{path.name}, {line.id or line.place}"
            if not (line.text or "").strip():
                tally.leave_out("without text", name)
                continue
            if not line.polygon:
                tally.leave_out("without a place on the page", name)
                continue
            try:
                made = cut(picture.gray, line.polygon, line.baseline)
            except InputError:
                tally.leave_out("too small", name)
                continue
            if made.box_px[0] > MAX_WIDTH_PX or made.box_px[1] > MAX_HEIGHT_PX:
                tally.leave_out("too large for a line", name)
                continue
            tally.used += 1
            folder = path.parent.parent if path.parent.name in XML_FOLDERS else path.parent
            stem = Path(job.image_name).stem
            yield CutLine(made, line.text or "", folder.name, stem, line.place, line.language, path.name)


def listed(path: Path, folder: Path) -> Iterator[tuple[str, list[Path], str]]:
    """Yield the entries of a PyLaia list: stem, pictures of that stem, text.

    A row is a name and symbols, parted by blanks; a blank itself is `<space>`.

    Args:
        path: the list.
        folder: where its pictures are.

    Raises:
        InputError: it is not text in UTF-8.
    """
    try:
        rows = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not text in UTF-8 ({error}).", "Name a list of PyLaia.") from error
    for row in rows:
        name, _, rest = row.strip().partition(" ")
        if not name:
            continue
        stem = Path(name).stem if Path(name).suffix.lower() in SUFFIXES else Path(name).name
        place = folder / Path(name).parent
        yield stem, _pictures_of(place, stem) if place.is_dir() else [], symbols_to_text(rest)


def _of_list(path: Path, tally: Tally, folder: Path, max_pixels: int) -> Iterator[CutLine]:
    for stem, found, text in listed(path, folder):
        yield from _whole_picture(found, text, path.stem, stem, path, tally, max_pixels)


def symbols_to_text(symbols: str) -> str:
    """Return the text of PyLaia's symbols; plain text, which has longer parts, stays as it is."""
    parts = symbols.split()
    if _SPACE not in parts and any(len(part) > 1 and not re.fullmatch(r"<.+>", part) for part in parts):
        return symbols
    return "".join(" " if part == _SPACE else part for part in parts)


def text_to_symbols(text: str) -> str:
    """Return a text as PyLaia's symbols."""
    return " ".join(_SPACE if char == " " else char for char in text)


def _whole_picture(
    found: Sequence[Path], text: str, document: str, stem: str, source: Path, tally: Tally, max_pixels: int
) -> Iterator[CutLine]:
    if not found:
        tally.leave_out("without its picture", stem)
        return
    if not text.strip():
        tally.leave_out("without text", stem)
        return
    try:
        picture = pictures(Source(str(found[0]), found[0]), max_pixels=max_pixels)[0]()
    except ZooError as error:
        tally.leave_out(error.message.rstrip("."), stem)
        return
    tally.used += 1
    yield CutLine(uncut(picture.gray), text, document, stem, 0, "", source.name)


def _pictures_of(folder: Path, stem: str) -> list[Path]:
    return [path for suffix in sorted(SUFFIXES) if (path := folder / f"{stem}{suffix}").is_file()]
