"""Draw synthetic lines with handwriting fonts into a pack: `python -m zoo_htr.synth lines.parquet --lines 10000`.

The lines are clean: dark ink on even paper, words that tilt and hop a little. Geometry, paper, noise and what else
makes a scan are added anew at every use, by `zoo_htr.augment`. So a pack is small, and training needs neither fonts nor
texts.
"""

from __future__ import annotations

import io
import random
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from zoo_core.catalog import find
from zoo_core.errors import InputError, UsageError, ZooError
from zoo_core.io.atomic import whole
from zoo_core.io.packs import find_pack
from zoo_htr.alphabet import normal
from zoo_htr.fonts import CachedFont, cache_folder, cached
from zoo_htr.normalise import HEIGHT, Pixels

SHORTEST, LONGEST = 25, 70  # characters
WIDEST = 1900  # columns, so that there is room to widen a line
SIZE = 56  # pixels a font is drawn at, before a line is scaled down
QUALITY = 12  # of WebP: 2 kB a line; what it blurs, augmentation blurs as well
PART = 250  # lines that a process draws at a time
HELD_OUT_SHARE = 0.03  # of the lines are written with the fonts that are kept from training: the split val
MONTHS = {
    "fr": ("janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre",
           "décembre"),
    "en": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December"),
}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """Paragraphs of one language, as lists of words."""

    language: str
    paragraphs: list[list[str]]
    names: list[str]

    @classmethod
    def read(cls, path: Path) -> Text:
        """Read a file of paragraphs, one a line; its stem is the language.

        Raises:
            InputError: it cannot be read, or holds nothing.
        """
        try:
            lines = path.read_text(encoding="utf-8").replace("\u2019", "'").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read ({error}).", "Name a text file in UTF-8.") from error
        paragraphs = [words for line in lines if len(words := normal(line).split()) > 3]
        if not paragraphs:
            raise InputError(f"{path} holds no paragraphs.", "One paragraph a line.")
        inner = {word for words in paragraphs for word in words[1:] if word[:1].isupper() and word.isalpha()}
        return cls(path.stem, paragraphs, sorted(inner) or ["Anne"])

    def phrase(self, chance: random.Random, characters: Collection[str]) -> str:
        """Return a piece of 25 to 70 characters; some with numbers, dates, names or quotes, some in capitals."""
        words = chance.choice(self.paragraphs)
        wanted, at, kept = chance.randint(SHORTEST, LONGEST), chance.randrange(len(words)), list[str]()
        while len(" ".join(kept)) < SHORTEST or len(" ".join([*kept, words[at]])) <= wanted:
            kept.append(self._special(chance) if chance.random() < 0.03 else words[at])
            at += 1
            if at == len(words):
                words, at = chance.choice(self.paragraphs), 0
        text = normal(" ".join(kept))[:LONGEST].strip()
        if chance.random() < 0.05:
            text = text.upper()
        return normal("".join(char for char in text if char in characters))

    def _special(self, chance: random.Random) -> str:
        month, name = chance.choice(MONTHS.get(self.language, MONTHS["en"])), chance.choice(self.names)
        day, year, number = chance.randint(1, 31), chance.randint(1650, 2030), chance.randint(0, 99999)
        return chance.choice(
            [
                str(year), f"{day} {month} {year}", f"{day}/{chance.randint(1, 12)}/{year % 100:02}", str(number),
                f"{number % 1000},{number % 100:02}", f"{number % 100} %", f"{number % 1000} £", f"p. {number % 1000}",
                f"No {number % 100}", f"({year})", f"« {name} »", f'"{name}"', f"{name};", f"{name}:", f"{name}!",
                f"{name}?", f"{name[0]}. {chance.choice(self.names)}", f"{name}-{chance.choice(self.names)}",
                f"&c. {name}", f"[{name}]", f"{number % 10}°", f"{name} + {name}", f"{number % 10}*",
            ]
        )  # fmt: skip


@cache
def _opened(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), SIZE, layout_engine=ImageFont.Layout.BASIC)


def written(text: str, face: CachedFont, chance: random.Random) -> Pixels:
    """Draw a line.

    Args:
        text: characters that the font has.
        face: the font.
        chance: for all that varies.

    Returns:
        (64, w) uint8.
    """
    font = _opened(face.path)
    gap, tracking = chance.uniform(0.2, 0.5) * SIZE, 0.0 if face.font.joined else chance.uniform(-2, 4)
    tilt, hop = chance.uniform(0, 2), chance.uniform(0, 3)
    pictures, x = [], 0.0
    for word in text.split():
        picture = _word(word, font, tracking, chance.uniform(-tilt, tilt))
        pictures.append((picture, round(x), round(chance.uniform(-hop, hop))))
        x += picture.width - 2 * SIZE + gap * chance.uniform(0.8, 1.25)
    mask = Image.new("L", (round(x) + 3 * SIZE, 5 * SIZE))
    for picture, place, down in pictures:
        mask.paste(255, (place, down + SIZE), picture)
    pen = chance.random()
    if pen < 0.45:
        mask = mask.filter(ImageFilter.MaxFilter(5 if pen < 0.12 else 3))
    box = mask.getbbox()
    if box is None:
        raise UsageError(f"{face.font.name} draws nothing for {text!r}.", "Take it out of the fonts.")
    # a line without tall letters is not blown up to the height of one with
    top, bottom = min(box[1], round(2.9 * SIZE)), max(box[3], round(3.6 * SIZE))
    pad = [chance.uniform(0.03, 0.14) * (bottom - top) for _ in range(4)]
    left, right = round(box[0] - pad[0]), round(box[2] + pad[2])
    mask = mask.crop((left, round(top - pad[1]), right, round(bottom + pad[3])))
    width = min(WIDEST, max(8, round(mask.width * HEIGHT / mask.height * chance.uniform(0.85, 1.1))))
    ink = np.asarray(mask.resize((width, HEIGHT), Image.Resampling.BOX), dtype=np.float32) / 255
    paper, depth = chance.uniform(200, 250), chance.uniform(90, 190)
    fading = 1 + 0.15 * np.sin(np.linspace(0, chance.uniform(2, 12), width) + chance.uniform(0, 6))
    return (paper - ink * depth * fading).clip(0, 255).astype(np.uint8)


def _word(word: str, font: ImageFont.FreeTypeFont, tracking: float, angle: float) -> Image.Image:
    """Draw a word as a mask with a margin of one SIZE on both sides, tilted about where its baseline begins."""
    width = font.getlength(word) + max(0.0, tracking) * len(word)
    mask = Image.new("L", (round(width) + 2 * SIZE, 4 * SIZE))
    pen = ImageDraw.Draw(mask)
    if tracking:
        x = float(SIZE)
        for char in word:
            pen.text((x, 2.5 * SIZE), char, fill=255, font=font, anchor="ls")
            x += font.getlength(char) + tracking
    else:
        pen.text((SIZE, 2.5 * SIZE), word, fill=255, font=font, anchor="ls")
    return mask.rotate(angle, Image.Resampling.BICUBIC, center=(SIZE, 2.5 * SIZE))


def rows(
    texts: list[Text], faces: list[CachedFont], *, numbers: range, seed: int, alphabet: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Yield rows of a pack; row i is a function of (seed, i).

    Args:
        texts: languages; they take turns.
        faces: fonts.
        numbers: which rows.
        seed: of all draws.
        alphabet: characters that may occur.
    """
    kept, known = [f for f in faces if f.font.held_out], [f for f in faces if not f.font.held_out]
    for number in numbers:
        chance = random.Random(f"{seed} {number}")  # noqa: S311 (pictures, not secrets)
        held_out = bool(kept) and (not known or chance.random() < HELD_OUT_SHARE)
        face, text = chance.choice(kept if held_out else known), texts[number % len(texts)]
        phrase = text.phrase(chance, face.characters & set(alphabet))
        if not phrase:
            continue
        pixels = written(phrase, face, chance)
        Image.fromarray(pixels).save(buffer := io.BytesIO(), "webp", quality=QUALITY, method=4)
        yield {
            "name": f"{face.font.name}-{number}",
            "image": buffer.getvalue(),
            "text": phrase,
            "writer": face.font.name,
            "corpus": f"synthetic-{text.language}",
            "lang": text.language,
            "split": "val" if held_out else "train",
            "width": pixels.shape[1],
        }


def drawn(
    texts: list[Text], faces: list[CachedFont], *, count: int, seed: int, alphabet: Collection[str], jobs: int
) -> list[dict[str, Any]]:
    """Return the first `count` rows, drawn by `jobs` processes; the rows are the same for any number of them."""
    parts = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
    if jobs == 1:
        return [row for part in parts for row in rows(texts, faces, numbers=part, seed=seed, alphabet=alphabet)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_listed, texts, faces, part, seed, alphabet) for part in parts]
        return [row for part in waiting for row in part.result()]


def _listed(
    texts: list[Text], faces: list[CachedFont], numbers: range, seed: int, alphabet: Collection[str]
) -> list[dict[str, Any]]:
    return list(rows(texts, faces, numbers=numbers, seed=seed, alphabet=alphabet))


def write_pack(path: Path, table: list[dict[str, Any]], *, overwrite: bool) -> None:
    """Write rows as a parquet pack, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    with whole(path, overwrite=overwrite) as target:
        # pictures and texts do not compress further by columns that differ in every row
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), target, compression="zstd", row_group_size=256)


@click.command()
@click.argument("pack", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--lines", "count", default=10000, show_default=True, type=click.IntRange(min=1), help="How many.")
@click.option("--seed", default=1, show_default=True, help="Of all draws.")
@click.option("--text", "texts", multiple=True, help="A file of paragraphs; default htr/text/fr.txt and en.txt.")
@click.option("--fonts", type=click.Path(path_type=Path, file_okay=False), help="Folder; default ZOO_FONTS.")
@click.option("--model", default="htr-jand-teacher", show_default=True, help="Whose alphabet bounds the characters.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Processes that draw.")
@click.option("--overwrite", is_flag=True, help="Replace the pack.")
def main(
    pack: Path,
    *,
    count: int,
    seed: int,
    texts: tuple[str, ...],
    fonts: Path | None,
    model: str,
    jobs: int,
    overwrite: bool,
) -> None:
    """Draw synthetic lines into the parquet file PACK."""
    try:
        languages = [Text.read(find_pack(name)) for name in texts or ("htr/text/fr.txt", "htr/text/en.txt")]
        alphabet = find(model).manifest.config["alphabet"]
        faces = cached(fonts or cache_folder())
        table = drawn(languages, faces, count=count, seed=seed, alphabet=alphabet, jobs=jobs)
        write_pack(pack, table, overwrite=overwrite)
    except ZooError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(table)} lines, {pack.stat().st_size / 1e6:.1f} MB: {pack}")


if __name__ == "__main__":
    main()
