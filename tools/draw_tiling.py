"""Draw docs/images/tiling.jpg: a photo in independent tiles and by the exact sweep, each against the whole image.

    uv run tools/draw_tiling.py [--weights FILE.safetensors] [--image IMAGE] [--out FILE.jpg]

Without --weights, the model's own weights are used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from zoo_core.catalog import find
from zoo_core.weights.build import build
from zoo_core.weights.find import find as find_weights
from zoo_sr.regions import Grid
from zoo_sr.tiling import upscale

ROOT = Path(__file__).resolve().parents[1]
TILE_PX, HALO_PX = 80, 16
AMPLIFY = 8
TEXT_PX = 26
Pixels = NDArray[np.generic]


def slide(photo: Image.Image) -> Image.Image:
    """A photo on a page with a title and small print, 480 x 300: tiles that see very different things."""
    page = Image.new("RGB", (480, 300), "white")
    pen = ImageDraw.Draw(page)
    pen.rectangle((0, 0, 480, 40), fill=(24, 32, 72))
    pen.text((12, 20), "Colosseum, Rome", fill=(250, 220, 90), font=ImageFont.load_default(24), anchor="lm")
    lines = ["Begun by Vespasian", "in the year 72,", "finished by Titus", "eight years later.", ""]
    lines += ["48 m high,", "188 m long,", "156 m wide."]
    for k, line in enumerate(lines):
        pen.text((12, 62 + 18 * k), line, fill="black", font=ImageFont.load_default(13), anchor="lm")
    for k in range(60):
        pen.line((12 + 2 * k, 230, 12 + 2 * k, 230 + 60 * k // 60), fill=(40 + 3 * k, 40, 220 - 3 * k))
    page.paste(photo, (160, 50))
    return page


def independent_tiles(network: nn.Module, image: Pixels, tile: int, halo: int) -> Pixels:
    """What other programs do: every tile is upscaled as if it were an image, with a halo that is cut off afterwards."""
    height, width, _ = image.shape
    result: Pixels | None = None
    grid = Grid((*range(0, height, tile), height), (*range(0, width, tile), width))
    for core in grid.tiles():
        window = core.window(halo, grid.bounds)
        large = upscale(network, image[window.slices], tile=4096).image
        scale = large.shape[0] // window.height
        if result is None:
            result = np.empty((height * scale, width * scale, 3), np.uint8)
        result[core.times(scale).slices] = large[core.inside(window).times(scale).slices]
    assert result is not None  # noqa: S101 - an image has at least one tile
    return result


def difference(image: Pixels, reference: Pixels) -> tuple[Pixels, str]:
    """How far an image is from another: amplified, black where equal; and in numbers."""
    gap = np.abs(image.astype(np.float64) - reference.astype(np.float64))
    words = f"differs from the whole image by {np.sqrt((gap**2).mean()):.2f} (rms), {gap.max():.0f} (most), of 255"
    if not gap.any():
        words = "every byte equals that of the whole image"
    return np.clip(gap * AMPLIFY, 0, 255).astype(np.uint8), words


def draw(network: nn.Module, image: Pixels) -> Image.Image:
    """Two rows: the results; their differences to the whole image."""
    whole = upscale(network, image, tile=4096)
    ours = upscale(network, image, tile=TILE_PX)
    peers = independent_tiles(network, image, TILE_PX, HALO_PX)
    height, width = whole.plan.output_shape
    bar, gap = 2 * TEXT_PX, TEXT_PX // 2
    sheet = Image.new("RGB", (2 * width + gap, 2 * (height + bar)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    columns = (
        (f"independent tiles of {TILE_PX} x {TILE_PX}, overlapping by {HALO_PX}", peers),
        (f"zoo: {ours.plan.tiles} tiles of at most {TILE_PX} x {TILE_PX}, swept layer by layer", ours.image),
    )
    for k, (title, picture) in enumerate(columns):
        left = k * (width + gap)
        gap_picture, words = difference(picture, whole.image)
        for row, (text, pixels) in enumerate(((title, picture), (f"{words}; shown x {AMPLIFY}", gap_picture))):
            top = row * (height + bar)
            pen.text((left + gap, top + bar // 2), text, fill="black", font=font, anchor="lm")
            sheet.paste(Image.fromarray(pixels), (left, top + bar))
        print(f"{title}: {words}")
    return sheet


def main() -> None:
    """Read the command line, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="imdn-x4")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image", type=Path, default=ROOT / "examples/photo.png")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/tiling.jpg")
    arguments = parser.parse_args()
    entry = find(arguments.model)
    network = build(
        entry, find_weights(entry, weights=arguments.weights), device=torch.device("cpu"), dtype=torch.float32
    )
    with Image.open(arguments.image) as photo:
        sheet = draw(network, np.asarray(slide(photo.convert("RGB"))))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    # Half the size is enough for a page.
    sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS).save(arguments.out, quality=88)
    print(f"{arguments.out}: {arguments.out.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
