"""Evaluate whole pages, line finding and reading order included: `python -m zoo_htr.page_eval ID --data FOLDER`.

After Vidal et al. (Pattern Recognition, 2023): the word error rate of a page punishes wrong words
and wrong order alike; of words as a bag it punishes wrong words alone. What lies between the two is order and
segmentation.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rapidfuzz.distance import Levenshtein

from zoo_core.cli import output
from zoo_core.cli.main import main
from zoo_core.errors import InputError
from zoo_core.io.inputs import Source
from zoo_htr.alphabet import normal
from zoo_htr.metrics import words
from zoo_htr.options import BELOW, MAX_PAGE_PIXELS
from zoo_htr.pages.document import open_document
from zoo_htr.pages.layout import lay_out, usual_distance
from zoo_htr.pages.model import Line, Points
from zoo_htr.pages.pairing import picture_for, twins
from zoo_htr.pages.read import kind_of

SCHEMA = "zoo.htr.page-eval/1"
_NEAR = 0.25  # line distances: a baseline is another's as far as it is no farther from it
_SHARED = 0.5  # of the longer one that two baselines share if they are one line's
_POINTS = 64  # of a baseline that are compared


@dataclass(frozen=True)
class PageScore:
    """One page: counts of edits and of what they are counted against.

    Args:
        name: of the page.
        lines: with a text in the XML.
        found: that were read.
        matched: whose baselines agree one to one.
        words: in the XML.
        word_edits: between the pages as sequences of words in reading order.
        bag_edits: between them as bags of words.
        characters: of the lines that were matched, in the XML.
        character_edits: of these.
        seconds: from the picture to the text.
    """

    name: str
    lines: int
    found: int
    matched: int
    words: int
    word_edits: int
    bag_edits: int
    characters: int
    character_edits: int
    seconds: float = 0.0

    @property
    def wer(self) -> float:
        """Word error rate in reading order."""
        return self.word_edits / max(self.words, 1)

    @property
    def bag_wer(self) -> float:
        """Word error rate in any order; never more than `wer`."""
        return self.bag_edits / max(self.words, 1)

    @property
    def cer(self) -> float:
        """Character error rate of the lines that were matched."""
        return self.character_edits / max(self.characters, 1)


def bag_edits(reference: Sequence[str], read: Sequence[str]) -> int:
    """Return the least number of words to exchange, add or take away so that both have the same words, in any order."""
    known, found = Counter(reference), Counter(read)
    return max((known - found).total(), (found - known).total())


def score_page(name: str, truth: Sequence[Line], read: Sequence[tuple[Points, str]]) -> PageScore:
    """Compare what was read on a page with what its XML says.

    Args:
        name: of the page.
        truth: its lines with a text, in reading order, in pixels.
        read: baseline and text of each line that was read, in reading order, in pixels.
    """
    texts = [normal(line.text or "") for line in truth]
    found = [normal(text) for _, text in read]
    known, said = ([word for text in side for word in words(text)] for side in (texts, found))
    pairs = match_baselines([line.baseline for line in truth], [base for base, _ in read], usual_distance(truth) or 40)
    return PageScore(
        name,
        lines=len(truth),
        found=len(read),
        matched=len(pairs),
        words=len(known),
        word_edits=Levenshtein.distance(known, said),
        bag_edits=bag_edits(known, said),
        characters=sum(len(texts[i]) for i, _ in pairs),
        character_edits=sum(Levenshtein.distance(texts[i], found[j]) for i, j in pairs),
    )


def match_baselines(left: Sequence[Points], right: Sequence[Points], distance_px: float) -> list[tuple[int, int]]:
    """Return pairs of baselines, each once, the best first: they run within a quarter of a line distance of each other.

    Args:
        left: baselines, in pixels.
        right: others.
        distance_px: usual distance of lines.
    """
    shares = []
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            share = min(_along(a, b, _NEAR * distance_px), _along(b, a, _NEAR * distance_px))
            if share >= _SHARED:
                shares.append((share, i, j))
    pairs: list[tuple[int, int]] = []
    for _, i, j in sorted(shares, key=lambda entry: (-entry[0], entry[1:])):
        if all(i != known and j != other for known, other in pairs):
            pairs.append((i, j))
    return pairs


def _along(base: Points, other: Points, reach: float) -> float:
    """Return which share of a baseline is no farther than `reach` from another one."""
    if len(base) < 2 or len(other) < 2:
        return 0.0
    points, ends = _even(base), np.asarray(other, np.float64)
    start, step = ends[:-1], np.diff(ends, axis=0)
    lengths = np.maximum((step**2).sum(axis=1), 1e-9)
    place = ((points[:, None] - start) * step).sum(axis=2) / lengths
    nearest = start + np.clip(place, 0, 1)[..., None] * step
    return float((np.linalg.norm(points[:, None] - nearest, axis=2).min(axis=1) <= reach).mean())


def _even(base: Points) -> np.ndarray:
    """Return points at even distances along a baseline, (64, 2)."""
    points = np.asarray(base, np.float64)
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    places = np.linspace(0, way[-1], _POINTS)
    return np.stack([np.interp(places, way, points[:, axis]) for axis in (0, 1)], axis=1)


def pages_of(folder: Path) -> list[Path]:
    """Return the ALTO and PAGE files of a folder, one a page, or the one file that is named.

    Raises:
        InputError: there is none.
    """
    files = sorted(folder.rglob("*.xml")) if folder.is_dir() else [folder]
    again = set(twins(files))
    kept = [path for path in files if path not in again and kind_of(Source(str(path), path)) is not None]
    if not kept:
        raise InputError(f"{folder} holds no ALTO or PAGE file.", "Name a folder of XML files with their pictures.")
    return kept


def measure(path: Path, predict: Callable[[Path], Any]) -> PageScore | None:
    """Read the picture of an XML file and compare; None if the file has no text, or more than one page.

    Args:
        path: an ALTO or PAGE file.
        predict: from the path of a picture, or of the file itself, to a result of `HTRPredictor`.
    """
    document = open_document(Source(str(path), path), max_pixels=MAX_PAGE_PIXELS)
    (job, *more) = document.pages
    if more or job.page is None:
        return None
    picture = job.load()
    layout = lay_out(job.page, picture.size_px, picture.dpi)
    truth = [line for line in layout.page.lines if line.text and line.baseline]
    if not truth:
        return None
    place, _ = picture_for(Source(str(path), path), job.page.image_name)
    start = time.perf_counter()
    result = predict(place)
    seconds = time.perf_counter() - start
    read = [(written.line.baseline, written.text) for written in result.pages[0].lines()]
    made = score_page(path.name, truth, read)
    return replace(made, seconds=seconds)


@click.command()
@click.argument("model", metavar="ID")
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True), help="ALTO or PAGE, or a folder.")
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False), help="Weights of yours for the model.")
@click.option(
    "--segmenter",
    type=click.Choice(["own", "kraken", "auto"]),
    default="own",
    show_default=True,
    help="Who finds the lines; auto takes those of the XML, which shows what finding costs.",
)
@click.option("--reading-order", type=click.Choice(["file", "geometric"]), default="file", show_default=True)
@click.option("--decoder", type=click.Choice(["greedy", "beam"]), default="greedy", show_default=True)
@click.option("--beam-below", type=click.FloatRange(0, 1), default=BELOW, show_default=True, help="As zoo predict's.")
@click.option("--device", default="auto", show_default=True)
@output.format_option
def command(
    model: str,
    *,
    data: Path,
    weights: Path | None,
    segmenter: str,
    reading_order: str,
    decoder: str,
    beam_below: float,
    device: str,
    out: output.Output,
) -> None:
    """Read the pages that the ALTO and PAGE files of --data describe with the model ID, and compare with their text."""
    from zoo_core.predict import load

    options: dict[str, Any] = {
        "segmenter": segmenter,
        "reading_order": reading_order,
        "decoder": decoder,
        "beam_below": beam_below,
    }
    predictor = load(model, device=device, weights=weights, **options)
    pages = [page for path in pages_of(data) if (page := measure(path, predictor.predict)) is not None]
    if not pages:
        raise InputError(f"No file of {data} has lines with a text.", "Give transcribed pages.")
    keys = [key for key in vars(pages[0]) if key != "name"]
    total = PageScore("all", **{key: sum(getattr(page, key) for page in pages) for key in keys})
    rows = [
        {
            "page": page.name,
            "lines": page.lines,
            "found": page.found,
            "matched": page.matched,
            "cer_matched": round(page.cer, 4),
            "wer": round(page.wer, 4),
            "bag_wer": round(page.bag_wer, 4),
            "order": round(page.wer - page.bag_wer, 4),
            "seconds": round(page.seconds, 3),
        }
        for page in (*pages, total)
    ]
    shown: dict[str, Callable[[Any], str]] = {
        "page": lambda row: str(row["page"]),
        **{key: (lambda row, key=key: str(row[key])) for key in ("lines", "found", "matched")},  # type: ignore[misc]
        **{
            name: (lambda row, key=key: f"{100 * row[key]:.2f}")  # type: ignore[misc]
            for name, key in (("CER matched", "cer_matched"), ("WER", "wer"), ("bag", "bag_wer"), ("order", "order"))
        },
        "seconds": lambda row: f"{row['seconds']:.2f}",
    }
    out.table(SCHEMA, rows, shown, right=[name for name in shown if name != "page"])
    seconds = sorted(page.seconds for page in pages)
    slow = seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))]
    output.note(f"seconds a page: median {statistics.median(seconds):.2f}, 95th percentile {slow:.2f}")


if __name__ == "__main__":
    main(command=command, name="python -m zoo_htr.page_eval")
