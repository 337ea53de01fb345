"""How many lines of pages a segmenter finds: `python -m zoo_htr.line_recall FOLDER` prints recall at IoU 0.5.

A line counts as found if the outline of a found one covers it with an intersection over union of 0.5 or more, each
found line for one. Precision counts against the XML, which often leaves lines out on purpose (margins, other hands,
stamps): it is a lower bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np

from zoo_core.cli import output
from zoo_core.cli.main import main
from zoo_core.errors import InputError
from zoo_core.io.images import MAX_PIXELS
from zoo_core.io.inputs import Source
from zoo_htr import kraken
from zoo_htr.finding import find_lines
from zoo_htr.pages.layout import lay_out
from zoo_htr.pages.model import Line, Page
from zoo_htr.pages.pairing import picture_for
from zoo_htr.pages.pictures import Gray, pictures
from zoo_htr.pages.read import kind_of, read_pages

SCHEMA = "zoo.htr.line-recall/1"
_COMPARED_PX = 1500  # longest side at which outlines are compared


@dataclass(frozen=True)
class Found:
    """One page: how many lines its XML has, how many the segmenter gave, how many of them agree."""

    name: str
    lines: int
    given: int
    matched: int
    seconds: float

    @property
    def recall(self) -> float:
        """Share of the XML's lines that were found."""
        return self.matched / self.lines if self.lines else 1.0

    @property
    def precision(self) -> float:
        """Share of the given lines that the XML has."""
        return self.matched / self.given if self.given else 1.0


def matches(truth: tuple[Line, ...], found: tuple[Line, ...], size_px: tuple[int, int], *, iou: float = 0.5) -> int:
    """Return how many lines agree one to one, the best pairs first."""
    scale = min(1.0, _COMPARED_PX / max(size_px))
    size = round(size_px[0] * scale) + 1, round(size_px[1] * scale) + 1
    left, right = ([_filled(line, scale, size) for line in lines] for lines in (truth, found))
    scores = []
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            joint = np.count_nonzero(a & b)
            if joint:
                scores.append((joint / np.count_nonzero(a | b), i, j))
    used: set[tuple[str, int]] = set()
    count = 0
    for score, i, j in sorted(scores, reverse=True):
        if score >= iou and not used & {("truth", i), ("found", j)}:
            used |= {("truth", i), ("found", j)}
            count += 1
    return count


def measure(folder: Path, find: Callable[[Gray], Page]) -> Iterator[Found]:
    """Yield for each XML file of a folder how its lines are found again; a picture described twice counts once."""
    seen = set()
    for path in sorted(folder.glob("*.xml")):
        source = Source(path.name, path)
        if kind_of(source) is None:
            continue
        file = read_pages(source)
        picture_path, _ = picture_for(Source(str(path), path), file.pages[0].image_name)
        if picture_path in seen:
            continue
        seen.add(picture_path)
        picture = pictures(Source(str(picture_path), picture_path), max_pixels=MAX_PIXELS)[0]()
        truth = [line for line in lay_out(file.pages[0], picture.size_px).page.lines if line.polygon]
        start = time.perf_counter()
        found = [line for line in lay_out(find(picture.gray), picture.size_px).page.lines if line.polygon]
        seconds = time.perf_counter() - start
        count = matches(tuple(truth), tuple(found), picture.size_px)
        yield Found(picture_path.stem, len(truth), len(found), count, seconds)


def _filled(line: Line, scale: float, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.rint(np.asarray(line.polygon) * scale).astype(np.int32)], 1)
    return mask


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--segmenter", type=click.Choice(["own", "kraken"]), default="own", show_default=True)
@click.option("--kraken", "command_line", help="How kraken is started.")
@output.format_option
def command(folder: Path, *, segmenter: str, command_line: str | None, out: output.Output) -> None:
    """Find the lines of the pages in FOLDER (ALTO or PAGE files with their pictures) and compare with the XML."""

    def find(page: Gray) -> Page:
        return find_lines(page) if segmenter == "own" else kraken.find_lines(page, command=command_line)

    pages = list(measure(folder, find))
    if not pages:
        raise InputError(f"{folder} holds no ALTO or PAGE file.", "Name a folder of XML files with their pictures.")
    total = Found("all", *(sum(getattr(p, k) for p in pages) for k in ("lines", "given", "matched", "seconds")))
    rows = [
        {
            "page": p.name,
            "segmenter": segmenter,
            "lines": p.lines,
            "found": p.given,
            "matched": p.matched,
            "recall": round(p.recall, 4),
            "precision": round(p.precision, 4),
            "seconds": round(p.seconds, 2),
        }
        for p in (*pages, total)
    ]
    out.table(
        SCHEMA,
        rows,
        {
            "page": lambda row: str(row["page"]),
            "lines": lambda row: str(row["lines"]),
            "found": lambda row: str(row["found"]),
            "matched": lambda row: str(row["matched"]),
            "recall": lambda row: f"{row['recall']:.3f}",
            "precision": lambda row: f"{row['precision']:.3f}",
            "seconds": lambda row: f"{row['seconds']:.2f}",
        },
        right=("lines", "found", "matched", "recall", "precision", "seconds"),
    )


if __name__ == "__main__":
    main(command=command, name="python -m zoo_htr.line_recall")
