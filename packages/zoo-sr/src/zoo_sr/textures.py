"""Draw a pack of fine regular structures to train on: `python -m zoo_sr.textures sr-textures.parquet --images 160`.

Photos hold few fine stripes, and what a network has not seen it continues in a wrong direction: a period below twice
the scale is folded by the reduction, so that the small image shows stripes of another direction and width. Drawn are
stripes, checks, weaves and lattices on planes that lean away and folds that bend them, several to a picture.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from zoo_core.errors import ZooError
from zoo_core.io.atomic import whole

Field = NDArray[np.float32]

FINER = 3  # times finer than the result is what is drawn; the reduction then removes what pixels cannot hold
SHORTEST, LONGEST = 1.5, 12.0  # periods in pixels of the result
QUALITY = 88  # of WebP: fine structures keep their contrast at a third of the bytes of JPEG
VAL_EVERY = 10  # one picture in so many is of the split val


def stripes(u: Field, v: Field, period: float, chance: np.random.Generator) -> Field:
    """Stripes across u, from sinusoidal to nearly square ones, light and dark of unequal width."""
    return _profile(u / period, chance)


def checks(u: Field, v: Field, period: float, chance: np.random.Generator) -> Field:
    """A chessboard; its squares are half a period wide."""
    hard = chance.uniform(1, 6)
    crossed: Field = np.tanh(hard * _wave(u / period) * _wave(v / period))
    return crossed / np.float32(np.tanh(hard))


def weave(u: Field, v: Field, period: float, chance: np.random.Generator) -> Field:
    """Plain weave: threads of two directions that pass over and under each other."""
    other = period * chance.uniform(0.7, 1.4)
    over = _wave(u / (2 * period)) * _wave(v / (2 * other)) > 0
    warp, weft = _profile(u / period, chance), _profile(v / other, chance)
    return np.where(over, warp, chance.uniform(0.2, 1) * weft).astype(np.float32)


def twill(u: Field, v: Field, period: float, chance: np.random.Generator) -> Field:
    """Twill: threads along u whose crossings form a slanting rib several threads wide."""
    rib = _profile((u + v * chance.choice([-1, 1])) / (period * chance.uniform(2, 4)), chance)
    return (0.6 * rib + 0.4 * _profile(u / period, chance)).astype(np.float32)


def plaid(u: Field, v: Field, period: float, chance: np.random.Generator) -> Field:
    """Two gratings laid over each other."""
    share = chance.uniform(0.3, 0.7)
    crossed = _profile(v / (period * chance.uniform(0.7, 1.5)), chance)
    return (share * _profile(u / period, chance) + (1 - share) * crossed).astype(np.float32)


def lattice(u: Field, v: Field, period: float, chance: np.random.Generator) -> Field:
    """Bricks or rattan: joints between rows, and joints within a row that are shifted from one row to the next."""
    length, shift, joint = period * chance.uniform(1, 3), chance.choice([0.5, 0.33]), chance.uniform(0.15, 0.35)
    row = np.floor(v / period)
    across = np.abs((v / period) % 1 - 0.5) > 0.5 - joint / 2
    along = np.abs((u / length + row * shift) % 1 - 0.5) > 0.5 - joint / 2 * period / length
    return np.where(across | along, -1, 1).astype(np.float32)


KINDS = (stripes, checks, weave, twill, plaid, lattice)
WEIGHTS = (0.5, 0.08, 0.12, 0.1, 0.1, 0.1)


def _wave(turns: Field) -> Field:
    wave: Field = np.sin(2 * np.pi * turns).astype(np.float32)
    return wave


def _profile(turns: Field, chance: np.random.Generator) -> Field:
    """A wave in [-1, 1]: the harder, the squarer; the offset makes one half wider than the other."""
    hard, offset = chance.choice([0.1, chance.uniform(1, 6)]), chance.uniform(-0.4, 0.4)
    wave: Field = np.tanh(hard * (_wave(turns) - offset)).astype(np.float32)
    return wave / np.float32(max(float(np.abs(wave).max()), 1e-3))


def _smooth(y: Field, x: Field, wavelength: float, chance: np.random.Generator) -> Field:
    """A few long waves of random directions, about 1 high."""
    total = np.zeros_like(y)
    for _ in range(3):
        angle, length = chance.uniform(0, 2 * np.pi), wavelength * chance.uniform(0.6, 1.6)
        total += np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / length) + chance.uniform(0, 2 * np.pi))
    return total / np.float32(1.7)


def surface(y: Field, x: Field, chance: np.random.Generator, *, bend: bool = True) -> tuple[Field, Field]:
    """Coordinates on a surface that is turned by any angle, may lean away from the viewer, and may be folded.

    Args:
        y: rows from the centre of the picture, in pixels of the result, (H, W).
        x: columns, likewise.
        chance: of all draws.
        bend: whether it may lean or be folded.

    Returns:
        u and v, (H, W), in pixels where the surface faces the viewer.
    """
    u, v = x, y
    if bend and chance.random() < 0.5:  # a plane at an angle: farther means smaller
        reach = max(float(np.abs(x).max()), float(np.abs(y).max()))
        angle, lean = chance.uniform(0, 2 * np.pi), chance.uniform(0.1, 0.5)
        depth = 1 + lean * (x * np.cos(angle) + y * np.sin(angle)) / reach
        u, v = u / depth, v / depth
    if bend and chance.random() < 0.6:  # folds: a slope of up to 0.8 turns the direction by up to 40 degrees
        length = chance.uniform(60, 300)
        height = np.float32(chance.uniform(0.1, 0.8) * length / (2 * np.pi))
        u, v = u + height * _smooth(y, x, length, chance), v + height * _smooth(y, x, length, chance)
    angle = chance.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * u + sin * v, cos * v - sin * u


def cloth(y: Field, x: Field, chance: np.random.Generator) -> Field:
    """One textured surface in two colours and soft shading, (H, W, 3), about [0, 1]."""
    u, v = surface(y, x, chance)
    period = float(np.exp(chance.uniform(np.log(SHORTEST), np.log(LONGEST))))
    kind = KINDS[chance.choice(len(KINDS), p=WEIGHTS)]
    pattern = (1 + kind(u, v, period, chance)) / 2
    ground = chance.uniform(0.1, 0.9, 3) if chance.random() < 0.5 else np.full(3, chance.uniform(0.1, 0.9))
    # mostly light against dark, as in cloth: contrast between colours alone is hardly seen in a photo
    contrast = chance.choice([-1, 1]) * chance.uniform(0.08, 0.7) + chance.normal(0, 0.08, 3)
    colours = np.clip(np.stack([ground - contrast / 2, ground + contrast / 2]), 0, 1).astype(np.float32)
    shade: Field = 1 + np.float32(chance.uniform(0, 0.25)) * _smooth(y, x, chance.uniform(80, 400), chance)
    lit: Field = (colours[0] + pattern[..., None] * (colours[1] - colours[0])) * shade[..., None]
    return lit


def plain(y: Field, x: Field, chance: np.random.Generator) -> Field:
    """A surface without a pattern, (H, W, 3): what stripes end at."""
    shade: Field = 1 + np.float32(chance.uniform(0, 0.2)) * _smooth(y, x, chance.uniform(80, 400), chance)
    lit: Field = chance.uniform(0.1, 0.9, 3).astype(np.float32) * shade[..., None]
    return lit


def picture(width: int, height: int, chance: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one picture: two to six surfaces with curved borders, slightly blurred, slightly noisy.

    Args:
        width: in pixels.
        height: in pixels.
        chance: of all draws.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    rows, columns = ((np.arange(n * FINER, dtype=np.float32) + 0.5) / FINER - n / 2 for n in (height, width))
    y, x = (axis.astype(np.float32) for axis in np.meshgrid(rows, columns, indexing="ij"))
    # each pixel belongs to the nearest of some points, seen through a bent glass
    bent = [axis + np.float32(chance.uniform(0, 12)) * _smooth(y, x, 120, chance) for axis in (y, x)]
    points = chance.uniform(-0.5, 0.5, (chance.integers(2, 7), 2)) * [height, width]
    distances = np.stack([(bent[0] - np.float32(py)) ** 2 + (bent[1] - np.float32(px)) ** 2 for py, px in points])
    nearest = distances.argmin(axis=0)
    canvas = np.empty((*y.shape, 3), np.float32)
    for number in range(len(points)):
        mine = nearest == number
        if not mine.any():
            continue
        top, left = (np.flatnonzero(mine.any(axis=axis)) for axis in (1, 0))
        box = np.s_[top[0] : top[-1] + 1, left[0] : left[-1] + 1]
        draw = plain if number and chance.random() < 0.15 else cloth
        canvas[box][mine[box]] = draw(y[box], x[box], chance)[mine[box]]
    return photographed(canvas, chance)


def photographed(fine: Field, chance: np.random.Generator) -> NDArray[np.uint8]:
    """Reduce a fine drawing by `FINER` as a lens and a sensor would: a little blur, no aliasing, a little noise.

    Args:
        fine: (FINER H, FINER W, 3) in [0, 1]; what lies outside is clipped.
        chance: of the amounts and the noise.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    drawn = Image.fromarray((fine.clip(0, 1) * 255).round().astype(np.uint8))
    blurred = drawn.filter(ImageFilter.GaussianBlur(FINER * chance.uniform(0.15, 0.5)))
    image = np.asarray(blurred.resize((drawn.width // FINER, drawn.height // FINER), Image.Resampling.BICUBIC))
    noise = chance.normal(0, chance.uniform(0, 1.5), image.shape)
    return (image + noise).clip(0, 255).round().astype(np.uint8)


def rows(count: int, *, width: int, height: int, seed: int) -> Iterator[dict[str, Any]]:
    """Draw pictures as rows of a training pack; each is a function of the seed and its number alone.

    Yields:
        name, split (train or val), source, licence, note, width, height, image (encoded bytes).
    """
    for number in range(count):
        pixels = picture(width, height, np.random.default_rng([seed, number]))
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "webp", quality=QUALITY, method=6)
        yield {
            "name": f"texture-{seed}-{number:04}",
            "split": "val" if number % VAL_EVERY == VAL_EVERY - 1 else "train",
            "source": "python -m zoo_sr.textures",
            "licence": "CC0-1.0",
            "note": "",
            "width": width,
            "height": height,
            "image": buffer.getvalue(),
        }


def write_pack(path: Path, table: list[dict[str, Any]], *, overwrite: bool) -> None:
    """Write rows as a parquet pack, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    with whole(path, overwrite=overwrite) as target:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), target, compression="none", row_group_size=64)


@click.command()
@click.argument("pack", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--images", "count", default=160, show_default=True, type=click.IntRange(min=10), help="How many.")
@click.option(
    "--size", default=(480, 320), show_default=True, type=click.IntRange(min=96), nargs=2, help="Width and height."
)
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Of all draws.")
@click.option("--overwrite", is_flag=True, help="Replace the pack.")
def main(pack: Path, *, count: int, size: tuple[int, int], seed: int, overwrite: bool) -> None:
    """Draw fine regular structures into the parquet file PACK; one picture in ten is of the split val."""
    try:
        table = list(rows(count, width=size[0], height=size[1], seed=seed))
        write_pack(pack, table, overwrite=overwrite)
    except ZooError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{count} pictures, {pack.stat().st_size / 2**20:.1f} MiB: {pack}")


if __name__ == "__main__":
    main()
