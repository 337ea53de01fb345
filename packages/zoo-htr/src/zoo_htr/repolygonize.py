"""Judge the outlines of lines and mend bad ones: `python -m zoo_htr.repolygonize FILE... [-o FOLDER]`.

An outline is good if it holds the ink that belongs to its baseline, all of it and no other line's. Where it does not, a
new one is drawn around that ink. Baselines, texts, ids and all else in the files stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from zoo_core.cli import output
from zoo_core.cli.main import main
from zoo_core.errors import InputError, ZooError
from zoo_core.io.atomic import check_writable, whole
from zoo_core.io.inputs import Source, expand
from zoo_htr.finding.ink import is_light_on_dark
from zoo_htr.finding.quality import judge
from zoo_htr.options import MAX_PAGE_PIXELS
from zoo_htr.pages.document import open_document
from zoo_htr.pages.layout import lay_out, scaled, usual_distance
from zoo_htr.pages.model import PageFile, Points
from zoo_htr.pages.outline_write import with_outlines
from zoo_htr.pages.pairing import read_table
from zoo_htr.pages.read import kind_of

SCHEMA = "zoo.htr.repolygonize/1"
BELOW = 0.8  # hand-made and kraken's outlines on the pages of the packs have 0.9 and more, with few exceptions


@dataclass(frozen=True)
class LineQuality:
    """One line: how good its outline is, in [0, 1], and the new one's; None where nothing can be said or made."""

    file: str
    page: int
    line: str
    quality: float | None
    after: float | None


def examine(
    file: PageFile, pages: Iterator[tuple[int, Any, Any]], *, below: float
) -> tuple[list[LineQuality], dict[int, Points]]:
    """Judge the lines of a file.

    Args:
        file: as it was read.
        pages: number from 1, page and picture of each of its pages that has one.
        below: outlines of less quality get a new one, if a better one can be made.

    Returns:
        what there is to say of each line, and new outlines by the line's place, in the units of the file.
    """
    found: list[LineQuality] = []
    outlines: dict[int, Points] = {}
    for number, page, picture in pages:
        layout = lay_out(page, picture.size_px, picture.dpi)
        gray = 255 - picture.gray if is_light_on_dark(picture.gray) else picture.gray
        # as they stand in the file, not as reading would mend them; a made-up baseline is none to judge by
        own = [scaled(line.polygon, layout.scale) for line in page.lines]
        bases = [scaled(line.baseline, layout.scale) for line in page.lines]
        # of a line alone only its outline would tell, which is in question
        distance = usual_distance(layout.page.lines) if sum(map(bool, bases)) > 1 else None
        judged = judge(gray, own, bases, distance_px=distance)
        across, down = layout.scale
        for line, known in zip(page.lines, judged, strict=True):
            name = line.id or f"number {line.place + 1}"
            if known is None or known.quality >= below or not known.better:
                found.append(LineQuality(file.name, number, name, None if known is None else known.quality, None))
                continue
            outlines[line.place] = tuple((x / across, y / down) for x, y in known.better)
            found.append(LineQuality(file.name, number, name, known.quality, known.better_quality))
    return found, outlines


def mend(
    source: Source, *, below: float, folder: Path | None = None, table: dict[str, str] | None = None
) -> tuple[list[LineQuality], bytes]:
    """Judge the lines of an ALTO or PAGE file and return what was found, and the file with better outlines.

    Raises:
        InputError: it is no such file, or its picture cannot be used.
    """
    document = open_document(source, folder=folder, table=table, max_pixels=MAX_PAGE_PIXELS)
    if document.file is None:
        raise InputError(f"{source.name} is no ALTO or PAGE file.", "Name the XML, not the picture.")
    jobs = ((number, job.page, job.load()) for number, job in enumerate(document.pages, start=1))
    found, outlines = examine(document.file, jobs, below=below)
    return found, with_outlines(document.file, outlines)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Folder for the mended files.")
@click.option(
    "--below", type=click.FloatRange(0, 1), default=BELOW, show_default=True, help="Quality that needs mending."
)
@click.option("--image-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of the pictures.")
@click.option("--image-map", type=click.Path(path_type=Path, dir_okay=False), help="Table: XML name, tab, picture.")
@click.option("--overwrite", is_flag=True, help="Replace files in the folder.")
@output.format_option
def command(
    inputs: tuple[str, ...],
    *,
    target: Path | None,
    below: float,
    image_dir: Path | None,
    image_map: Path | None,
    overwrite: bool,
    out: output.Output,
) -> None:
    """Say which lines of the ALTO and PAGE files FILE (or folders of them) have bad outlines; with -o, mend them."""
    table = read_table(image_map) if image_map else None
    if target is not None:
        check_writable(target)
    sources = [s for s in expand(inputs, suffixes={".xml"}) if s.named or s.problem or kind_of(s) is not None]
    found: list[LineQuality] = []
    failed = 0
    for source in sources:
        try:
            lines, data = mend(source, below=below, folder=image_dir, table=table)
            found += lines
            if target is not None:
                with whole(target / Path(source.name).name, overwrite=overwrite) as aside:
                    aside.write_bytes(data)
        except ZooError as error:
            failed += 1
            output.problem(error)
    rows = [_row(line) for line in found if out.is_json or line.quality is None or line.quality < below]
    columns = {key: (lambda row, key=key: _shown(row[key])) for key in ("file", "page", "line", "quality", "after")}
    out.table(SCHEMA, rows, columns, right=["page", "quality", "after"])
    bad = sum(line.quality is not None and line.quality < below for line in found)
    mended = sum(line.after is not None for line in found)
    done = f"{mended} mended" if target is not None else f"{mended} can be mended with -o"
    output.note(f"{len(found)} lines, {bad} with a quality below {below:g}, {done}")
    if failed:
        raise SystemExit(InputError.exit_code)


def _row(line: LineQuality) -> dict[str, Any]:
    return {
        "file": Path(line.file).name,
        "page": line.page,
        "line": line.line,
        "quality": None if line.quality is None else round(line.quality, 3),
        "after": None if line.after is None else round(line.after, 3),
    }


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(command=command, name="python -m zoo_htr.repolygonize")
