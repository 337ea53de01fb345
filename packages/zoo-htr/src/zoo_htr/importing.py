"""Make a pack of lines of one's own pages: `python -m zoo_htr.importing EXPORT -o mine.parquet`.

Training and evaluation take the pack. Lines are cut as `zoo predict` cuts them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click
import cv2
import numpy as np
from PIL import Image as pil

from zoo_core.cli import output
from zoo_core.cli.main import main
from zoo_core.errors import InputError
from zoo_core.io.atomic import whole, whole_folder
from zoo_htr.alphabet import normal
from zoo_htr.cutting import HEIGHT_PX, Gray
from zoo_htr.lines import TRUTH, CutLine, Tally, read_lines, text_to_symbols
from zoo_htr.marks import Marks, with_marks
from zoo_htr.pages.pairing import read_table

SCHEMA = "zoo.htr.import/1"
QUALITY = 80  # of WebP; the packs of the project have 38, to be small
_ROWS = 256
# the packs have one apostrophe and no soft hyphens; more would be symbols that a trained model does not know
_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201b": "'", "\u00ad": None})
Target = Literal["parquet", "pairs", "pylaia"]


def rows(
    lines: Iterator[CutLine],
    *,
    corpus: str,
    writer: str | None,
    split: str,
    language: str,
    marks: Marks,
    as_written: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield one row of a pack a line, with the columns of data/htr/lines.

    Args:
        lines: cut.
        corpus: name that evaluation groups by.
        writer: whose hand; None takes the document for one hand.
        split: train, val or test; auto puts a tenth of the lines, by a hash of page and line, into val.
        language: where the file names none.
        marks: what becomes of struck words.
        as_written: leave quotes and soft hyphens as they are; otherwise they become what the project's packs have.
    """
    for line in lines:
        text = normal(with_marks(line.text, marks))
        text = text if as_written else text.translate(_PLAIN)
        key = hashlib.sha1(f"{line.document}/{line.page}/{line.line}".encode(), usedforsecurity=False).digest()
        chosen = split if split != "auto" else "val" if key[0] < 26 else "train"
        image = at_height(line.cut.image)
        yield {
            "image": _webp(image),
            "text": text,
            "writer": writer or line.document,
            "document": line.document,
            "page": line.page,
            "line": line.line,
            "corpus": corpus,
            "lang": line.language or language,
            "source": line.source,
            "width": image.shape[1],
            "orig_height": line.cut.box_px[1],
            "angle": round(line.cut.angle_degrees, 2),
            "flags": "hyphenated" if text.endswith(("-", "\u00ac", "=")) else "",
            "split": chosen,
        }


def at_height(image: Gray) -> Gray:
    """Return a line scaled to the height of the packs."""
    height, width = image.shape
    if height == HEIGHT_PX:
        return image
    way = cv2.INTER_AREA if height > HEIGHT_PX else cv2.INTER_CUBIC
    return np.asarray(
        cv2.resize(image, (max(1, round(width * HEIGHT_PX / height)), HEIGHT_PX), interpolation=way), np.uint8
    )


def write_parquet(path: Path, made: Iterator[dict[str, Any]], *, overwrite: bool) -> int:
    """Write rows as a pack, some at a time, and return how many there were.

    Raises:
        InputError: there is none, or the file exists.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"line": pa.int64(), "width": pa.int64(), "orig_height": pa.int64(), "angle": pa.float64()}
    first = next(made, None)
    if first is None:
        raise InputError("No line could be used.", "See what was left out above.")
    schema = pa.schema([(k, pa.binary() if k == "image" else numbers.get(k, pa.string())) for k in first])
    count, batch = 0, [first]
    with whole(path, overwrite=overwrite) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as file:
        for row in made:
            batch.append(row)
            if len(batch) == _ROWS:
                file.write_table(pa.Table.from_pylist(batch, schema))
                count, batch = count + len(batch), []
        if batch:
            file.write_table(pa.Table.from_pylist(batch, schema))
    return count + len(batch)


def write_folder(path: Path, made: Iterator[dict[str, Any]], target: Target, *, overwrite: bool) -> int:
    """Write rows as pictures with `.gt.txt` files (kraken, Calamari, Tesseract) or with PyLaia's lists.

    Returns:
        how many there were.

    Raises:
        InputError: there is none, or the folder exists.
    """
    listed: dict[str, list[str]] = {}
    symbols: set[str] = set()
    count = 0
    with whole_folder(path, overwrite=overwrite) as aside:
        for row in made:
            name = f"{row['page']}_{row['line']:04d}_{count:06d}"
            with pil.open(io.BytesIO(row["image"])) as image:
                image.convert("L").save(aside / f"{name}.png")
            if target == "pairs":
                (aside / f"{name}{TRUTH}").write_text(row["text"] + "\n", encoding="utf-8")
            else:
                listed.setdefault(row["split"], []).append(f"{name} {text_to_symbols(row['text'])}")
                symbols |= set(text_to_symbols(row["text"]).split())
            count += 1
        for split, entries in listed.items():
            (aside / f"{split}.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
        if target == "pylaia":
            table = [f"{symbol} {index}" for index, symbol in enumerate(["<ctc>", *sorted(symbols)])]
            (aside / "syms.txt").write_text("\n".join(table) + "\n", encoding="utf-8")
        if not count:
            raise InputError("No line could be used.", "See what was left out above.")
    return count


def _webp(image: Gray) -> bytes:
    file = io.BytesIO()
    pil.fromarray(image).save(file, "WEBP", quality=QUALITY)
    return file.getvalue()


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path), help="What is written.")
@click.option("--to", type=click.Choice(["parquet", "pairs", "pylaia"]), default="parquet", show_default=True)
@click.option("--corpus", default="mine", show_default=True, help="Name that evaluation groups by.")
@click.option("--writer", help="Whose hand it is; by default each document is one hand.")
@click.option("--split", type=click.Choice(["auto", "train", "val", "test"]), default="auto", show_default=True)
@click.option("--lang", "language", default="", help="Language, where the files name none.")
@click.option("--marks", type=click.Choice(["keep", "drop", "tei"]), default="keep", show_default=True)
@click.option("--as-written", is_flag=True, help="Keep curly apostrophes and soft hyphens.")
@click.option("--image-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder of the pictures.")
@click.option("--image-map", type=click.Path(path_type=Path, dir_okay=False), help="Table: XML name, tab, picture.")
@click.option("--overwrite", is_flag=True, help="Replace what exists.")
@output.format_option
def command(
    inputs: tuple[Path, ...],
    *,
    target: Path,
    to: Target,
    corpus: str,
    writer: str | None,
    split: str,
    language: str,
    marks: Marks,
    as_written: bool,
    image_dir: Path | None,
    image_map: Path | None,
    overwrite: bool,
    out: output.Output,
) -> None:
    """Cut the lines of INPUT and write them with their text.

    INPUT is an ALTO or PAGE file, a folder or zip archive of them with pictures (an export of eScriptorium or
    Transkribus), a folder of line pictures with .gt.txt files, or a list of PyLaia.
    """
    tally = Tally()
    table = read_table(image_map) if image_map else None
    made = rows(
        read_lines(inputs, tally, image_dir=image_dir, table=table),
        corpus=corpus,
        writer=writer,
        split=split,
        language=language,
        marks=marks,
        as_written=as_written,
    )
    try:
        if to == "parquet":
            count = write_parquet(target, made, overwrite=overwrite)
        else:
            count = write_folder(target, made, to, overwrite=overwrite)
    finally:
        for note in tally.notes():
            output.warn(note)
    left_out = {reason: len(names) for reason, names in tally.left_out.items()}
    record = {"file": target, "lines": count, "left_out": left_out}
    out.result(SCHEMA, record, f"{count} lines -> {target}")


if __name__ == "__main__":
    main(command=command, name="python -m zoo_htr.importing")
