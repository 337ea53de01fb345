"""Which picture an XML file describes, and which XML file describes a picture."""

from __future__ import annotations

import ntpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from zoo_core.errors import InputError, UsageError
from zoo_core.io.images import SUFFIXES
from zoo_core.io.inputs import Source
from zoo_htr.pages.model import Kind
from zoo_htr.pages.read import kind_of, named_picture

# where exports keep their XML beside their pictures: Transkribus in page/ and alto/
XML_FOLDERS = ("", "page", "alto", "xml")
_PICTURE_FOLDERS = ("", "images", "img")
_DOUBLE = (".alto", ".page")  # as in letter.alto.xml


def stem_of(name: str) -> str:
    """Return a file's name without folder and extension, nor `.alto` or `.page` before that."""
    stem = Path(name).stem
    for ending in _DOUBLE:
        if stem.lower().endswith(ending) and len(stem) > len(ending):
            return stem[: -len(ending)]
    return stem


def picture_for(
    xml: Source, image_name: str, *, folder: Path | None = None, table: Mapping[str, str] | None = None
) -> tuple[Path, str | None]:
    """Find the picture of a page.

    In this order: what the table says; the name that the XML gives; a picture of that stem; one of the XML's own stem.
    Looked for in `folder`, or else beside the XML, in the folder above, and in `images` there.

    Args:
        xml: the file that describes the page.
        image_name: what it calls its picture: a name, a path of any system, a URL, or nothing.
        folder: where to look instead.
        table: names of XML files and the pictures that belong to them.

    Returns:
        the picture, and a remark if it was chosen among several.

    Raises:
        InputError: there is none.
    """
    folders = _folders(xml, folder)
    if table is not None and (given := table.get(Path(xml.name).name) or table.get(stem_of(xml.name))):
        for place in (Path(), *folders):
            if (place / given).is_file():
                return place / given, None
        raise InputError(f"{xml.name}: its picture {given} of --image-map does not exist.", "Correct the table.")
    # a name from another system or time; only its last part can be of use
    name = unquote(ntpath.basename(image_name.split("?")[0]))
    for place in folders:
        if name and (place / name).is_file():
            return place / name, None
    for stem in dict.fromkeys(filter(None, (Path(name).stem, stem_of(xml.name)))):
        for place in folders:
            found = _of_stem(place, stem)
            if found:
                several = len(found) > 1
                return found[0], (f"several pictures are called {stem}: {found[0].name} is used" if several else None)
    looked = ", ".join(str(place) for place in folders) or "no folder"
    said = f" ({image_name!r} in the XML)" if image_name else ""
    raise InputError(
        f"{xml.name}: its picture{said} was not found in {looked}.", "Say where it is with --image-dir or --image-map."
    )


def described_by(xml: Path) -> Path | None:
    """Return the picture beside an XML file or in the folder above that it describes: by its stem, or as it says."""
    source = Source(str(xml), xml)
    if kind_of(source) is None:
        return None
    name = ntpath.basename(named_picture(source))
    for folder in (xml.parent, xml.parent.parent):
        for suffix in sorted(SUFFIXES):
            picture = folder / (xml.name.partition(".")[0] + suffix)
            if picture.is_file() and xml_for(picture) is not None:
                return picture
        if name and Path(name).suffix.lower() in SUFFIXES and (folder / name).is_file():
            return folder / name
    return None


def xml_for(picture: Path) -> Path | None:
    """Return the ALTO or PAGE file that lies with a picture, None if there is none."""
    for name in _xml_names(picture):
        if name.is_file() and kind_of(Source(str(name), name)) is not None:
            return name
    return None


def twins(files: Sequence[Path], *, prefer: Kind | None = None) -> list[Path]:
    """Return the ALTO and PAGE files that describe what another one describes too, as exports in both formats do.

    These are of the same name in the same export: `page/1.xml` and `alto/1.xml`, or `1.page.xml` and `1.alto.xml`.

    Args:
        files: XML files, of any kinds.
        prefer: which format is kept; otherwise, and among equals, the first file in the order of `XML_FOLDERS`.
    """
    pages: dict[tuple[Path, str], list[tuple[bool, int, Path]]] = {}
    for path in files:
        kind = kind_of(Source(str(path), path))
        if kind is not None:
            aside = path.parent.name in XML_FOLDERS
            key = path.parent.parent if aside else path.parent, stem_of(path.name)
            rank = XML_FOLDERS.index(path.parent.name) if aside else 0
            pages.setdefault(key, []).append((kind != prefer, rank, path))
    return [path for same in pages.values() for *_, path in sorted(same)[1:]]


def read_table(path: Path) -> dict[str, str]:
    """Read the table of --image-map: in each line the name of an XML file, a tab, and its picture.

    Raises:
        UsageError: it cannot be read, or a line is not of that kind.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--image-map {path} cannot be read ({error}).", "Give a text file in UTF-8.") from error
    table = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            xml, tab, picture = line.partition("\t")
            if not tab or not picture.strip():
                raise UsageError(f"--image-map {path}, line {number} has no tab.", "Write: XML name, tab, picture.")
            table[xml.strip()] = picture.strip()
    return table


def _xml_names(picture: Path) -> Iterator[Path]:
    for folder in XML_FOLDERS:
        place = picture.parent / folder
        for name in (
            f"{picture.stem}.xml",
            f"{picture.stem}.alto.xml",
            f"{picture.stem}.page.xml",
            f"{picture.name}.xml",
        ):
            yield place / name


def _folders(xml: Source, folder: Path | None) -> list[Path]:
    if folder is not None:
        return [folder]
    if xml.path is None:
        return []
    beside = xml.path.parent
    places = [place / name for place in (beside, beside.absolute().parent) for name in _PICTURE_FOLDERS]
    return [place for place in places if place.is_dir()]


def _of_stem(folder: Path, stem: str) -> list[Path]:
    wanted = stem.casefold()
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.stem.casefold() == wanted)
    except OSError:
        return []
