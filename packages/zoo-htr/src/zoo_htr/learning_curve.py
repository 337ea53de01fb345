"""How much ground truth is enough: smaller packs to train on, and a curve through what came of them.

`python -m zoo_htr.learning_curve cut PACK --share 0.25 -o PART` keeps a share of the writers of each corpus (of the
documents, where a corpus has one writer). Shares are nested: who is in a smaller one is in every larger one.
`python -m zoo_htr.learning_curve show PART=REPORT.json ...` puts the reports of `zoo eval -o` side by side.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from zoo_core.cli import output
from zoo_core.cli.main import main
from zoo_core.errors import InputError, UsageError
from zoo_core.io.atomic import whole
from zoo_core.io.packs import find_pack

FILE = click.Path(path_type=Path, dir_okay=False)
COLUMNS = ("corpus", "writer", "document")
MOST_BYTES = 1 << 28


def kept(rows: Sequence[Mapping[str, Any]], share: float) -> list[bool]:
    """Return for each row whether it is in a share of the writers of its corpus, at least one.

    Args:
        rows: with corpus, writer and document.
        share: in (0, 1].
    """
    writers: dict[str, set[str]] = {}
    for row in rows:
        writers.setdefault(row["corpus"], set()).add(row["writer"])
    labels = [row["writer"] if len(writers[row["corpus"]]) > 1 else row["document"] for row in rows]
    groups: dict[str, set[str]] = {}
    for row, label in zip(rows, labels, strict=True):
        groups.setdefault(row["corpus"], set()).add(label)
    chosen = {
        (corpus, label)
        for corpus, known in groups.items()
        for label in sorted(known, key=lambda label: _rank(corpus, label))[: math.ceil(share * len(known))]
    }
    return [(row["corpus"], label) in chosen for row, label in zip(rows, labels, strict=True)]


def power_law(characters: Sequence[float], rates: Sequence[float]) -> tuple[float, float]:
    """Return a and b of rate = a * characters ** -b, by least squares of logarithms.

    Raises:
        UsageError: fewer than two different points, or a rate of 0.
    """
    if len(set(characters)) < 2 or min(rates) <= 0:
        raise UsageError("A curve needs two reports or more, with errors in them.", "Train on another share.")
    slope, height = np.polyfit(np.log(characters), np.log(rates), 1)
    return float(math.exp(height)), float(-slope)


def _rank(corpus: str, label: str) -> str:
    return hashlib.sha1(f"{corpus}/{label}".encode(), usedforsecurity=False).hexdigest()


@click.group()
def group() -> None:
    """Find out how much ground truth is enough."""


@group.command()
@click.argument("pack", metavar="PACK")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), required=True, help="Of the writers.")
@click.option("-o", "--output", "target", required=True, type=FILE, help="The parquet file to write.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@output.format_option
def cut(pack: str, *, share: float, target: Path, overwrite: bool, out: output.Output) -> None:
    """Write the rows of a share of the writers of PACK."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = find_pack(pack)
    try:
        table = pq.read_table(path)
        rows = table.select([*COLUMNS, "text"]).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path} has no columns corpus, writer, document, text ({error}).") from error
    mask = kept(rows, share)
    with whole(target, overwrite=overwrite) as aside:
        pq.write_table(table.filter(pa.array(mask)), aside, compression="zstd", row_group_size=256)
    left = [row for row, inside in zip(rows, mask, strict=True) if inside]
    data = {
        "file": str(target),
        "lines": len(left),
        "writers": len({(row["corpus"], row["writer"]) for row in left}),
        "characters": sum(len(row["text"]) for row in left),
    }
    out.result("zoo.htr.share/1", data, f"{target}: {data['lines']} lines of {data['writers']} writers")


@group.command()
@click.argument("reports", nargs=-1, required=True, metavar="PART=REPORT...")
@output.format_option
def show(reports: Sequence[str], *, out: output.Output) -> None:
    """Print the CER by size of the training pack, and what the curve through it says of twice the largest.

    PART is the pack that was trained on, REPORT what `zoo eval -o` wrote of the result.
    """
    rows = []
    for given in reports:
        part, equals, report = given.partition("=")
        if not equals:
            raise UsageError(f"{given!r} is no PART=REPORT.", "Such as quarter.parquet=quarter.json.")
        rows.append({"lines": 0, **_size(find_pack(part)), **_rates(Path(report))})
    rows.sort(key=lambda row: row["characters"])
    a, b = power_law([row["characters"] for row in rows], [row["cer"] for row in rows])
    most = rows[-1]["characters"]
    out.table(
        "zoo.htr.learning-curve/1",
        rows,
        {
            "characters": lambda row: str(row["characters"]),
            "lines": lambda row: str(row["lines"]),
            "CER %": lambda row: f"{100 * row['cer']:.2f}",
            "95 %": lambda row: f"{100 * row['interval'][0]:.2f} to {100 * row['interval'][1]:.2f}",
        },
        right=("characters", "lines", "CER %", "95 %"),
    )
    output.note(f"CER falls as characters ** -{b:.2f}; twice as many as {most}: {100 * a * (2 * most) ** -b:.2f} %")


def _size(path: Path) -> dict[str, int]:
    from zoo_core.io.packs import open_pack

    texts = [row["text"] for row in open_pack(path, plain_column="text", suffixes={".txt"}).examples(["text"])]
    return {"lines": len(texts), "characters": sum(map(len, texts))}


def _rates(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is no report: it is larger than {MOST_BYTES >> 20} MiB.")
        data = json.loads(path.read_text(encoding="utf-8"))
        return {"cer": float(data["cer"]), "interval": [float(x) for x in data["intervals"]["cer"]]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no report ({error}).", "zoo eval ID --data PACK -o REPORT.json writes one."
        ) from error


if __name__ == "__main__":
    main(command=group, name="python -m zoo_htr.learning_curve")
