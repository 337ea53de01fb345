"""Training lines: read from packs or folders, checked, and kept as bytes in one tensor on the device.

A pack has the columns image (encoded) and text, and may have corpus, writer and split; see docs/training-htr.md. A
folder may instead hold pairs `a.png` and `a.gt.txt`, as kraken, Calamari and Tesseract use them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_core.errors import InputError
from zoo_core.io.packs import open_pack
from zoo_htr.alphabet import Alphabet, normal
from zoo_htr.normalise import HEIGHT, PAPER_SHARE, Pixels, prepare

LOG = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
TRUTH = ".gt.txt"
LONGEST_TEXT = 160  # characters
WIDEST = 2432  # columns
NAMED = 5  # how many lines a message names
COLUMNS = ("corpus", "writer", "split")


@dataclass(frozen=True)
class Line:
    """One line with its text.

    Args:
        name: for messages.
        text: as `zoo_htr.alphabet.normal` gives it.
        pixels: (64, w) uint8, prepared.
        corpus: where it is from; batches are balanced over corpora.
        writer: whose hand; lines are only joined within one.
    """

    name: str
    text: str
    pixels: Pixels
    corpus: str = ""
    writer: str = ""


def read_lines(packs: Sequence[Path], split: str, *, corpus: str | None = None) -> list[Line]:
    """Read one split of packs or folders.

    Args:
        packs: parquet files, folders in the form of packs, or folders of pairs. Without a column split, a tenth of
            the lines (at least one), chosen by a hash of their names, is the split val.
        split: train, val or test.
        corpus: overrules the packs' own.

    Raises:
        InputError: a pack is missing or damaged, a picture cannot be read, or no line is of this split.
    """
    lines = []
    with ThreadPoolExecutor() as pool:
        for path in packs:
            rows = _of_split(list(_rows(path)), split)
            encoded = [(row["image"], f"{path}, {row['name']}") for row in rows]
            for row, pixels in zip(rows, pool.map(_decoded, encoded), strict=True):
                lines.append(
                    Line(
                        f"{path.name}:{row['name']}",
                        normal(row["text"]),
                        pixels,
                        corpus or str(row.get("corpus") or path.stem),
                        str(row.get("writer") or ""),
                    )
                )
    if not lines:
        raise InputError(f"{', '.join(map(str, packs))}: no line of split {split!r}.", "Add some, or name other packs.")
    return lines


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    truths = sorted(path.glob(f"*{TRUTH}")) if path.is_dir() else []
    if truths:
        yield from map(_pair, truths)
        return
    pack = open_pack(path, plain_column="image", suffixes=IMAGE_SUFFIXES | {".txt"})
    yield from pack.examples(["image", "text", *(column for column in COLUMNS if column in pack.columns)])


def _pair(truth: Path) -> dict[str, Any]:
    stem = truth.name.removesuffix(TRUTH)
    pictures = [path for suffix in IMAGE_SUFFIXES if (path := truth.with_name(stem + suffix)).is_file()]
    if len(pictures) != 1:
        raise InputError(f"{truth} has {len(pictures)} pictures of its name.", "A pair is a.png and a.gt.txt.")
    try:
        return {"name": stem, "image": pictures[0].read_bytes(), "text": truth.read_text(encoding="utf-8-sig")}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{truth} cannot be read ({error}).", "Check its permissions and encoding.") from error


def _of_split(rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    if rows and "split" in rows[0]:
        return [row for row in rows if row["split"] == split]
    # a hash, so that the order of the rows does not matter
    by_hash = sorted(rows, key=lambda row: (zlib.crc32(row["name"].encode()), row["name"]))
    held_out = max(1, len(rows) // 10)
    return {"val": by_hash[:held_out], "train": by_hash[held_out:]}.get(split, [])


def _decoded(encoded: tuple[bytes, str]) -> Pixels:
    from PIL import Image

    data, origin = encoded
    try:
        with Image.open(io.BytesIO(data)) as image:
            return prepare(np.asarray(image.convert("L")))
    except (OSError, ValueError) as error:
        raise InputError(f"{origin}: not a readable image ({error}).", "Take it out of the pack.") from error


def usable(lines: list[Line], alphabet: Alphabet) -> list[Line]:
    """Return the lines that CTC can learn from, and say which ones it cannot and why.

    Left out are lines without text or with characters beyond the alphabet, wider than 2,432 columns or longer than 160
    characters, and those with more characters (plus one for each pair of equal neighbours) than frames.

    Raises:
        InputError: nothing is left.
    """
    kept: list[Line] = []
    reasons: dict[str, list[str]] = {}
    for line in lines:
        known, width = not alphabet.unknown(line.text), line.pixels.shape[1]
        label = alphabet.encode(line.text) if known else []
        if not known:
            reason = "with characters that are not in the alphabet"
        elif not label:
            reason = "without text"
        elif width > WIDEST or len(label) > LONGEST_TEXT:
            reason = f"wider than {WIDEST} columns or longer than {LONGEST_TEXT} characters"
        elif frames_needed(label) > -(-width // 4):
            reason = "with more characters than frames"
        else:
            kept.append(line)
            continue
        reasons.setdefault(reason, []).append(line.name)
    for reason, names in reasons.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        LOG.warning("left out %d lines %s: %s%s", len(names), reason, ", ".join(names[:NAMED]), more)
    if not kept:
        raise InputError("No line is left to train on.", "See the warnings above.")
    return kept


def part_of(name: str, parts: int) -> int:
    """Return which of so many parts of the data a line belongs to, by a hash of its name."""
    return zlib.crc32(name.encode()) % parts


def frames_needed(label: list[int]) -> int:
    """Return the least number of frames that can show a label: its length, and a blank between equal neighbours."""
    return len(label) + sum(a == b for a, b in pairwise(label))


def fingerprint(lines: list[Line]) -> str:
    """Return a hash of all pixels and texts, in order."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line.name}\0{line.text}\0{line.pixels.shape[1]}\0".encode())
        digest.update(line.pixels.tobytes())
    return digest.hexdigest()


def scribbles(count: int, alphabet: Alphabet, seed: int) -> list[Line]:
    """Make lines of bar codes, a pattern a symbol: enough to see a loss fall where there is no data and no font."""
    random = np.random.default_rng(seed)
    letters = [symbol for symbol in alphabet.symbols[1:] if symbol.isalpha()][:6]
    shapes = np.random.default_rng(0).random((len(letters), 4, 3)) < 0.5
    lines = []
    for number in range(count):
        chosen = random.integers(0, len(letters), int(random.integers(2, 5)))
        ink = np.concatenate([np.pad(np.kron(shapes[i], np.ones((8, 5))), ((16, 16), (3, 3))) for i in chosen], axis=1)
        pixels = (225 - 170 * ink + random.normal(0, 4, ink.shape)).clip(0, 255).astype(np.uint8)
        lines.append(Line(f"scribble-{number}", "".join(letters[i] for i in chosen), pixels, "scribbles"))
    return lines


class LineStore:
    """All lines as bytes in one tensor on the device, with their labels; gathers batches without the host.

    Args:
        lines: usable ones.
        alphabet: of the labels.
        device: where everything lives.
    """

    def __init__(self, lines: list[Line], alphabet: Alphabet, device: torch.device) -> None:
        labels = [alphabet.encode(line.text) for line in lines]
        self.space = alphabet.symbols.index(" ") if " " in alphabet.symbols else None
        self.names = [line.name for line in lines]
        self.widths_cpu = torch.tensor([line.pixels.shape[1] for line in lines])
        self.lengths_cpu = torch.tensor([len(label) for label in labels])
        self.needed_cpu = torch.tensor([frames_needed(label) for label in labels])
        flat = np.concatenate([line.pixels.reshape(-1) for line in lines])
        self.pixels = torch.from_numpy(flat).to(device)
        areas = self.widths_cpu * HEIGHT
        self.starts = (areas.cumsum(0) - areas).to(device)
        self.widths, self.lengths = self.widths_cpu.to(device), self.lengths_cpu.to(device)
        self.paper = torch.tensor([_paper(line.pixels) for line in lines], device=device)
        table = torch.zeros(len(lines), max(map(len, labels)), dtype=torch.long)
        for row, label in zip(table, labels, strict=True):
            row[: len(label)] = torch.tensor(label)
        self.labels = table.to(device)

    def __len__(self) -> int:
        return len(self.names)

    def ink(self, lines: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return paper tone minus grey, in grey levels, at whole places of lines; 0 outside of them.

        Args:
            lines: (B,) int64.
            rows: int64, broadcasts with columns to (B, h, w).
            columns: as rows.
        """
        width = self.widths[lines][:, None, None]
        inside = (rows >= 0) & (rows < HEIGHT) & (columns >= 0) & (columns < width)
        place = self.starts[lines][:, None, None] + rows * width + columns
        grey = self.pixels[torch.where(inside, place, 0)].float()
        return torch.where(inside, self.paper[lines][:, None, None] - grey, 0.0)


def _paper(pixels: Pixels) -> float:
    return float(np.quantile(pixels, PAPER_SHARE, method="inverted_cdf"))
