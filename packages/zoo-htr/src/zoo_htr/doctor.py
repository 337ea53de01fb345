"""What may be wrong with a picture: `python -m zoo_htr.doctor IMAGE` shows what the network sees, and warns.

Prediction never turns a picture on its own account; this says what to turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image as pil

from zoo_core.cli import output
from zoo_core.cli.main import main
from zoo_core.errors import UsageError
from zoo_core.io.atomic import whole
from zoo_core.io.inputs import Source
from zoo_htr.cutting import cut
from zoo_htr.finding import find_lines, has_several_lines
from zoo_htr.finding.ink import components, ink, is_light_on_dark, shrunk, without_long_strokes
from zoo_htr.normalise import prepare
from zoo_htr.pages.layout import lay_out
from zoo_htr.pages.pictures import Gray, pictures
from zoo_htr.room import is_tight

SCHEMA = "zoo.htr.doctor/1"
LOW_PX = 32  # height of a line below which strokes run together
LINE_ASPECT = 2.5
_CLEARLY = 0.1  # of confidence
_TURNED = 1.6  # rows of writing alternate with gaps; so much more do columns if it lies on its side


@dataclass(frozen=True, eq=False)
class Findings:
    """What there is to say about a picture.

    Args:
        size_px: height and width.
        kind: "line" or "page", as it looks.
        lines: pictures of its lines as the network gets them.
        line_height_px: median, in the picture.
        warnings: each with what to do.
    """

    size_px: tuple[int, int]
    kind: str
    lines: tuple[Gray, ...]
    line_height_px: float
    warnings: tuple[str, ...]


def examine(gray: Gray) -> Findings:
    """Look at a picture (H, W) of a line or a page."""
    height, width = gray.shape
    warnings = []
    if is_light_on_dark(gray):
        warnings.append("light ink on a dark ground: it is turned round before reading; check that it is meant so")
        gray = 255 - gray
    kind = "line" if width >= LINE_ASPECT * height else "page"
    if height >= LINE_ASPECT * width or (kind == "page" and lies_on_its_side(gray)):
        warnings.append("the writing seems to run upwards or downwards: turn the picture by 90 degrees")
    if min(height, width) < 8:
        warnings.append(f"{width} x {height} pixels hold no writing")
        return Findings((height, width), kind, (), float(height), tuple(warnings))
    if kind == "line":
        if has_several_lines(gray):
            warnings.append("there seem to be two or more lines: cut them apart, or read it with --segmenter own")
        if is_tight(gray):
            warnings.append("the letters fill its height: leave room above and below, or read it with --fit-lines")
        lines, line_height = [gray], float(height)
    else:
        cuts = [
            cut(gray, line.polygon, line.baseline)
            for line in lay_out(find_lines(gray), gray.shape).page.lines
            if line.polygon
        ]
        lines = [made.image for made in cuts]
        line_height = float(np.median([made.box_px[1] for made in cuts])) if cuts else 0.0
        if not cuts:
            warnings.append("no lines were found: give ALTO or PAGE with it, or try --segmenter kraken")
    if lines and line_height < LOW_PX:
        warnings.append(f"lines are about {line_height:.0f} pixels high: scan with more, {2 * LOW_PX} and up read best")
    return Findings((height, width), kind, tuple(prepare(line) for line in lines), line_height, tuple(warnings))


def lies_on_its_side(gray: Gray) -> bool:
    """Whether ink comes and goes more from column to column than from row to row."""
    mask = ink(shrunk(gray)[0])
    _, boxes, _ = components(mask)
    sides = boxes[1:, 2:4].max(axis=1)
    sides = sides[sides >= 5]
    if len(sides) < 10:
        return False
    letter = float(np.median(sides))
    mask = without_long_strokes(mask, 8 * letter)
    return _alternation(mask.T, letter) > _TURNED * _alternation(mask, letter)


def _alternation(mask: NDArray[np.uint8], letter: float) -> float:
    """Return how strongly ink changes from row to row, at the scale of lines: the mean over upright strips, by ink.

    Single strokes, which alternate too, are levelled out: they are narrower than a letter is high.
    """
    near, far = (np.ones(n) / n for n in (max(3, round(0.8 * letter)), max(9, round(4 * letter))))
    total = weight = 0.0
    for strip in np.array_split(mask.astype(np.float64), 8, axis=1):
        profile = strip.sum(axis=1)
        used = np.flatnonzero(profile)
        if len(used) < len(far):
            continue
        part = profile[used[0] : used[-1] + 1]
        change = np.convolve(part, near, mode="same") - np.convolve(part, far, mode="same")
        total += float((change**2).mean() / part.mean() ** 2) * part.sum()
        weight += part.sum()
    return total / weight if weight else 0.0


def turned_readings(gray: Gray, model: str, weights: Path | None) -> dict[int, float]:
    """Return the model's confidence in the longest line of a picture that is turned left by 0, 90, 180, 270 degrees."""
    from zoo_core.predict import load

    predictor: Any = load(model, device="cpu", weights=weights, segmenter="line")
    found = {}
    for angle in (0, 90, 180, 270):
        lines = examine(np.ascontiguousarray(np.rot90(gray, angle // 90))).lines
        longest = max(lines, key=lambda line: line.shape[1], default=None)
        if longest is not None:
            found[angle] = predictor.predict(longest).confidence or 0.0
    return found


@click.command()
@click.argument("image", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), help="Write the lines below each other (png)."
)
@click.option("--model", help="Also read the longest line with this model, turned in all four ways, and compare.")
@click.option("--weights", type=click.Path(path_type=Path, dir_okay=False), help="Weights of yours for it.")
@click.option("--overwrite", is_flag=True, help="Replace the file of -o.")
@output.format_option
def command(
    image: Path, *, target: Path | None, model: str | None, weights: Path | None, overwrite: bool, out: output.Output
) -> None:
    """Say what the network would see of IMAGE, and what may be wrong with it."""
    picture = pictures(Source(str(image), image), max_pixels=200_000_000)[0]()
    found = examine(picture.gray)
    warnings = [*picture.notes, *found.warnings]
    if model is not None:
        turned = turned_readings(picture.gray, model, weights)
        if not turned:
            raise UsageError("There is no line to read.", "Leave out --model.")
        warnings += better_turned(turned)
    if target is not None and found.lines:
        with whole(target, overwrite=overwrite) as aside:
            _sheet(found.lines).save(aside, "PNG")
    for warning in warnings:
        output.warn(f"{image}: {warning}")
    height, width = found.size_px
    record = {
        "image": image,
        "size": [width, height],
        "kind": found.kind,
        "lines": len(found.lines),
        "line_height": round(found.line_height_px),
        "warnings": warnings,
    }
    lines = f"{len(found.lines)} lines of about {found.line_height_px:.0f}"
    out.result(SCHEMA, record, f"{image}: a {found.kind} of {width} x {height} pixels, {lines}")


def better_turned(sure: dict[int, float]) -> list[str]:
    """Say by how much to turn a picture that reads clearly better so."""
    best = max(sure, key=lambda angle: sure[angle])
    if best == 0 or sure[best] <= sure.get(0, 0.0) + _CLEARLY:
        return []
    said = "180 degrees" if best == 180 else f"90 degrees to the {'left' if best == 90 else 'right'}"
    return [f"read in another way it makes more sense ({sure[best]:.2f} to {sure.get(0, 0.0):.2f}): turn it by {said}"]


def _sheet(lines: tuple[Gray, ...]) -> pil.Image:
    width = max(line.shape[1] for line in lines)
    rows = [np.pad(line, ((4, 4), (0, width - line.shape[1])), constant_values=255) for line in lines]
    return pil.fromarray(np.vstack(rows))


if __name__ == "__main__":
    main(command=command, name="python -m zoo_htr.doctor")
