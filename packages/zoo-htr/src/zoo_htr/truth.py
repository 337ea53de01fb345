"""Lines with their true text, for evaluation: from packs, pairs of files, or ALTO and PAGE with their pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo_core.errors import InputError
from zoo_core.io.images import SUFFIXES, read_image
from zoo_core.io.inputs import Source
from zoo_core.io.packs import open_pack
from zoo_htr.alphabet import normal
from zoo_htr.normalise import Pixels

TRUTH = ".gt.txt"
COLUMNS = ("corpus", "writer", "document", "page")


@dataclass(frozen=True, eq=False)
class TrueLine:
    """One line.

    Args:
        name: for messages and tables.
        text: what stands there, normal.
        picture: the bytes of an image file, or pixels (h, w) uint8.
        corpus: where it is from.
        writer: whose hand; may be empty.
        document: what it is a part of; may be empty.
    """

    name: str
    text: str
    picture: bytes | Pixels
    corpus: str = ""
    writer: str = ""
    document: str = ""

    def pixels(self) -> Pixels:
        """Return the picture as (h, w) uint8.

        Raises:
            InputError: it cannot be read.
        """
        if isinstance(self.picture, bytes):
            from zoo_htr.pages.pictures import as_gray

            return as_gray(read_image(Source(self.name, data=self.picture)).frames[0])
        return self.picture

    @property
    def page(self) -> str:
        """What the line shares its language with: its document, else its writer, else its corpus."""
        return f"{self.corpus}/{self.document or self.writer}"


def true_lines(path: Path, *, limit: int | None = None) -> Iterator[TrueLine]:
    """Read the lines of a pack, a folder or an XML file.

    Args:
        path: a parquet file or a folder in the form of a pack, with the columns image and text, and perhaps corpus,
            writer, document and page; a folder of pairs `a.png` and `a.gt.txt`; a folder of ALTO or PAGE files with
            their pictures, or one such file; a zip archive of such a folder; or a list of PyLaia (`.txt`) beside its
            pictures.
        limit: stop after so many.

    Raises:
        InputError: nothing of the kind is there, or a file is damaged.
    """
    found = 0
    for line in _all(path):
        if limit is not None and found >= limit:
            return
        found += 1
        yield line
    if not found:
        raise InputError(f"{path} holds no lines with text.", "Give a pack, pairs a.png and a.gt.txt, ALTO or PAGE.")


def _all(path: Path) -> Iterator[TrueLine]:
    from zoo_htr.pages.archive import unpacked

    with unpacked(path) as (place, problems):
        if problems:
            raise problems[0]
        yield from _of_path(place)


def _of_path(path: Path) -> Iterator[TrueLine]:
    if path.is_file() and path.suffix.lower() == ".xml":
        yield from _of_xml(path)
        return
    if path.is_file() and path.suffix.lower() == ".txt":
        yield from _of_list(path)
        return
    if path.is_dir():
        truths = sorted(path.rglob(f"*{TRUTH}"))
        if truths:
            yield from (_pair(truth, path) for truth in truths)
            return
        from zoo_htr.pages.pairing import twins

        files = sorted(path.rglob("*.xml"))
        again = set(twins(files))
        if files:
            yield from (line for file in files if file not in again for line in _of_xml(file))
            return
    pack = open_pack(path, plain_column="image", suffixes=SUFFIXES | {".txt"})
    columns = [column for column in COLUMNS if column in pack.columns]
    for index, row in enumerate(pack.examples(["image", "text", *columns])):
        yield _row(row, index, pack.name)


def _row(row: dict[str, Any], index: int, pack: str) -> TrueLine:
    name = f"{row.get('page') or pack}:{row['name']}"
    if not isinstance(row["image"], bytes) or not isinstance(row["text"], str):
        raise InputError(f"{name} (row {index}): image is bytes and text is text.", "Look at the pack's columns.")
    corpus, writer, document = (str(row.get(key) or "") for key in ("corpus", "writer", "document"))
    return TrueLine(name, normal(row["text"]), row["image"], corpus, writer, document or str(row.get("page") or ""))


def _pair(truth: Path, folder: Path) -> TrueLine:
    """Read a pair; the folder that it lies in, below the given one, counts as its document."""
    stem = truth.name.removesuffix(TRUTH)
    pictures = [place for suffix in sorted(SUFFIXES) if (place := truth.with_name(stem + suffix)).is_file()]
    if len(pictures) != 1:
        raise InputError(f"{truth} has {len(pictures)} pictures of its name.", "A pair is a.png and a.gt.txt.")
    try:
        text, picture = truth.read_text(encoding="utf-8-sig"), pictures[0].read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{truth} cannot be read ({error}).", "Check its permissions and encoding.") from error
    document = truth.parent.relative_to(folder).as_posix()
    return TrueLine(str(truth.relative_to(folder)), normal(text), picture, document=document if document != "." else "")


def _of_list(path: Path) -> Iterator[TrueLine]:
    from zoo_htr.lines import listed

    for stem, found, text in listed(path, path.parent):
        if len(found) != 1:
            raise InputError(f"{path}: {stem} has {len(found)} pictures of its name.", "Put the list beside them.")
        yield TrueLine(stem, normal(text), found[0].read_bytes(), document=path.stem)


def _of_xml(path: Path) -> Iterator[TrueLine]:
    """Cut the lines that have a text out of the pages of an ALTO or PAGE file; other XML has none."""
    from zoo_htr.cutting import cut
    from zoo_htr.options import MAX_PAGE_PIXELS
    from zoo_htr.pages.document import open_document
    from zoo_htr.pages.layout import lay_out
    from zoo_htr.pages.read import kind_of

    source = Source(str(path), path)
    if kind_of(source) is None:
        return
    for job in open_document(source, max_pixels=MAX_PAGE_PIXELS).pages:
        if job.page is None or not any(line.text for line in job.page.lines):
            continue
        picture = job.load()
        for line in lay_out(job.page, picture.size_px, picture.dpi).page.lines:
            if not line.text:
                continue
            name = f"{path.name}:{line.id or line.place + 1}"
            if not line.polygon:
                raise InputError(f"{name} has a text but no place on the page.", "Give it a baseline or an outline.")
            yield TrueLine(
                name, normal(line.text), cut(picture.gray, line.polygon, line.baseline).image, document=path.stem
            )
